"""A cluster on this machine: the same objects, carried out by real Envoy and model-server processes.

May import what adapters may. Never in here: knowledge of releases; it carries out objects, whoever wrote them.
"""
