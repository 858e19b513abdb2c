"""From the evidence to a verdict and to the figures that people see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.analysis.decision import decide
from mlflow_istio.core.analysis.guards import (
    Guard,
    combine,
    latency_guard,
    mean_guard,
    objective_guard,
    rate_guard,
)
from mlflow_istio.core.analysis.interval import Interval, finite
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference
from mlflow_istio.core.analysis.promotion import (
    PromotionBound,
    mean_difference_bound,
    odds_ratio_bound,
    rate_difference_bound,
)
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.release.evidence import Evidence, Test
from mlflow_istio.core.release.plan import Allowed, GuardPlan, ReleasePlan

ALONE = "candidate alone"
"""The guard that decides while the stable serves nothing."""

BROKEN = "The stable serves nothing, so the candidate is judged by itself."


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a verdict depends on besides the evidence.

    Attributes:
        missing: What gives no data.
        tolerant: Whether missing data are still only waited for.
        step_complete: Whether the step's time and requests are reached.
        last: Whether promotion comes next.
        deadline_reached: Whether time is up.
        broken: Whether the stable serves nothing.
    """

    missing: tuple[str, ...] = ()
    tolerant: bool = True
    step_complete: bool = True
    last: bool = False
    deadline_reached: bool = False
    broken: bool = False


def judge(plan: ReleasePlan, evidence: Evidence, standing: Standing) -> Verdict:
    """The verdict of one look."""
    if not plan.guards:
        return _by_time(standing)
    promotion: Sequence[PromotionBound] | None = None
    if standing.broken:
        promotion = (_alone_bound(plan, evidence),)
    elif standing.last:
        promotion = bounds_of(plan, evidence) or None
    verdict = decide(
        guards_of(plan, evidence),
        alpha=plan.alpha,
        promotion=promotion,
        sample_ratio=None if standing.broken else evidence.ratio,
        missing=standing.missing,
        no_data="hold" if standing.tolerant else plan.no_data,
        step_complete=standing.step_complete or standing.broken,
        deadline_reached=standing.deadline_reached,
    )
    return replace(verdict, reason=f"{BROKEN} {verdict.reason}") if standing.broken else verdict


def _by_time(standing: Standing) -> Verdict:
    if standing.step_complete:
        return Verdict(word="advance", reason="The step is complete; nothing is analysed.")
    if standing.deadline_reached:
        return Verdict(word="inconclusive", reason="The deadline has passed: the step isn't complete.")
    return Verdict(word="hold", reason="Waiting: the step isn't complete.")


def guards_of(plan: ReleasePlan, evidence: Evidence) -> tuple[Guard, ...]:
    """Every guard, the same at each look; one without data has no evidence."""
    guards = [_guard(plan, guard, evidence.tests.get(guard.name)) for guard in plan.guards]
    return (*guards, objective_guard(ALONE, evidence.alone, alpha=plan.alpha))


def _guard(plan: ReleasePlan, guard: GuardPlan, test: Test | None) -> Guard:
    if isinstance(test, RateTest):
        return rate_guard(guard.name, test, alpha=plan.alpha, weight=guard.weight)
    if isinstance(test, LatencyTest):
        return latency_guard(guard.name, test, alpha=plan.alpha, weight=guard.weight)
    if isinstance(test, MeanDifference):
        return mean_guard(guard.name, test, alpha=plan.alpha, weight=guard.weight)
    if isinstance(test, ObjectiveTest):
        return objective_guard(guard.name, test, alpha=plan.alpha, weight=guard.weight)
    return Guard(name=guard.name, log_e=0.0, weight=guard.weight, summary="nothing known yet")


def bounds_of(plan: ReleasePlan, evidence: Evidence) -> tuple[PromotionBound, ...]:
    """What must be proven before promotion, and how far it is."""
    bounds: list[PromotionBound] = []
    for guard in plan.guards:
        test = evidence.tests.get(guard.name)
        if isinstance(test, ObjectiveTest):
            bounds.append(_rate_bound(guard.name, test.counts, test.limit, plan.alpha))
        elif not guard.allowed.kinds:
            continue
        elif isinstance(test, RateTest):
            bounds.append(_either(guard.name, test, guard.allowed, plan.alpha))
        elif isinstance(test, LatencyTest):
            for edge, one in zip(test.edges, test.tests, strict=True):
                bounds.append(_either(f"{guard.name} over {edge:g} ms", one, guard.allowed, plan.alpha))
        elif isinstance(test, MeanDifference):
            allowed = guard.allowed.difference or 0.0
            bounds.append(mean_difference_bound(guard.name, test, allowed=allowed, alpha=plan.alpha))
    return tuple(bounds)


