"""What people read about options: the text of ``mlflow deployments help``, and what flags and tables say, all from the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

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
        parts.append(f"Options of {verb} (-C name=value)\n{describe_options(model)}\n")
    return "\n".join(parts)


def describe_options(model: type[BaseModel]) -> str:
    """One line per option: name, description, default."""
    lines = []
    for name, field in model.model_fields.items():
        default = default_word(field)
        lines.append(f"  {name:<17} {field.description}{f' [default: {default}]' if default else ''}")
    return "\n".join(lines)


def sentence(field: FieldInfo) -> str:
    """An option's description as the help of a flag has it."""
    text = field.description or ""
    return f"{text[:1].upper()}{text[1:]}."


def default_word(field: FieldInfo) -> str:
    """An option's default as people write it; empty where there is none."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default is None or default in ("", (), {}, []):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
