"""Istio's objects as Envoy's configuration, as istiod would write it, and the running Envoy that takes it.

May import adapters.local's values (workloads, fields, state). Never in here: an object of ours told from an object of the user's.
"""
