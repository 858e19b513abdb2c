"""What decides a release that has a comparison of its own: an A/B/n by its arms, a shadow by its answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from mlflow_istio.core.analysis.arms import ArmsResult
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import Progress
from mlflow_istio.errors import InvalidInput, MlflowIstioError
from mlflow_istio.options.analysis import CompareOptions
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.combinations import check_compare
from mlflow_istio.options.kpi import read_kpis
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.ports.records import Records
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.driving import arms, comparison
from mlflow_istio.releases.driving.drive import Judge

if TYPE_CHECKING:
    from mlflow_istio.options.release import SourceOptions

Judged = tuple[Verdict | None, str | None]


def judge_for(
    context: Context,
    records: Callable[[], Records],
    metrics: Metrics | None,
    options: SourceOptions,
    plan: ReleasePlan,
) -> Judge | None:
    """The comparison of an A/B/n or a shadow; None for a release that its guards decide.

    Args:
        context: The ports.
        records: Makes the recorders of a shadow.
        metrics: Where counts come from.
        options: How answers, or arms, are compared.
        plan: The release's plan.

    Raises:
        InvalidInput: An option can't be right, or nothing says where counts come from.
    """
    if plan.compares or not plan.guards:
        return None
    if plan.strategy == "shadow":
        return _by_answers(context, records(), options, plan)
    if metrics is None:
        raise InvalidInput("strategy=ab is decided by figures of its arms: give a source of metrics, or analysis=none")
    return _by_arms(context, metrics, options, plan)


def _by_answers(context: Context, records: Records, options: SourceOptions, plan: ReleasePlan) -> Judge:
    asked = options.compare or {}
    given = check_compare(parse_options(CompareOptions, asked, cluster="istio"), asked)
    rule, limits = given.rule(), given.limits()

    def judge(endpoint: Endpoint, _progress: Progress, _now: datetime) -> Judged:
        result = comparison.compare(
            context, records, endpoint.name, rule=rule, limits=limits, alpha=plan.alpha, settle=given.settle
        )
        return result.verdict, None

    return _patient(judge)


def _by_arms(context: Context, metrics: Metrics, options: SourceOptions, plan: ReleasePlan) -> Judge:
    kpis = read_kpis(options.kpi)
    if len(kpis) > 1:
        raise InvalidInput(f"arms are compared by one KPI, not {len(kpis)}: choose one before the first look")
    asked = arms.ArmsOptions(
        kpi=kpis[0] if kpis else None,
        equivalence_margin=options.delta,
        alpha=plan.alpha,
        overdispersion=plan.overdispersion,
        phase=plan.phase,
        label_delay=plan.label_delay,
        randomised=options.randomised,
    )

    def judge(endpoint: Endpoint, _progress: Progress, _now: datetime) -> Judged:
        result = arms.analyse(context, metrics, endpoint.name, asked).result
        return verdict_of(result, endpoint.stable.name), result.winner

    return _patient(judge)


def verdict_of(result: ArmsResult, control: str) -> Verdict:
    """What an A/B/n's result means for its release: a challenger that wins is promoted, a control that wins keeps its place.

    Without a difference that matters nobody is promoted: that is a result, though an undecided one.
    """
    evidence = {"outcome": result.outcome, "winner": result.winner, **result.evidence}
    if result.outcome == "winner":
        word = "rollback" if result.winner == control else "advance"
        return Verdict(word=word, reason=result.reason, evidence=evidence)  # type: ignore[arg-type]
    word = "inconclusive" if result.outcome == "no difference" else "hold"
    return Verdict(word=word, reason=result.reason, evidence=evidence)  # type: ignore[arg-type]


def _patient(judge: Judge) -> Judge:
    """A comparison that can't be made now is waited for, until the deadline."""

    def patient(endpoint: Endpoint, progress: Progress, now: datetime) -> Judged:
        if progress.step < 0:
            return None, None
        try:
            return judge(endpoint, progress, now)
        except MlflowIstioError as exc:
            return Verdict(word="hold", reason=f"Waiting: {exc.message}"), None

    return patient
