"""The model server of one replica: MLflow's own scoring app, told apart by version, measured and recordable.

``python -m mlflow_istio.serving`` reads its settings from the environment (:mod:`mlflow_istio.serving.configuration`), so
one container spec serves on Kubernetes and on the local mesh. ``python -m mlflow_istio.serving.beside`` is the recorder in front of
another server (:mod:`mlflow_istio.serving.beside`). May import nothing of ``mlflow_istio`` but ``errors``: a model's
own Python environment sees only these modules. Never in here: knowledge of releases, routes or a registry.
"""
