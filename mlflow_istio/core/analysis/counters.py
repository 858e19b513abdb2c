"""Raw counters to interval counts: difference per series, then sum.

Prometheus' `rate` and `increase` extrapolate to the edges of their window, which turns counts into estimates; the tests
here need counts. So poll the raw counters and subtract. A counter that falls has restarted from 0, and when one
counter of a source falls then all of that source's did (it is one process). What happened between the last poll and a
restart is lost, and a restart that has already overtaken the old value can't be seen: poll often.

What a user says was counted so far is no counter of a process: a fall there is a correction or a mistake, and taking it
for a restart would count nearly all of it a second time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_istio.core.analysis.measures import totals_of
from mlflow_istio.core.basics.stored import stored
from mlflow_istio.errors import InvalidInput, MetricsError

Reading = Mapping[str, Mapping[str, float]]
"""`{source: {series: value}}`: the source is what restarts as one (a pod, a proxy), the series names the counter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterState:
    """The last value seen of each counter; a plain `{source: {series: value}}`, so it is JSON as it is.

    A series that vanishes (a scrape failed, a pod is gone) keeps its last value, so it isn't counted twice when it
    comes back.

    Attributes:
        last: The last values; None before the first reading.
    """

    last: Reading | None = None

    def advanced(self, reading: Reading) -> tuple["CounterState", dict[str, float]]:
        """Take in a reading.

        The first reading is the base line and counts nothing, so it must be complete. A series that appears later
        counts in full: Istio and Envoy create a series (the first 503 of a version) only when it happens.

        Args:
            reading: The raw counters now.

        Returns:
            The new state, and how much each series has grown since the last reading, summed over sources: a whole number
            for what counts whole things, and any for a sum of values.

        Raises:
            InvalidInput: If a counter isn't a finite number >= 0.
        """
        for source, counters in reading.items():
            for series, value in counters.items():
                if not (math.isfinite(value) and value >= 0):
                    raise InvalidInput(f"counter {series} of {source} is {value}: not a finite number >= 0")
        if self.last is None:
            return CounterState(last={source: dict(counters) for source, counters in reading.items()}), {}
        merged = {source: dict(counters) for source, counters in self.last.items()}
        grown: dict[str, float] = {}
        for source, counters in reading.items():
            before = self.last.get(source, {})
            restarted = any(value < before.get(series, 0.0) for series, value in counters.items())
            base: Mapping[str, float] = {} if restarted else before
            for series, value in counters.items():
                grown[series] = grown.get(series, 0.0) + value - base.get(series, 0.0)
            merged[source] = dict(counters) if restarted else {**before, **counters}
        return CounterState(last=merged), {series: _whole(value) for series, value in grown.items()}


def check_totals(before: Mapping[str, CounterState], readings: Mapping[str, Reading]) -> None:
    """Refuse a user's running totals that have fallen: what was judged by them can't be taken back.

    Args:
        before: The counters of each deployment at the last look.
        readings: Its counters now.

    Raises:
        MetricsError: Names the KPI, the deployment and what fell.
    """
    for deployment, reading in readings.items():
        last = (before[deployment].last if deployment in before else None) or {}
        for source, counters in reading.items():
            name = totals_of(source)
            for series, value in counters.items() if name is not None else ():
                old = last.get(source, {}).get(series, 0.0)
                if value < old:
                    raise MetricsError(
                        f"KPI '{name}' of '{deployment}' had {series.rpartition('/')[2]}={old:.15g} and has {value:.15g} now, but "
                        "counts so far only grow: give what was counted since the release began, with what was counted before a "
                        "restart, or start another release"
                    )


LAST_VALUES = stored(
    write=lambda states: {name: state.last for name, state in states.items()},
    read=lambda data, _context: {name: CounterState(last=last) for name, last in data.items()},
)
"""``metadata`` of a field that holds names and their states: each is stored as its last values."""


def _whole(value: float) -> float:
    """The value, as the whole number that it is but for the rounding of doubles."""
    nearest = round(value)
    return nearest if abs(value - nearest) <= 1e-9 * max(1.0, abs(value)) else value
