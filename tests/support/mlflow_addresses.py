"""MLflow's own addresses, set for a while and then put back as they were found."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


@contextlib.contextmanager
def mlflow_at(uri: str) -> Iterator[None]:
    """MLflow with this address as tracking server and registry.

    MLflow's setters also write the environment, which child processes inherit, and its getters return a default where
    nothing was set: putting back what a getter said would pin that default, and leave the address in the environment.
    """
    import mlflow
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    environment = {name: os.environ.get(name) for name in _NAMES}
    set_before = tracking._tracking_uri, registry._registry_uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    for name in _NAMES:
        os.environ[name] = uri
    try:
        yield
    finally:
        mlflow.set_tracking_uri(set_before[0])  # type: ignore[arg-type]  # None is "not set", as MLflow starts
        mlflow.set_registry_uri(set_before[1])  # type: ignore[arg-type]
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
