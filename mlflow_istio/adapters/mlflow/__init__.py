"""MLflow as registry, ledger and source of models; the only room that speaks to MLflow's client.

May import what adapters may. Never in here: what a tag or an alias should say (core.endpoint.registry_state).
"""
