"""The option ``kpi``: JSON with PromQL from the command line, callables from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.entries import number_at

_KEYS = ("queries", "call", "better", "delta", "margin")
_COUNTED = "counts"
"""Beside the others, where a KPI is looked at once: counts that stand still drive no release."""
_EXAMPLE = '{"bought": {"queries": {"n": "visits_total{version=\\"$deployment\\"}", "events": "..."}}}'


def read_kpis(value: Any) -> tuple[Kpi, ...]:
    """The KPIs that an option gives.

    Args:
        value: None, JSON text, a callable (called ``kpi``), or names with callables or objects: ``queries`` (PromQL by part),
            ``call`` or ``counts`` (deployment to [n, events] or [n, sum, sum of squares] since the release began), and perhaps
            ``better``, ``delta``, ``margin``.

    Raises:
        InvalidInput: Names the KPI and the key.
    """
    if value is None:
        return ()
    if callable(value):
        return (Kpi(name="kpi", call=value),)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as exc:
            where = f"{exc.msg} at character {exc.pos}" if isinstance(exc, json.JSONDecodeError) else exc
            raise InvalidInput(f"option 'kpi' is not JSON ({where}), such as {_EXAMPLE}") from exc
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput(f"option 'kpi' must be JSON of names and KPIs, such as {_EXAMPLE}, not {value!r}")
    return tuple(_kpi(str(name), entry) for name, entry in value.items())


def without_retired_keys(value: Any) -> Any:
    """KPIs as a release of an earlier version stored them, without the key that said nothing (``numeric``)."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: {key: part for key, part in entry.items() if key != "numeric"} if isinstance(entry, Mapping) else entry
        for name, entry in value.items()
    }


def _kpi(name: str, entry: Any) -> Kpi:
    if callable(entry):
        return Kpi(name=name, call=entry)
    if not isinstance(entry, Mapping):
        raise InvalidInput(
            f"option 'kpi': '{name}' must be an object with queries, or a Python callable, not {entry!r}"
        )
    for key in entry:
        if key not in (*_KEYS, _COUNTED):
            raise InvalidInput(
                f"option 'kpi': '{name}' has the unknown key {key!r}: {nearest(str(key), (*_KEYS, _COUNTED))}"
            )
    queries = entry.get("queries", {})
    if not isinstance(queries, Mapping) or not all(isinstance(query, str) for query in queries.values()):
        raise InvalidInput(f"option 'kpi': queries of '{name}' must be PromQL texts by part, not {queries!r}")
    better = entry.get("better", "higher")
    if better not in ("higher", "lower"):
        raise InvalidInput(f"option 'kpi': better of '{name}' is higher or lower, not {better!r}")
    return Kpi(
        name=name,
        queries=dict(queries),
        call=entry.get("call"),
        counts=_counts(name, entry.get(_COUNTED)),
        better=better,
        equivalence_margin=_number(name, "delta", entry.get("delta")),
        margin=_number(name, "margin", entry.get("margin")),
    )


def _counts(name: str, value: Any) -> dict[str, tuple[float, ...]]:
    if value is None:
        return {}
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(each, (list, tuple)) for each in value.values())
    ):
        raise InvalidInput(
            f"option 'kpi': counts of '{name}' must be an object of deployments, each with [n, events] or [n, sum, sum of "
            f"squares], not {value!r}"
        )
    return {str(deployment): tuple(numbers) for deployment, numbers in value.items()}


def _number(name: str, key: str, value: Any) -> float | None:
    if value is None:
        return None
    number = number_at(f"option 'kpi': {key} of '{name}'", value)
    if number < 0:
        raise InvalidInput(f"option 'kpi': {key} of '{name}' must be a number of at least 0, not {value!r}")
    return number
