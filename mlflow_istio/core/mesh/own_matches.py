"""How our own matches stand inside those of the split's route, and how they are read back."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_istio.core.basics.objects import Object, prefix
from mlflow_istio.core.matching.pin_guard import KEY_HEADER
from mlflow_istio.core.matching.probe import PROBE_HEADER
from mlflow_istio.errors import InvalidInput

PROBE = "probe"
"""Last part of the name of the route that answers with the newest change's id."""


def combined(base: Sequence[Object] | None, own: Sequence[Object], route: Object) -> list[Object]:
    """Every own match inside every match of the split's route: (a OR b) AND (c OR d)."""
    if not base:
        return list(own)
    return [both(outer, inner, route) for inner in own for outer in base]


def both(outer: Object, inner: Object, route: Object, *, same: bool = False) -> Object:
    """One match that asks for both; a header is the same in upper and lower case.

    Raises:
        InvalidInput: Both ask for the same header or field; with ``same``, only if they ask for different values.
    """
    ours = inner.get("headers") or {}
    theirs = {header.lower(): wanted for header, wanted in (outer.get("headers") or {}).items()}
    shared = [f"header {h!r}" for h in ours if h.lower() in theirs and not (same and ours[h] == theirs[h.lower()])]
    shared += [f"field {f!r}" for f in inner if f != "headers" and f in outer and not (same and inner[f] == outer[f])]
    if shared:
        raise InvalidInput(f"route '{route.get('name')}' already matches on {shared[0]}: our own match can't add to it")
    headers = {**(outer.get("headers") or {}), **ours}
    return {**outer, **inner, **({"headers": headers} if headers else {})}


def outer_matches(endpoint: str, own: Sequence[Object], base: Object) -> Sequence[Object]:
    """The matches that our routes stand inside of, as of when they were written.

    The probe route tells: its own match is known. The split's route may have got other matches since, from its owner.
    """
    for route in own:
        if route.get("name") == f"{prefix(endpoint)}{PROBE}":
            matches = route.get("match") or []
            return [without_header(without_header(match, PROBE_HEADER), KEY_HEADER) for match in matches]
    return base.get("match") or []


def subtracted(outer: Sequence[Object], written: Sequence[Object]) -> tuple[Object, ...]:
    """Undo ``combined``: our own matches, read back from each group's first."""
    own: list[Object] = []
    first = outer[0] if outer else {}
    for match in written[:: max(1, len(outer))]:
        inner = {key: value for key, value in match.items() if key not in first or key == "headers"}
        for header in first.get("headers", {}):
            inner = without_header(inner, header)
        own.append(inner)
    return tuple(own)


def without_header(match: Object, header: str) -> Object:
    """A match that does not ask for a header."""
    headers = {name: value for name, value in match.get("headers", {}).items() if name != header}
    rest = {key: value for key, value in match.items() if key != "headers"}
    return {**rest, **({"headers": headers} if headers else {})}
