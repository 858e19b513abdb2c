"""The kind ``mean``: a KPI of which each observation is a number."""

from __future__ import annotations

from mlflow_istio.core.analysis.means import MeanDifference, Sums
from mlflow_istio.core.analysis.measures import KpiCounts
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts, kpi_series
from mlflow_istio.errors import InvalidInput


class KpiMean(GuardKind[MeanDifference]):
    """A numeric KPI's mean against the stable's."""

    name = "mean"
    test = MeanDifference
    reads = ("margin", "worse")
    proofs = ("difference",)

    def describe(self, terms: GuardTerms) -> str:
        """The worsening that is still acceptable."""
        return f"mean worse by at most {terms.margin:g} ({terms.worse} is worse)"

    def start(self, terms: GuardTerms, settings: TestSettings) -> MeanDifference:
        """A test of the difference; it takes its spread from the data."""
        return MeanDifference.of(settings.phase, worse=terms.worse, margin=terms.margin, stratum=settings.label_delay)

    def series(self, terms: GuardTerms, test: MeanDifference) -> frozenset[str]:
        """The KPI's."""
        return kpi_series(terms.name)

    def update(self, terms: GuardTerms, test: MeanDifference, counts: IntervalCounts) -> MeanDifference | None:
        """Take in both sides' observations."""
        candidate, stable = counts.candidate.kpi(terms.name), counts.stable.kpi(terms.name)
        if candidate is None or stable is None:
            return None
        if any(side.total is None and side.n for side in (candidate, stable)):  # events; an idle side has nothing
            return None
        if test.stratum and counts.mixed:
            return test.set_aside()
        try:
            return test.update(sums_of(candidate), sums_of(stable), seconds=counts.seconds)
        except InvalidInput:  # a source that says infinity
            return None

    def lacks_data(self, test: MeanDifference) -> bool:
        """Whether sums have come that are not those of any numbers, for longer than they may be late."""
        return test.unfit


def sums_of(kpi: KpiCounts) -> Sums:
    """What a KPI's series say of an interval.

    Raises:
        InvalidInput: They are no numbers.
    """
    return Sums(count=round(kpi.n), total=kpi.total or 0.0, squares=kpi.squares or 0.0)
