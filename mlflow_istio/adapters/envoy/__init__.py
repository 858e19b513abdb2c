"""Envoy's own statistics as a source of metrics, and who calls an endpoint as its proxies saw it.

May import what adapters may. Never in here: Envoy's configuration; that is the local mesh's (adapters.local.envoy).
"""
