"""The stable's raw counters as each look keeps them beside its figures, and back: what past releases remember of its traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_series
from mlflow_istio.core.release.evidence import Evidence
from mlflow_istio.core.release.plan import ReleasePlan

_PREFIX = "counters/stable/"
_ALL = latency_series(float("inf"))
_ALL_KEPT = _ALL.replace("+", "")
"""MLflow's names of metrics have no plus sign."""


def counters_kept(plan: ReleasePlan, evidence: Evidence) -> dict[str, float]:
    """The stable's counters now, summed over the processes that count, as flat metrics for MLflow."""
    state = evidence.counters.get(plan.stable)
    total: dict[str, float] = {}
    for counters in (state.last or {}).values() if state else ():
        for series, value in counters.items():
            if series in (REQUESTS, ERRORS) or series.startswith("le/"):
                name = _PREFIX + (_ALL_KEPT if series == _ALL else series)
                total[name] = total.get(name, 0.0) + value
    return total


def readings_kept(points: Mapping[str, Sequence[tuple[int, float, float]]], interval: float) -> list[Reading]:
    """What ``counters_kept`` wrote, as readings an interval apart.

    One is empty where a look is missing or late, or where counting began anew.

    Args:
        points: Metric to (number of the look, seconds since any time, value), by look.
        interval: Seconds between two looks, as planned.
    """
    looks: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    for name, values in points.items():
        if name.startswith(_PREFIX):
            series = name.removeprefix(_PREFIX)
            for look, time, value in values:
                looks.setdefault(look, {})[_ALL if series == _ALL_KEPT else series] = value
                times[look] = time
    readings: list[Reading] = []
    last: Mapping[str, float] = {}
    for look in range(min(looks, default=0), max(looks, default=-1) + 1):
        now = looks.get(look, {})
        fell = any(
            value < last.get(series, 0.0) for series, value in now.items()
        )  # of one process; the others' can't be told
        late = look in times and look - 1 in times and times[look] - times[look - 1] > 2 * interval
        if fell or late:
            readings.append({})
        readings.append({"looks": now} if now else {})
        last = now
    return readings
