"""The kinds ``ttft``, ``tpot``, ``tokens`` and ``unfinished``: what is measured of answers that are streamed."""

from __future__ import annotations

from mlflow_istio.core.analysis.latency import TokensTest
from mlflow_istio.core.analysis.measures import STREAMS, UNFINISHED
from mlflow_istio.core.analysis.rate_test import EACH_LOOK, RateTest
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts
from mlflow_istio.core.release.guards.slow_answers import Latency


class FirstToken(Latency):
    """First tokens that come late."""

    name = "ttft"
    measure = "ttft"
    what = "a slow first token"


class EachToken(Latency):
    """Answers whose tokens come slowly once they have begun."""

    name = "tpot"
    measure = "tpot"
    what = "a slow answer, token by token,"


class Tokens(Latency):
    """Answers that are long: what is paid for, and waited for."""

    name = "tokens"
    test = TokensTest
    claims_better = True
    measure = "tokens"
    what = "a long answer"


class Unfinished(GuardKind[RateTest]):
    """Streams that were cut: a status of 200 has left by then, so no count of errors knows of them."""

    name = "unfinished"
    test = RateTest
    reads = ("margin",)
    proofs = ("odds_ratio", "rate_difference")

    def describe(self, terms: GuardTerms) -> str:
        """The odds that are still acceptable."""
        return f"odds of a stream that is cut at most {terms.margin:g} times the stable's"

    def start(self, terms: GuardTerms, settings: TestSettings) -> RateTest:
        """A test of the odds ratio."""
        return RateTest.of(
            settings.phase, margin=terms.margin, overdispersion=settings.overdispersion, stratum=EACH_LOOK
        )

    def series(self, terms: GuardTerms, test: RateTest) -> frozenset[str]:
        """Streams and cut ones."""
        return frozenset({STREAMS, UNFINISHED})

    def update(self, terms: GuardTerms, test: RateTest, counts: IntervalCounts) -> RateTest | None:
        """Take in both sides' streams; where they are not known, and may be, as if there were none."""
        candidate, stable = counts.candidate.streams(), counts.stable.streams()
        if candidate is None or stable is None:
            return test if terms.streams else None
        return test.update(*candidate, *stable, seconds=counts.seconds)
