"""The kind ``gross``: a candidate that fails, or is slow, beyond any doubt."""

from __future__ import annotations

from dataclasses import replace

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.gross import FAILING, IN_A_ROW, SLOW, SLOWER, GrossFailure, gross_edge
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts, histogram_of, histogram_series

ENOUGH_ANSWERS = 20
"""Answers of the stable from which on its median is known."""


class Gross(GuardKind[GrossFailure]):
    """Two looks that need no statistics."""

    name = "gross"
    test = GrossFailure
    reads = ()

    def describe(self, terms: GuardTerms) -> str:
        """When it fires."""
        if terms.streams:
            return f"{IN_A_ROW} looks in a row with at least {FAILING:.0%} failed requests, while the stable is sound"
        return (
            f"{IN_A_ROW} looks in a row with at least {FAILING:.0%} failed requests, or more than {SLOW:.0%} of the answers slower "
            f"than about {SLOWER:g} times the stable's median, while the stable is sound"
        )

    def start(self, terms: GuardTerms, settings: TestSettings) -> GrossFailure:
        """A rule that has seen nothing."""
        return GrossFailure()

    def learn(self, terms: GuardTerms, test: GrossFailure, stable: Reading) -> GrossFailure:
        """The edge of a grossly slow answer, from the stable's median."""
        history = {} if terms.streams else histogram_of(stable)
        if test.edge is not None or history.get("+Inf", 0) < ENOUGH_ANSWERS:
            return test
        edge = gross_edge(Buckets.from_cumulative(history))
        return test if edge is None else replace(test, edge=edge)

    def series(self, terms: GuardTerms, test: GrossFailure) -> frozenset[str]:
        """The histogram at its edge."""
        return frozenset() if test.edge is None else histogram_series((test.edge,))

    def update(self, terms: GuardTerms, test: GrossFailure, counts: IntervalCounts) -> GrossFailure:
        """Take in both sides' counts; without a histogram, failures alone."""
        candidate, stable = counts.candidate, counts.stable
        failed = ((candidate.errors, candidate.requests), (stable.errors, stable.requests))
        if test.edge is None or not counts.comparable:
            return test.update(failed)
        mine, others = candidate.histogram((test.edge,)), stable.histogram((test.edge,))
        if mine is None or others is None:
            return test.update(failed)
        edge = test.edge
        return test.update(failed, ((mine.slower_than(edge), mine.total), (others.slower_than(edge), others.total)))
