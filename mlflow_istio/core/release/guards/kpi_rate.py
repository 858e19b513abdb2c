"""The kind ``rate``: a KPI of which each observation has an event or not."""

from __future__ import annotations

from mlflow_istio.core.analysis.blocks import BLOCK_SHARE
from mlflow_istio.core.analysis.measures import KpiCounts
from mlflow_istio.core.analysis.rate_test import EACH_LOOK, RateTest
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts, kpi_series


class KpiRate(GuardKind[RateTest]):
    """A yes/no KPI against the stable's."""

    name = "rate"
    test = RateTest
    reads = ("margin", "worse")
    proofs = ("odds_ratio", "rate_difference")

    def describe(self, terms: GuardTerms) -> str:
        """The odds that are still acceptable, and of what."""
        return f"odds at most {terms.margin:g} times the stable's ({terms.worse} is worse)"

    def start(self, terms: GuardTerms, settings: TestSettings) -> RateTest:
        """A test of the odds ratio; where events may come later than their observations, over strata that are long enough."""
        stratum = max(settings.label_delay, BLOCK_SHARE * settings.phase, EACH_LOOK)
        return RateTest.of(
            settings.phase,
            margin=terms.margin,
            overdispersion=settings.overdispersion,
            stratum=stratum,
            inverted=terms.worse == "lower",
        )

    def series(self, terms: GuardTerms, test: RateTest) -> frozenset[str]:
        """The KPI's."""
        return kpi_series(terms.name)

    def update(self, terms: GuardTerms, test: RateTest, counts: IntervalCounts) -> RateTest | None:
        """Take in both sides' observations, and of these the bad ones."""
        candidate, stable = counts.candidate.kpi(terms.name), counts.stable.kpi(terms.name)
        if candidate is None or stable is None or candidate.events is None or stable.events is None:
            return None
        late = test.stratum > 0
        bad = (*_bad_events(candidate, terms, late=late), *_bad_events(stable, terms, late=late))
        return test.set_aside(*bad) if late and counts.mixed else test.update(*bad, seconds=counts.seconds)


def _bad_events(kpi: KpiCounts, terms: GuardTerms, *, late: bool) -> tuple[int, int]:
    """Bad events and observations; a release of an earlier version can't take events of observations before."""
    n, events = round(kpi.n), round(kpi.events or 0)
    events = events if late else min(n, events)
    return (events if terms.worse == "higher" else n - events), n
