"""The verbs that analyse an open release: the arms of an A/B/n test, and a shadow's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_istio.core.analysis.interval import finite
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.combinations import check_compare
from mlflow_istio.releases.reading import views
from mlflow_istio.verbs.base import Base, Config, Result, Session

if TYPE_CHECKING:
    from mlflow_istio.options.analysis import AnalyseOptions
    from mlflow_istio.releases.driving.arms import Analysed


class AnalysisVerbs(Base):
    """What an open release's data say. Options and statistics are imported when a verb runs: they need scipy."""

    def analyse(self, name: str, config: Config | None = None) -> views.View:
        """Look at an open A/B/n release once; see ``releases.arms``."""
        from mlflow_istio.options.analysis import AnalyseOptions

        options = parse_options(AnalyseOptions, config, cluster=self.target.kind)
        return arms_view(name, self._look(self._session(options), name, options))

    def declare(self, name: str, config: Config | None = None) -> Result:
        """Give the winner of an A/B/n release all the traffic; see ``releases.arms``."""
        from mlflow_istio.options.analysis import DeclareOptions
        from mlflow_istio.releases.driving import arms

        options = parse_options(DeclareOptions, config, cluster=self.target.kind)
        session = self._session(options)
        try:
            analysed = self._look(session, name, options)
        except MlflowIstioError as exc:
            if not options.force:
                raise
            # Force means: whatever the analysis says, and so whether or not it can be made.
            self._warn(f"declared without analysis: {exc.message}")
            analysed = None
        outcome = arms.declare(
            session.context,
            name,
            analysed,
            winner=options.winner,
            force=options.force,
            reason=options.reason,
            timeout=options.confirm_timeout,
        )
        return session.result(outcome, views.endpoint_view(session.context.cluster, name))

    def compare(self, name: str, config: Config | None = None) -> views.View:
        """Compare the answers of an open shadow release; see ``releases.comparison``."""
        from mlflow_istio.core.analysis.shadow_verdict import comparison_terms, scorer_failures
        from mlflow_istio.options.analysis import CompareOptions
        from mlflow_istio.releases.driving import comparison

        options = check_compare(parse_options(CompareOptions, config, cluster=self.target.kind), config or {})
        session = self._session(options)
        result = comparison.compare(
            session.context,
            session.place.records(),
            name,
            rule=options.rule(),
            limits=options.limits(),
            alpha=options.alpha,
            settle=options.settle,
            deadline_reached=options.final,
        )
        tally = result.comparison.tally
        return {
            "endpoint": name,
            "release": result.release.id,
            "terms": comparison_terms(tally),
            "stable": result.stable,
            "candidate": result.candidate,
            "verdict": {"word": result.verdict.word, "reason": result.verdict.reason},
            "figures": result.figures(options.alpha),
            "dropped": {name: dict(reasons) for name, reasons in result.dropped.items()},
            "partial": result.comparison.partial,
            "most_different": [dict(row) for row in result.comparison.table],
            "warnings": [*result.warnings, *filter(None, [scorer_failures(tally)])],
        }

    def _look(self, session: Session, name: str, options: AnalyseOptions) -> Analysed:
        from mlflow_istio.releases.driving import arms
        from mlflow_istio.verbs.vouching import of_arms, source_for

        kpis = options.kpis()
        metrics = source_for(
            session.place.metrics,
            session.context.cluster,
            of_arms(name, randomised=options.randomised, kpi=bool(kpis)),
            source=options.metrics,
            prometheus_url=options.prometheus_url,
            kpis=kpis,
            errors=options.errors,
        )
        if metrics is None:
            raise InvalidInput("metrics=none leaves nothing to analyse: give a KPI of your own, or another source")
        return arms.analyse(session.context, metrics, name, options.arms())


def arms_view(name: str, analysed: Analysed) -> views.View:
    """One look at an A/B/n release as plain values."""
    experiment, result = analysed.experiment, analysed.result
    arms: list[dict[str, Any]] = []
    intervals = experiment.intervals()
    for arm in experiment.plan.arms:
        interval = intervals.get(arm)
        arms.append(
            {
                "name": arm,
                "role": "control" if arm == experiment.plan.control else "challenger",
                "weight": experiment.weights.get(arm, 0),
                "requests": experiment.requests.get(arm, 0),
                "estimate": finite(interval.estimate) if interval else None,
                "lower": finite(interval.lower) if interval else None,
                "upper": finite(interval.upper) if interval else None,
            }
        )
    return {
        "endpoint": name,
        "release": analysed.release.id,
        "kpi": experiment.plan.kpi,
        "looks": experiment.looks,
        "outcome": result.outcome,
        "winner": result.winner,
        "reason": result.reason,
        "arms": arms,
        "evidence": dict(result.evidence),
    }
