"""What keeps callers at a gateway from the pinned routes and the probe's: a key that a request must carry beside their header.

Envoy compares, so the key stands in the routes' matches: whoever may read the VirtualService can read it. Everything of ours that
shows or keeps objects elsewhere masks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import GUARD_KEY, masked

KEY_HEADER = "x-mlflow-istio-key"
OPEN = "open"
"""Instead of a key: any caller may pin, because somebody said so."""
_NEVER: Object = {"regex": "$masked"}
"""A match that no value of a header has: nothing comes after the end."""


def is_key(guard: str | None) -> bool:
    """Whether it is a key that can be asked for, not the word ``open``, nor a key that was masked on its way."""
    return guard is not None and GUARD_KEY.fullmatch(guard) is not None


def guard_match(guard: str | None) -> dict[str, Object]:
    """The header matches that a guard adds to a route's; none where anybody may.

    Where the key was lost, as in an object that came back from Git, nobody may.
    """
    if guard is None or guard == OPEN:
        return {}
    return {KEY_HEADER: {"exact": guard} if is_key(guard) else _NEVER}


def key_headers(guard: str | None) -> dict[str, str]:
    """The headers that a request through the guard carries."""
    return {KEY_HEADER: guard} if guard is not None and is_key(guard) else {}


def has_gateway(virtual_service: Mapping[str, Any]) -> bool:
    """Whether callers from outside reach a VirtualService: at a gateway of its own."""
    gateways = (virtual_service.get("spec") or {}).get("gateways") or ()
    return any(gateway != "mesh" for gateway in gateways)


def without_keys(value: Any) -> Any:
    """A JSON value without any key.

    A text has it masked, a match that asked for it lets nobody through, and a variable that held it is gone.
    """
    if isinstance(value, str):
        return masked(value) if GUARD_KEY.search(value) else value
    if isinstance(value, list):
        return [without_keys(item) for item in value if not _is_secret_variable(item)]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and is_key(value.get("exact") if isinstance(value.get("exact"), str) else None):
        return dict(_NEVER)
    return {key: without_keys(item) for key, item in value.items()}


def _is_secret_variable(item: Any) -> bool:
    return isinstance(item, dict) and "name" in item and isinstance(item.get("value"), str) and is_key(item["value"])
