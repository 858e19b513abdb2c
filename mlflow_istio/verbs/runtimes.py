"""The kinds of model servers, as plain values."""

from __future__ import annotations

from typing import Any

from mlflow_istio.core.mesh.recorder_beside import is_recordable
from mlflow_istio.core.moves.strategies import STRATEGIES
from mlflow_istio.core.runtime.profiles import RUNTIMES
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.wiring.connection import load_runtime


def _recorded_by(runtime: Runtime) -> str:
    """Who keeps what a shadow is compared by, where recording is asked for; empty where nobody can."""
    if runtime.records:
        return "server"
    return "recorder" if is_recordable(runtime) else ""


def runtime_views(profile: str | None = None) -> list[dict[str, Any]]:
    """Every kind that is known by name, or the one of a file; each with the strategies that it can be released by.

    Raises:
        InvalidInput: The file says what can't be.
    """
    runtimes = [load_runtime(profile)] if profile is not None else list(RUNTIMES.values())
    return [
        {
            "name": runtime.name,
            "about": runtime.about,
            "command": list(runtime.command),
            "args": list(runtime.args),
            "image": runtime.image,
            "port": runtime.port,
            "readiness": runtime.readiness,
            "scoring": runtime.scoring,
            "env": dict(runtime.env),
            "streams": runtime.streams or runtime.body == "mlflow",
            "version header": "server" if runtime.names_version else "route",
            "strategies": [name for name in STRATEGIES if _recorded_by(runtime) or name != "shadow"],
            "recorded by": _recorded_by(runtime),
        }
        for runtime in runtimes
    ]
