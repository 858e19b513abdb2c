"""The kind ``objective``: the candidate's own rate of failed or slow answers, against a limit."""

from __future__ import annotations

from mlflow_istio.core.analysis.proportion import ObjectiveTest
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts, histogram_series


class Objective(GuardKind[ObjectiveTest]):
    """A limit that the candidate keeps by itself; its rate is bounded before promotion without being asked for."""

    name = "objective"
    test = ObjectiveTest
    reads = ("slower_than",)
    has_limit = True

    def describe(self, terms: GuardTerms) -> str:
        """The limit, and of what."""
        what = f"slower than {terms.slower_than:g} ms" if terms.slower_than else "failed requests"
        return f"at most {100 * (terms.limit or 0):g}% {what}"

    def start(self, terms: GuardTerms, settings: TestSettings) -> ObjectiveTest:
        """A test of the rate."""
        return ObjectiveTest.of(settings.phase, limit=terms.limit or 0.5, overdispersion=settings.overdispersion)

    def series(self, terms: GuardTerms, test: ObjectiveTest) -> frozenset[str]:
        """The histogram at the limit's edge, if it is one of slow answers."""
        return frozenset() if terms.slower_than is None else histogram_series((terms.slower_than,))

    def update(self, terms: GuardTerms, test: ObjectiveTest, counts: IntervalCounts) -> ObjectiveTest | None:
        """Take in the candidate's counts."""
        if not terms.slower_than:
            return test.update(counts.candidate.errors, counts.candidate.requests, seconds=counts.seconds)
        buckets = counts.candidate.histogram((terms.slower_than,))
        if buckets is None:
            return None
        return test.update(buckets.slower_than(terms.slower_than), buckets.total, seconds=counts.seconds)
