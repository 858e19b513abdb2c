"""What an API server is too old for, said before anything is applied: it would drop the field without a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlflow_istio.adapters.kubernetes.api_calls import Caller
from mlflow_istio.core.basics.objects import name_of
from mlflow_istio.core.mesh.pods import sidecars_in
from mlflow_istio.errors import Unsupported

_NATIVE_SIDECARS = (1, 29)
"""On by default since (Kubernetes documentation, "Sidecar Containers"); before, the pod would wait for a sidecar's end for ever."""


def check_sidecars(caller: Caller, deployment: Mapping[str, Any]) -> None:
    """Refuse a Deployment whose pods have native sidecars where the API server knows none; one that hides its version is believed.

    Raises:
        Unsupported: Names the sidecar and the version.
    """
    template = (deployment.get("spec") or {}).get("template") or {}
    sidecars = sidecars_in(template.get("spec") or {})
    if not sidecars:
        return
    version = _version(caller)
    if version is not None and version < _NATIVE_SIDECARS:
        raise Unsupported(
            f"Deployment '{name_of(deployment)}': container '{sidecars[0]['name']}' is a native sidecar, which needs Kubernetes "
            f"1.29; the API server is {version[0]}.{version[1]}: leave recording out (MLFLOW_ISTIO_RECORD in env)"
        )


def _version(caller: Caller) -> tuple[int, int] | None:
    answer = caller.version() or {}
    numbers = [re.match(r"\d+", str(answer.get(part, ""))) for part in ("major", "minor")]  # some say "29+"
    major, minor = (int(number[0]) if number else None for number in numbers)
    return (major, minor) if major is not None and minor is not None else None
