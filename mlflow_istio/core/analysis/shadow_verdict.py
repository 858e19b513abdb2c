"""Figures and a verdict from a shadow tally."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.analysis.interval import Interval, bounded_exp, check_alpha, finite
from mlflow_istio.core.analysis.means import mean_sequence
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.shadow import ShadowTally
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowLimits:
    """What a shadow comparison must show.

    Attributes:
        agreement: The least share of requests whose answers must agree, strictly between 0 and 1.
        slowdown: The most the candidate's time may be of the stable's (geometric mean), above 0; None doesn't look.
        unmatched: The largest share of requests that may be recorded on one side only.
    """

    agreement: float
    slowdown: float | None = None
    unmatched: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.agreement < 1:
            raise InvalidInput(f"agreement is a share strictly between 0 and 1, got {self.agreement}")
        if self.slowdown is not None and not self.slowdown > 0:
            raise InvalidInput(f"slowdown is a factor above 0, such as 1.2; got {self.slowdown}")
        if not 0 <= self.unmatched <= 1:
            raise InvalidInput(f"unmatched is a share from 0 to 1, got {self.unmatched}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowFigures:
    """What the tally shows; each interval is a confidence sequence at the alpha asked for.

    Attributes:
        agreement: The share of requests whose whole answers agree (requests, because predictions inside one request
            aren't independent). A pair that the scorer failed on counts as differing for the lower end and as agreeing for
            the upper, since nobody knows.
        similarity: Text: the mean score; asymptotic, and no part of the verdict.
        difference: The mean of candidate minus stable, for numbers; asymptotic.
        slowdown: The candidate's time as a multiple of the stable's, geometric mean over pairs; asymptotic.
        failures: The test that, of the pairs in which one side failed, the candidate fails in more than half: under
            "equally reliable" a discordant pair is a fair coin (McNemar 1947).
    """

    agreement: Interval
    similarity: Interval
    difference: Interval
    slowdown: Interval
    failures: ObjectiveTest


def shadow_figures(tally: ShadowTally, *, alpha: float = 0.05) -> ShadowFigures:
    """Return the figures of a tally.

    Raises:
        InvalidInput: If alpha isn't between 0 and 1.
    """
    check_alpha(alpha)
    discordant = tally.candidate_failed + tally.stable_failed
    counts = Proportion(events=tally.candidate_failed, total=discordant)
    return ShadowFigures(
        agreement=_agreement(tally, alpha),
        similarity=_within_0_and_1(mean_sequence(tally.scores, alpha)),
        difference=mean_sequence(tally.differences, alpha),
        slowdown=mean_sequence(tally.log_slowdown, alpha).mapped(bounded_exp),
        failures=ObjectiveTest(limit=0.5, counts=counts),
    )


def _agreement(tally: ShadowTally, alpha: float) -> Interval:
    known = Proportion(events=tally.agreeing, total=tally.compared).confidence_sequence(alpha)
    if not tally.unscored:
        return known
    total = tally.compared + tally.unscored
    return replace(
        known,
        lower=Proportion(events=tally.agreeing, total=total).confidence_sequence(alpha).lower,
        upper=Proportion(events=tally.agreeing + tally.unscored, total=total).confidence_sequence(alpha).upper,
    )


def _within_0_and_1(interval: Interval) -> Interval:
    return replace(interval, lower=max(0.0, interval.lower), upper=min(1.0, interval.upper))


def comparison_terms(tally: ShadowTally) -> str:
    """How answers were compared, and what of them, in a sentence."""
    rule = tally.rule
    if rule.kind == "numbers":
        how = f"as numbers, within {rule.absolute:g} plus {rule.relative:.3g} of the stable's"
    elif rule.kind == "classes" or rule.scorer is None:
        how = f"as {rule.kind}, which must be equal"
    else:
        how = f"as text by scorer '{rule.scorer.name}', from {rule.similarity:g} on two texts agree"
    if rule.fields:
        where = f"field {' and '.join(rule.fields)}"
    elif tally.fields:
        where = f"field {' and '.join(tally.fields)} (recognised; 'field' names another)"
    else:
        where = "the whole answer"
    sentence = f"Compared {how}; {where}"
    if tally.cut:
        longest = rule.scorer.longest if rule.scorer else None
        sentence += f"; {tally.cut:,} pairs by the first {longest or 0:,} characters of a text"
    return f"{sentence}."


def scorer_failures(tally: ShadowTally) -> str:
    """For how many pairs nobody knows whether they agree, and why for the first, in one line; empty where there are none."""
    if not tally.unscored:
        return ""
    scorer = tally.rule.scorer
    what = f"scorer '{scorer.name}' failed" if scorer is not None else "there was nothing to compare with"
    first = ""
    if tally.failures:
        first = f": request {tally.failures[0].request_id}: {tally.failures[0].note}"
        if tally.failures[0].note.startswith("no field"):
            what = "there was nothing to compare with"
    return f"{what} for {tally.unscored:,} of {tally.unscored + tally.compared:,} pairs{first}"


def shadow_metrics(tally: ShadowTally, *, alpha: float = 0.05) -> dict[str, float]:
    """Return the figures as flat metrics for MLflow; what isn't known yet is left out.

    Raises:
        InvalidInput: If alpha isn't between 0 and 1.
    """
    figures = shadow_figures(tally, alpha=alpha)
    metrics: dict[str, float | None] = {
        "shadow/pairs": tally.pairs,
        "shadow/compared": tally.compared,
        "shadow/unmatched_share": tally.unmatched_share,
        "shadow/repeated": tally.repeated,
        "shadow/pinned": tally.pinned,
        "shadow/other_body": tally.other_body,
        "shadow/candidate_failed": tally.candidate_failed,
        "shadow/stable_failed": tally.stable_failed,
        "shadow/both_failed": tally.both_failed,
        **({"shadow/unscored": tally.unscored} if tally.rule.kind == "text" or tally.unscored else {}),
        **({"shadow/cut": tally.cut} if tally.rule.kind == "text" else {}),
    }
    if tally.rows:
        metrics["shadow/prediction_agreement"] = tally.rows_agreeing / tally.rows
    for name in ("agreement", "similarity", "difference", "slowdown"):
        interval = getattr(figures, name)
        if interval.estimate is not None:
            metrics[f"shadow/{name}"] = finite(interval.estimate)
            metrics[f"shadow/{name}_lower"] = finite(interval.lower)
            metrics[f"shadow/{name}_upper"] = finite(interval.upper)
    return {name: float(value) for name, value in metrics.items() if value is not None}


def judge_shadow(
    tally: ShadowTally,
    limits: ShadowLimits,
    *,
    alpha: float = 0.05,
    deadline_reached: bool = False,
    dropped: Mapping[str, Mapping[str, int]] | None = None,
) -> Verdict:
    """Return the verdict of one look at a shadow comparison.

    Rolls back on proof that agreement is below its limit, that the candidate fails where the stable doesn't, or that
    it is slower than allowed: alpha is split over these, so they are wrong together with probability alpha at most.
    Advances when all are proven fine; failures are fine while there is no evidence against them. Else holds, and is
    inconclusive at the deadline. With too many unmatched requests it never advances. Of texts, the share that agrees is
    judged and not the mean score, which says nothing of how many users get another answer.

    Args:
        tally: The counts.
        limits: What must be shown.
        alpha: Error probability.
        deadline_reached: Whether "not yet" has become "inconclusive".
        dropped: Deployment to what its recorders did not record, by reason: why a record may be missing, where one is.

    Raises:
        InvalidInput: If alpha isn't between 0 and 1.
    """
    check_alpha(alpha)
    missing = "; ".join(_not_recorded(name, reasons) for name, reasons in (dropped or {}).items() if reasons)
    because = f" ({missing})" if missing else ""
    share = alpha / (2 if limits.slowdown is None else 3)
    figures = shadow_figures(tally, alpha=share)
    against, waiting = [], []
    agreement = figures.agreement
    seen = (
        f"{tally.agreeing:,} of {tally.compared:,} compared requests agree, that is {_range(agreement, percent=True)}"
    )
    left_over = (
        (tally.repeated, "under an id that was used already"),
        (tally.pinned, "pinned"),
        (tally.other_body, "with different bodies on the two sides"),
    )
    if any(count for count, _ in left_over):
        seen += f" (left out: {', '.join(f'{count:,} {what}' for count, what in left_over if count)})"
    if failed := scorer_failures(tally):
        seen += f"; {failed} (such a pair counts as differing where agreement must be shown, as agreeing where a difference must)"
    if agreement.upper < limits.agreement:
        against.append(f"{seen}, below {limits.agreement:.3g}")
    elif agreement.lower < limits.agreement:
        waiting.append(f"{seen}, not yet proven above {limits.agreement:.3g}")
    if figures.failures.log_e_value >= -math.log(share):
        against.append(
            f"the candidate alone failed {tally.candidate_failed:,} times, the stable alone {tally.stable_failed:,}"
        )
    if limits.slowdown is not None:
        times = f"the candidate takes {_range(figures.slowdown)} times as long"
        if figures.slowdown.lower > limits.slowdown:
            against.append(f"{times}, more than {limits.slowdown:.3g}")
        elif figures.slowdown.upper > limits.slowdown:
            waiting.append(f"{times}, not yet proven within {limits.slowdown:.3g}")
    if not (tally.compared or tally.unscored):
        waiting.append(f"nobody called the endpoint, or nothing was recorded{because}")
    if tally.unmatched_share > limits.unmatched:
        waiting.append(
            f"{tally.unmatched_share:.1%} of the requests were recorded on one side only "
            f"(at most {limits.unmatched:.1%} allowed){because}"
        )
    evidence = _evidence(tally, figures, share)
    if against:
        return Verdict(word="rollback", reason=f"The shadow differs: {'; '.join(against)}.", evidence=evidence)
    if not waiting:
        return Verdict(word="advance", reason=f"The shadow answers like the stable: {seen}.", evidence=evidence)
    if deadline_reached:
        reason = f"The deadline has passed: {'; '.join(waiting)}."
        return Verdict(word="inconclusive", reason=reason, evidence=evidence)
    return Verdict(word="hold", reason=f"Waiting: {'; '.join(waiting)}.", evidence=evidence)


def _not_recorded(deployment: str, reasons: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return f"not recorded by '{deployment}' since its recorders started: {counts}"


def _evidence(tally: ShadowTally, figures: ShadowFigures, alpha: float) -> Mapping[str, Any]:
    return {
        "alpha_each": alpha,
        "terms": comparison_terms(tally),
        "agreement": to_json(figures.agreement),
        **({"similarity": to_json(figures.similarity)} if tally.scores.count else {}),
        "difference": to_json(figures.difference),
        "slowdown": to_json(figures.slowdown),
        "failures_p_value": math.exp(-max(0.0, figures.failures.log_e_value)),
        "tally": {name: value for name, value in to_json(tally).items() if isinstance(value, int)},
        "unmatched_share": tally.unmatched_share,
    }


def _range(interval: Interval, *, percent: bool = False) -> str:
    lower, upper = finite(interval.lower), finite(interval.upper)
    if lower is None or upper is None:
        return "an unknown number of"
    return f"{lower:.1%} to {upper:.1%}" if percent else f"{lower:.3g} to {upper:.3g}"
