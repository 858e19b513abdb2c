"""Calls over HTTP and gRPC that are no third party's protocol: probes of a proxy, predictions, webhooks.

May import ports, core and errors. Never in here: what is done with the answers (releases), or which address is asked (wiring).
"""
