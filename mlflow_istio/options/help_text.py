"""The text of ``mlflow deployments help``, with option tables made from the option models."""

from __future__ import annotations

_HEAD = """\
Release MLflow model versions through Istio.

Targets
  istio-local            a mesh on this machine: real Envoy, one model-server process per replica
  istio-local:/MESH      another one, with its own ports and state (under $MLFLOW_ISTIO_HOME, default ~/.mlflow-istio)
  istio                  Kubernetes with Istio: the current context and namespace
  istio:/NAMESPACE       the current context, another namespace
  istio://CONTEXT/NS     another context (percent-encoded), another namespace

The main job
  mlflow deployments create -t istio-local --endpoint churn --name churn-v1 -m models:/churn/1
  mlflow deployments create -t istio-local --endpoint churn --name churn-v2 -m models:/churn/2 -C strategy=canary -C weight=10
  mlflow deployments update-endpoint -t istio-local --endpoint churn -C weight=50
  mlflow deployments update-endpoint -t istio-local --endpoint churn -C action=promote
  mlflow-istio status churn -t istio-local
  mlflow-istio history churn -t istio-local

Every option has a default in the environment: MLFLOW_ISTIO_<OPTION>.
"""


def target_help_text() -> str:
    """The whole text; imports the option models only here."""
    from mlflow_istio.options import base

    parts = [_HEAD]
    for verb, model in (
        ("create", base.CreateOptions),
        ("adopt (mlflow-istio)", base.AdoptOptions),
        ("update", base.UpdateOptions),
        ("update-endpoint", base.UpdateEndpointOptions),
        ("delete", base.DeleteOptions),
        ("delete-endpoint (mlflow-istio for force)", base.DeleteEndpointOptions),
    ):
        parts.append(f"Options of {verb} (-C name=value)\n{base.describe_options(model)}\n")
    return "\n".join(parts)
