"""Release MLflow model versions through Istio: canary, A/B/n, blue-green, shadow.

MLflow inspects this module for ``run_local``, ``target_help`` and the one client class. They are imported when asked for, so that
``mlflow-istio status`` does not pay for MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_istio.client.plugin import IstioDeploymentClient, run_local, target_help

__version__ = "0.1.0"

__all__ = ["IstioDeploymentClient", "run_local", "target_help"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mlflow_istio.client import plugin

        return getattr(plugin, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
