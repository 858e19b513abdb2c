"""What a model version says of itself, from its own MLmodel file."""

from __future__ import annotations

import tempfile
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_istio.adapters.mlflow.client_calls import LateClient, mapped, registry_of
from mlflow_istio.adapters.mlflow.model_files import read_model, read_text
from mlflow_istio.core.basics.model_card import Column, ModelCard
from mlflow_istio.core.basics.model_version import parse_label
from mlflow_istio.errors import NotFound


class MlflowModels:
    """``ports.Models`` on MLflow.

    Args:
        tracking_uri: Tracking server; None: MLflow's own setting.
        registry_uri: Model registry; None: MLflow's own setting.
    """

    def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        self._connected = LateClient(tracking_uri, registry_uri)

    @property
    def _client(self) -> MlflowClient:
        return self._connected()

    def card(self, label: str) -> ModelCard:
        """See ``ports.Models``."""
        version = parse_label(label)
        with mapped(f"read models:/{label}"):
            source = self._source(version.model, version.version)
            with tempfile.TemporaryDirectory() as scratch:
                return _card(f"models:/{label}", source, scratch)

    def _source(self, model: str, version: int) -> str:
        try:
            return str(self._client.get_model_version_download_uri(model, str(version)))
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise NotFound(
                f"there is no models:/{model}/{version}: deploy a version that is there (asked the registry at "
                f"{registry_of(self._client)})"
            ) from exc


def _card(uri: str, source: str, scratch: str) -> ModelCard:
    model, _ = read_model(uri, source, scratch)
    serving = (model.saved_input_example_info or {}).get("serving_input_path")
    example = read_text(uri, source, str(serving), scratch) if serving else None
    signature = model.signature
    return ModelCard(
        inputs=_columns(signature.inputs) if signature else None,
        outputs=_columns(signature.outputs) if signature else None,
        example=example,
    )


def _columns(schema: Any) -> tuple[Column, ...] | None:
    if schema is None:
        return None
    columns = []
    for position, spec in enumerate(schema.inputs):
        shape = getattr(spec, "shape", None)
        kind = f"tensor {spec.type} {shape}" if shape is not None else str(getattr(spec.type, "name", spec.type))
        columns.append(
            Column(name=spec.name or str(position), type=kind, required=bool(getattr(spec, "required", True)))
        )
    return tuple(columns)
