"""The kind ``errors``: failed requests, more often on the candidate than on the stable."""

from __future__ import annotations

from mlflow_istio.core.analysis.rate_test import EACH_LOOK, RateTest
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts


class Errors(GuardKind[RateTest]):
    """Failed requests against the stable's."""

    name = "errors"
    test = RateTest
    reads = ("margin",)
    proofs = ("odds_ratio", "rate_difference")

    def describe(self, terms: GuardTerms) -> str:
        """The odds that are still acceptable."""
        return f"odds of a failed request at most {terms.margin:g} times the stable's"

    def start(self, terms: GuardTerms, settings: TestSettings) -> RateTest:
        """A test of the odds ratio."""
        return RateTest.of(
            settings.phase, margin=terms.margin, overdispersion=settings.overdispersion, stratum=EACH_LOOK
        )

    def series(self, terms: GuardTerms, test: RateTest) -> frozenset[str]:
        """None but those that are always there."""
        return frozenset()

    def update(self, terms: GuardTerms, test: RateTest, counts: IntervalCounts) -> RateTest:
        """Take in both sides' requests and errors."""
        candidate, stable = counts.candidate, counts.stable
        if not test.stratum:
            return test.update(candidate.errors, candidate.requests, stable.errors, stable.requests)
        return test.update(candidate.failed, candidate.requests, stable.failed, stable.requests, seconds=counts.seconds)
