"""From the evidence to a verdict and to the figures that people see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.analysis.decision import decide
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, combine
from mlflow_istio.core.analysis.interval import Interval, finite
from mlflow_istio.core.analysis.promotion import NOTHING_TO_PROVE, PromotionBound
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.release.evidence import Evidence
from mlflow_istio.core.release.guards.base import SPEED_KINDS
from mlflow_istio.core.release.guards.table import kind_of, said_by
from mlflow_istio.core.release.plan import COMPARABLE_LOADS, GuardPlan, ReleasePlan

ALONE = "candidate alone"
"""The guard that decides while the stable serves nothing."""

ALONE_SHARE = 0.02
"""Its share of alpha, relative to all others together."""

LATENCY_KINDS = (*SPEED_KINDS, "gross")
"""Guards of these kinds compare how fast both sides are."""

BROKEN = "The stable serves nothing, so the candidate is judged by itself."


@dataclass(frozen=True, kw_only=True, slots=True)
class LookContext:
    """What a verdict depends on besides the evidence.

    Attributes:
        missing: What gives no data.
        tolerant: Whether missing data are still only waited for.
        step_complete: Whether the step's time and requests are reached.
        step_left: What the step still needs, as a clause.
        last: Whether promotion comes next.
        deadline_reached: Whether time is up.
        broken: Whether the stable serves nothing.
        figures: Whether somebody reads the figures of a look that only waits. They decide nothing, and cost most of a look.
    """

    missing: tuple[str, ...] = ()
    tolerant: bool = True
    step_complete: bool = True
    step_left: str = ""
    last: bool = False
    deadline_reached: bool = False
    broken: bool = False
    figures: bool = True


def judge(plan: ReleasePlan, evidence: Evidence, look_context: LookContext) -> Verdict:
    """The verdict of one look; one that lets something happen always has its figures."""
    if not plan.guards:
        return _by_time(look_context)
    verdict = _judged(plan, evidence, look_context)
    if look_context.figures or verdict.word == "hold":
        return verdict
    return _judged(plan, evidence, replace(look_context, figures=True))


def _judged(plan: ReleasePlan, evidence: Evidence, look_context: LookContext) -> Verdict:
    promotion: Sequence[PromotionBound] | None = None
    if look_context.broken:
        promotion = evidence.alone.bounds("errors of the candidate", NOTHING_TO_PROVE, alpha=plan.alpha)
    elif look_context.last:
        promotion = _enough_bounds(plan, evidence, every=look_context.figures) or None
    verdict = decide(
        guards_of(plan, evidence, figures=look_context.figures),
        alpha=plan.alpha,
        averaged=plan.rules == 1,
        promotion=promotion,
        sample_ratio=None if look_context.broken else evidence.ratio,
        missing=look_context.missing,
        no_data="hold" if look_context.tolerant else plan.no_data,
        step_complete=look_context.step_complete or look_context.broken,
        step_left=look_context.step_left,
        deadline_reached=look_context.deadline_reached,
    )
    if look_context.broken:
        return replace(verdict, reason=f"{BROKEN} {verdict.reason}")
    return _with_loads(plan, evidence, verdict)


def _with_loads(plan: ReleasePlan, evidence: Evidence, verdict: Verdict) -> Verdict:
    """The verdict, saying that latency did not count at this look, where loads per replica were too far apart."""
    slow = any(guard.kind in LATENCY_KINDS for guard in plan.guards)
    if evidence.loads is not False or not slow or verdict.word == "rollback":
        return verdict
    why = (
        f"the shares per replica of '{evidence.control}' and '{plan.candidate}' are not equal"
        if evidence.control
        else f"a replica of one version has more than {COMPARABLE_LOADS:g} times the load of the other's; control=fresh compares "
        "like with like"
    )
    return replace(verdict, reason=f"{verdict.reason} Latency does not count now: {why}.")


def _by_time(look_context: LookContext) -> Verdict:
    if look_context.step_complete:
        return Verdict(word="advance", reason="The step is complete; nothing is analysed.")
    if look_context.deadline_reached:
        return Verdict(word="inconclusive", reason="The deadline has passed: the step isn't complete.")
    left = f" ({look_context.step_left})" if look_context.step_left else ""
    return Verdict(word="hold", reason=f"Waiting: the step isn't complete{left}.")


def guards_of(plan: ReleasePlan, evidence: Evidence, *, figures: bool = True) -> tuple[Guard, ...]:
    """Every guard, the same at each look; one without data has no evidence.

    Args:
        plan: The plan.
        evidence: What was measured.
        figures: Whether each has its sentence and figures; without them it has its name, evidence and weight only.
    """
    guards = [_guard(plan, guard, evidence, figures=figures) for guard in plan.guards]
    alone, weight = evidence.alone, _weight_alone(plan)
    if not figures:
        return (*guards, Guard(name=ALONE, log_e=alone.log_e_value, weight=weight))
    return (*guards, alone.guard(ALONE, alpha=plan.alpha, weight=weight))


def _weight_alone(plan: ReleasePlan) -> float:
    return 1.0 if plan.rules == 1 else ALONE_SHARE * sum(guard.weight for guard in plan.guards)


def _guard(plan: ReleasePlan, guard: GuardPlan, evidence: Evidence, *, figures: bool) -> Guard:
    test = evidence.tests.get(guard.name)
    if test is None:
        return Guard(name=guard.name, log_e=0.0, weight=guard.weight, summary="nothing known yet")
    log_e = _log_e(guard, test)
    if not figures:
        return Guard(name=guard.name, log_e=log_e, weight=guard.weight)
    result = said_by(
        guard,
        lambda: replace(test.guard(guard.name, alpha=alpha_of(plan, guard), weight=guard.weight), log_e=log_e),
        lambda why: Guard(name=guard.name, log_e=log_e, weight=guard.weight, summary=why),
    )
    return replace(result, summary=result.summary.replace("the stable", "the control")) if evidence.control else result


def _log_e(guard: GuardPlan, test: GuardTest) -> float:
    return said_by(guard, lambda: Guard(name=guard.name, log_e=test.log_e_value).log_e, lambda _why: 0.0)


def alpha_of(plan: ReleasePlan, guard: GuardPlan) -> float:
    """The error probability of one interval of a guard: what is proven in a release may be wrong with `alpha`, all guards together.

    Each guard of which something must be proven has an equal share, halved again where two kinds of proof are accepted.
    """
    if plan.rules == 1:
        return plan.alpha
    return _proof_alpha(plan) / max(1, guard.allowed.kinds)


def _proof_alpha(plan: ReleasePlan) -> float:
    if plan.rules == 1:
        return plan.alpha
    proven = sum(1 for guard in plan.guards if guard.allowed.kinds or guard.limit is not None)
    return plan.alpha / max(1, proven)


def bounds_of(plan: ReleasePlan, evidence: Evidence) -> tuple[PromotionBound, ...]:
    """What must be proven before promotion, and how far it is."""
    return tuple(_bounds(plan, evidence))


def _bounds(plan: ReleasePlan, evidence: Evidence) -> Iterator[PromotionBound]:
    """The bounds, one after the other: each is searched for when it is asked for."""
    for guard in plan.guards:
        if guard.name not in evidence.tests:
            continue
        better = _may_claim_better(plan, guard)
        for bound in _bounds_of(plan, guard, evidence.tests[guard.name]):
            yield bound if better else replace(bound, upper=max(bound.upper, bound.equal))


def _bounds_of(plan: ReleasePlan, guard: GuardPlan, test: GuardTest) -> Sequence[PromotionBound]:
    """What one guard bounds; one that can't be met where its kind can't say."""
    return said_by(
        guard,
        lambda: tuple(replace(bound) for bound in test.bounds(guard.name, guard.allowed, alpha=_proof_alpha(plan))),
        lambda why: (
            PromotionBound(name=guard.name, measure="odds ratio", upper=float("inf"), allowed=1.0, waiting=why),
        ),
    )


def _enough_bounds(plan: ReleasePlan, evidence: Evidence, *, every: bool) -> tuple[PromotionBound, ...]:
    """The bounds; where nobody reads them, up to the first that isn't met, which decides as well as all."""
    bounds: list[PromotionBound] = []
    for bound in _bounds(plan, evidence):
        bounds.append(bound)
        if not bound.met and not every:
            break
    return tuple(bounds)


