"""Each verb as ``Endpoint -> Endpoint``: strategies, transitions, policies, the way back, adoption, claims under a shared host.

May import mesh and what lies below it. Never in here: a write, or the question whether pods are ready.
"""
