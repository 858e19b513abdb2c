"""Whether what is counted of a KPI is what its guard judges: events of observations, or sums of numbers."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.release.plan import ReleasePlan

_OTHER = {
    "rate": ("sum", "sums of numbers (n, sum, sum of squares), but its guard counts events", "mean"),
    "mean": ("events", "events (n, events), but its guard compares means", "rate"),
}
"""Kind of a guard to the series that tells that another kind is needed, to what is said of it, and to that kind."""

KPI_KINDS = frozenset(_OTHER)
"""Kinds of guards that judge a KPI."""


def misread_kpi(plan: ReleasePlan, readings: Mapping[str, Reading]) -> str:
    """What is wrong with the first KPI whose counts are of the other kind than its guard, in one sentence; else nothing."""
    series = {series for reading in readings.values() for counters in reading.values() for series in counters}
    for guard in plan.guards:
        if guard.kind in _OTHER:
            part, what, kind = _OTHER[guard.kind]
            if f"kpi/{guard.name}/{part}" in series:
                return (
                    f"KPI '{guard.name}' gives {what}, so it can't be judged: list it in 'analysis' as "
                    f'{{"guard": "{kind}", "name": "{guard.name}"}}'
                )
    return ""
