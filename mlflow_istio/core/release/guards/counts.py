"""What both sides' counters have grown by between two looks: what a guard's test takes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import (
    ERRORS,
    LATENCY,
    REQUESTS,
    STREAMS,
    UNFINISHED,
    KpiCounts,
    bucket_counts,
    bucket_series,
    kpi_counts,
)
from mlflow_istio.errors import InvalidInput

Growth = Mapping[str, float]
"""Series to how much it has grown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionCounts:
    """One side's counts in an interval.

    Attributes:
        growth: How much each of its series has grown.
        idle: Whether it had no traffic, so that a series it lacks is no events rather than no data.
    """

    growth: Growth = field(default_factory=dict)
    idle: bool = False

    @property
    def requests(self) -> int:
        """Answers given."""
        return round(self.growth.get(REQUESTS, 0))

    @property
    def failed(self) -> int:
        """Failed answers, of which a few may be ahead of the requests: a scrape is no single instant."""
        return round(self.growth.get(ERRORS, 0))

    @property
    def errors(self) -> int:
        """Failed ones of these requests, at most all."""
        return min(self.requests, self.failed)

    def histogram(self, edges: Sequence[float], measure: str = LATENCY) -> Buckets | None:
        """How slow its answers were, or how else a measure of them was; None without a histogram, or one with these edges."""
        counts = bucket_counts(measure, {series: round(value) for series, value in self.growth.items()})
        if not counts and self.idle:
            return Buckets(edges=(*edges, float("inf")), counts=(0,) * (len(edges) + 1))
        try:
            buckets = Buckets.from_cumulative(counts)
        except InvalidInput:
            return None
        return buckets if set(edges) <= set(buckets.edges) else None

    def streams(self) -> tuple[int, int] | None:
        """Of its streamed answers those that were cut, and all; None when the source doesn't know."""
        if STREAMS not in self.growth:
            return (0, 0) if self.idle else None
        ended = round(self.growth[STREAMS])
        return min(ended, round(self.growth.get(UNFINISHED, 0))), ended

    def kpi(self, name: str) -> KpiCounts | None:
        """Its counts of a KPI; None when the source has none of it."""
        counts = kpi_counts(self.growth, name)
        if counts is None and self.idle:
            return KpiCounts(n=0, events=0)
        return counts


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalCounts:
    """Both sides' counts between two complete looks.

    Attributes:
        candidate: The candidates' counts, together.
        stable: Those of what the candidate is compared with.
        seconds: How long the interval was: a look without data joins it to the next one.
        mixed: Whether events may still be of observations that had other shares of the traffic.
        warm: Whether the candidate had answered enough before, so that its latency can be compared.
        comparable: Whether a replica of each side had about as much to answer, so that latency tells of versions, not of loads.
    """

    candidate: VersionCounts
    stable: VersionCounts
    seconds: float
    mixed: bool = False
    warm: bool = True
    comparable: bool = True


def histogram_series(edges: Sequence[float], measure: str = LATENCY) -> frozenset[str]:
    """The series that a measure's histogram with these edges needs."""
    return frozenset(bucket_series(measure, edge) for edge in (*edges, float("inf"))) if edges else frozenset()


def histogram_of(reading: Reading, measure: str = LATENCY) -> dict[str, int]:
    """All answers that a deployment's counters tell of, by upper edge; empty without a histogram of the measure."""
    total: dict[str, int] = {}
    for counters in reading.values():
        for edge, count in bucket_counts(measure, {series: round(value) for series, value in counters.items()}).items():
            total[edge] = total.get(edge, 0) + count
    return total


def kpi_series(name: str) -> frozenset[str]:
    """Every series that a KPI may have."""
    return frozenset(f"kpi/{name}/{part}" for part in ("n", "events", "sum", "sum_squares"))