def _may_claim_better(plan: ReleasePlan, guard: GuardPlan) -> bool:
    return plan.rules == 1 or kind_of(guard).claims_better


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
    return tuple(_figures(plan, guard, evidence.tests.get(guard.name)) for guard in plan.guards)


def proven(plan: ReleasePlan, evidence: Evidence) -> Mapping[str, Interval]:
    """What is proven of each guard that has figures: the interval that holds the truth at every look.

    All of them together are wrong in at most `alpha` of the releases.
    """
    intervals: dict[str, Interval] = {}
    for guard in plan.guards:
        test = evidence.tests.get(guard.name)
        interval = None if test is None else _proven(plan, guard, test)
        if interval is not None:
            better = _may_claim_better(plan, guard)
            intervals[guard.name] = interval if better else replace(interval, upper=max(interval.upper, 1.0))
    return intervals


def _proven(plan: ReleasePlan, guard: GuardPlan, test: GuardTest) -> Interval | None:
    return said_by(guard, lambda: test.proven(alpha_of(plan, guard)), lambda _why: None)


def _figures(plan: ReleasePlan, guard: GuardPlan, test: GuardTest | None) -> GuardFigures:
    if test is None:
        return GuardFigures(name=guard.name)
    figures = said_by(guard, lambda: replace(test.figures(alpha_of(plan, guard))), lambda _why: Figures())
    return GuardFigures(
        name=guard.name,
        candidate=figures.candidate,
        stable=figures.stable,
        ratio=figures.ratio,
        log_e=_log_e(guard, test),
    )


def look_figures(plan: ReleasePlan, evidence: Evidence, weight: float) -> dict[str, float]:
    """The figures of one look as flat metrics for MLflow; what isn't known, or isn't finite, is left out."""
    figures: dict[str, float | None] = {
        "look/weight": weight,
        "look/evidence": log_evidence(plan, evidence),
        "look/requests/stable": evidence.requests.get(plan.stable, 0),
        "look/requests/candidate": sum(evidence.requests.get(name, 0) for name in plan.candidates),
    }
    if evidence.control:
        figures["look/requests/control"] = evidence.requests.get(evidence.control, 0)
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
    if not plan.guards:
        return 0.0
    return combine(guards_of(plan, evidence, figures=False), averaged=plan.rules == 1).log_e


def brief(verdict: Verdict) -> Mapping[str, Any]:
    """The verdict as far as it is kept on the object."""
    return {"word": verdict.word, "reason": verdict.reason}
