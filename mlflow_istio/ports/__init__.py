"""What the use-cases need from the outside world: one Protocol a module, with the values it speaks.

May import core and errors. Each Protocol has one contract suite (``tests/contract``) that every implementation passes, the
in-memory ones of ``mlflow_istio.testing`` included. Never in here: an implementation.
"""