def _either(name: str, test: RateTest, allowed: Allowed, alpha: float) -> PromotionBound:
    """One bound that is met, or else the one that is nearest to it.

    "Good enough" by either measure is wrongly called only if one of the two bounds fails, so each gets alpha/2.
    """
    share = alpha / allowed.kinds
    offers: list[PromotionBound] = []
    if allowed.odds_ratio is not None:
        offers.append(odds_ratio_bound(name, test, allowed=allowed.odds_ratio, alpha=share))
    if allowed.rate_difference is not None:
        candidate = Proportion(events=test.candidate_events, total=test.candidate_total, phi=test.phi)
        stable = Proportion(events=test.stable_events, total=test.stable_total, phi=test.phi)
        offers.append(rate_difference_bound(name, candidate, stable, allowed=allowed.rate_difference, alpha=share))
    return min(offers, key=lambda bound: (not bound.met, bound.upper / bound.allowed))


def _rate_bound(name: str, counts: Proportion, limit: float, alpha: float) -> PromotionBound:
    """The upper end of one version's own rate."""
    upper = counts.confidence_sequence(alpha).upper
    return PromotionBound(name=name, measure="rate", upper=upper, allowed=limit)


def _alone_bound(plan: ReleasePlan, evidence: Evidence) -> PromotionBound:
    return _rate_bound("errors of the candidate", evidence.alone.counts, plan.alone_limit, plan.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardFigures:
    """What one guard shows.

    Attributes:
        name: The guard.
        candidate: The candidate's rate, cumulative; None without requests.
        stable: The stable's.
        ratio: The odds ratio (or difference of means) with its confidence sequence; None without one.
        log_e: Its evidence.
    """

    name: str
    candidate: float | None = None
    stable: float | None = None
    ratio: Interval | None = None
    log_e: float = 0.0


def guard_figures(plan: ReleasePlan, evidence: Evidence) -> tuple[GuardFigures, ...]:
    """The figures of every guard; of latency those of the edge with most evidence."""
    found = []
    for guard in plan.guards:
        test = evidence.tests.get(guard.name)
        log_e = 0.0 if test is None else test.log_e_value
        if isinstance(test, LatencyTest):
            test = max(test.tests, key=lambda one: one.log_e_value)
        if isinstance(test, RateTest):
            found.append(
                GuardFigures(
                    name=guard.name,
                    candidate=_rate(test.candidate_events, test.candidate_total),
                    stable=_rate(test.stable_events, test.stable_total),
                    ratio=test.confidence_sequence(plan.alpha),
                    log_e=log_e,
                )
            )
        elif isinstance(test, MeanDifference):
            found.append(GuardFigures(name=guard.name, ratio=test.confidence_sequence(plan.alpha), log_e=log_e))
        elif isinstance(test, ObjectiveTest):
            found.append(GuardFigures(name=guard.name, candidate=test.counts.rate, log_e=log_e))
        else:
            found.append(GuardFigures(name=guard.name))
    return tuple(found)


def look_figures(plan: ReleasePlan, evidence: Evidence, weight: float) -> dict[str, float]:
    """The figures of one look as flat metrics for MLflow; what isn't known, or isn't finite, is left out."""
    figures: dict[str, float | None] = {
        "look/weight": weight,
        "look/evidence": log_evidence(plan, evidence),
        "look/requests/stable": evidence.requests.get(plan.stable, 0),
        "look/requests/candidate": sum(evidence.requests.get(name, 0) for name in plan.candidates),
    }
    for guard in guard_figures(plan, evidence):
        start = f"look/{guard.name}"
        figures |= {
            f"{start}/candidate": guard.candidate,
            f"{start}/stable": guard.stable,
            f"{start}/log_e": guard.log_e,
        }
        if guard.ratio is not None:
            figures |= {
                f"{start}/ratio": guard.ratio.estimate,
                f"{start}/ratio_lower": guard.ratio.lower,
                f"{start}/ratio_upper": guard.ratio.upper,
            }
    return {name: float(value) for name, value in figures.items() if value is not None and finite(value) is not None}


def log_evidence(plan: ReleasePlan, evidence: Evidence) -> float:
    """The guards' evidence together; rollback comes at log(1/alpha). 0 without guards."""
    return combine(guards_of(plan, evidence)).log_e if plan.guards else 0.0


def _rate(events: int, total: int) -> float | None:
    return events / total if total else None


def brief(verdict: Verdict) -> Mapping[str, Any]:
    """The verdict as far as it is kept on the object."""
    return {"word": verdict.word, "reason": verdict.reason}
