"""The kinds of model servers, as plain values."""

from __future__ import annotations

from typing import Any

from mlflow_istio.core.moves.strategies import STRATEGIES
from mlflow_istio.core.runtime.profiles import RUNTIMES
from mlflow_istio.wiring.connection import load_runtime


def runtime_views(profile: str | None = None) -> list[dict[str, Any]]:
    """Every kind that is known by name, or the one of a file; each with the strategies that it can be released by.

    Raises:
        InvalidInput: The file says what can't be.
    """
    runtimes = [load_runtime(profile)] if profile is not None else list(RUNTIMES.values())
    return [
        {
            "name": one.name,
            "about": one.about,
            "command": list(one.command),
            "args": list(one.args),
            "image": one.image,
            "port": one.port,
            "readiness": one.readiness,
            "scoring": one.scoring,
            "env": dict(one.env),
            "streams": one.streams or one.body == "mlflow",
            "version header": "server" if one.names_version else "route",
            "strategies": [name for name in STRATEGIES if one.records or name != "shadow"],
        }
        for one in runtimes
    ]
