"""The kind ``latency``: slow answers, more often on the candidate than on the stable; and how other histograms are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.latency import LatencyTest, choose_edges
from mlflow_istio.core.analysis.measures import LATENCY
from mlflow_istio.core.release.guards.base import SPEED_KINDS, GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts, histogram_of, histogram_series

ENOUGH_ANSWERS = 20
"""Answers of the stable from which on edges are chosen."""


class Latency(GuardKind[LatencyTest]):
    """Answers slower than a few edges, against the stable's.

    Whoever has the lighter load is faster, and a candidate mostly has; so it may be proven no slower, but never faster.

    Attributes:
        measure: What the histogram is of.
        what: What is counted, for people.
    """

    name = "latency"
    test = LatencyTest
    claims_better = False
    reads = ("margin", "edges")
    proofs = ("odds_ratio", "rate_difference")
    measure: ClassVar[str] = LATENCY
    what: ClassVar[str] = "a slow answer"

    def describe(self, terms: GuardTerms) -> str:
        """The odds that are still acceptable."""
        return f"odds of {self.what} at most {terms.margin:g} times the stable's"

    def start(self, terms: GuardTerms, settings: TestSettings) -> LatencyTest | None:
        """A test at the given edges; without them it waits for the stable's answers."""
        return self._at(terms.edges, terms, settings) if terms.edges else None

    def start_from(self, terms: GuardTerms, settings: TestSettings, stable: Reading) -> LatencyTest | None:
        """A test at edges that part what the stable has answered until now; what comes after is judged by them."""
        edges = _edges(histogram_of(stable, self.measure))
        return self._at(edges, terms, settings) if edges else None

    def series(self, terms: GuardTerms, test: LatencyTest) -> frozenset[str]:
        """The histogram at the test's edges."""
        return histogram_series(test.edges, self.measure)

    def update(self, terms: GuardTerms, test: LatencyTest, counts: IntervalCounts) -> LatencyTest | None:
        """Take in both sides' histograms."""
        candidate, stable = (side.histogram(test.edges, self.measure) for side in (counts.candidate, counts.stable))
        if candidate is None or stable is None:
            return None
        # A stable that has all traffic is known by what it answered before its candidate got any.
        known = (counts.warm and counts.comparable) or counts.candidate.idle or self.name not in SPEED_KINDS
        return test.update(candidate, stable, seconds=counts.seconds) if known else test

    def _at(self, edges: Sequence[float], terms: GuardTerms, settings: TestSettings) -> LatencyTest:
        return self.test.at(edges, phase=settings.phase, margin=terms.margin, overdispersion=settings.overdispersion)


def _edges(history: Mapping[str, int]) -> tuple[float, ...]:
    """Edges that part the answers; where all lie in one wide bucket, its upper edge. None while there are too few."""
    if history.get("+Inf", 0) < ENOUGH_ANSWERS:
        return ()
    buckets = Buckets.from_cumulative(history)
    if any(0 < count < buckets.total for count in buckets.counts):
        return choose_edges(buckets)
    full = [edge for edge, count in zip(buckets.edges, buckets.counts, strict=True) if count == buckets.total]
    return (full[0],) if full[0] < float("inf") else ()
