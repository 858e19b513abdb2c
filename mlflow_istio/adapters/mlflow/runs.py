"""MLflow runs beyond the ledger: figures of each look as metrics, texts as artifacts, and tags that people set."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from mlflow_istio.adapters.mlflow.client_calls import LateClient, again, mapped, registry_of
from mlflow_istio.core.basics.model_version import parse_label
from mlflow_istio.errors import NotFound
from mlflow_istio.ports.runs import Figure


class MlflowRuns:
    """``ports.Runs`` on MLflow.

    Args:
        tracking_uri: Tracking server; None: MLflow's own setting.
        registry_uri: Model registry; None: MLflow's own setting.
    """

    def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        self._connected = LateClient(tracking_uri, registry_uri)

    @property
    def _client(self) -> MlflowClient:
        return self._connected()

    def keep(
        self,
        run: str,
        *,
        figures: Mapping[str, float] | None = None,
        step: int = 0,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """See ``ports.Runs``."""
        with mapped("write to the release's run"):
            if figures:
                now = int(time.time() * 1000)
                metrics = [Metric(key=key, value=value, timestamp=now, step=step) for key, value in figures.items()]
                self._log(run, metrics)
            for path, text in (texts or {}).items():
                self._client.log_text(run, text, path)

    def figures(self, run: str) -> Mapping[str, Sequence[Figure]]:
        """See ``ports.Runs``."""
        with mapped("read the release's run"):
            try:
                names = self._client.get_run(run).data.metrics
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise NotFound(f"there is no MLflow run '{run}'") from exc
            return {name: _points(self._client.get_metric_history(run, name)) for name in sorted(names)}

    def text(self, run: str, path: str) -> str | None:
        """See ``ports.Runs``."""
        folder = path.rpartition("/")[0] or None
        with mapped("read the release's run"), tempfile.TemporaryDirectory() as here:
            if path not in {file.path for file in self._client.list_artifacts(run, folder)}:
                return None
            return Path(self._client.download_artifacts(run, path, here)).read_text(encoding="utf-8")

    def tag(self, label: str, key: str) -> str | None:
        """See ``ports.Runs``."""
        version = parse_label(label)
        with mapped(f"read {version.uri}"):
            try:
                registered = self._client.get_model_version(version.model, str(version.version))
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise NotFound(
                    f"there is no model version {version.uri} in the registry at {registry_of(self._client)}"
                ) from exc
            value = registered.tags.get(key)
            return None if value is None else str(value)

    @again
    def _log(self, run: str, metrics: list[Metric]) -> None:
        self._client.log_batch(run, metrics=metrics)


def _points(history: Sequence[Metric]) -> tuple[Figure, ...]:
    points = [
        Figure(time=datetime.fromtimestamp(m.timestamp / 1000, timezone.utc), step=m.step, value=m.value)
        for m in history
    ]
    return tuple(sorted(points, key=lambda point: (point.step, point.time)))
