"""A/B/n: several arms against one control, with a winner, "no difference" or "inconclusive".

Every challenger is compared with the control at alpha/(K-1), K arms in all (Bonferroni), by an anytime-valid sequence.
So with probability 1 - alpha no challenger is ever called better, worse or equal to the control when it isn't. The
claim is always against the control: among several challengers that beat it the one with the best estimate is named,
and the sentence says which others beat it too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_istio.core.analysis.interval import Interval, check_alpha, check_positive, finite
from mlflow_istio.core.analysis.means import MeanDifference
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.basics.stored import NOT_STORED, to_json
from mlflow_istio.errors import InvalidInput

Outcome = Literal["winner", "no difference", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One challenger against the control.

    Attributes:
        arm: The challenger's deployment.
        gain: By how much it is better than the control (negative: worse), at alpha/(K-1): a log odds ratio or a
            difference of means, sign turned so that more is better.
        effect: The same in the unit people read: an odds ratio, or the plain difference of means.
        measure: `odds ratio` or `difference of means`.
    """

    arm: str
    gain: Interval = field(metadata=NOT_STORED)
    effect: Interval
    measure: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmsResult:
    """What an A/B/n test says at one look.

    Attributes:
        outcome: `winner`, `no difference` (none larger than delta) or `inconclusive`.
        winner: The winning deployment, the control included; None without a winner.
        reason: One or two sentences.
        evidence: The numbers, as plain JSON values.
    """

    outcome: Outcome
    winner: str | None
    reason: str
    evidence: Mapping[str, Any]


def compare_rates(
    tests: Mapping[str, RateTest], *, alpha: float = 0.05, higher_is_better: bool
) -> tuple[Comparison, ...]:
    """Compare a binary KPI (clicked, converted, failed) of each challenger with the control.

    Args:
        tests: For each challenger the `RateTest` whose "candidate" is that arm and whose "stable" is the control.
        alpha: Error probability over all arms and looks.
        higher_is_better: Whether more events are good.

    Raises:
        InvalidInput: If there is no challenger or alpha is out of range.
    """
    share = _share(tests, alpha)
    sign = 1 if higher_is_better else -1
    comparisons = []
    for arm, test in tests.items():
        odds_ratio = test.confidence_sequence(share)
        gain = odds_ratio.mapped(_log).mapped(lambda value: sign * value)
        comparisons.append(Comparison(arm=arm, gain=gain, effect=odds_ratio, measure="odds ratio"))
    return tuple(comparisons)


def compare_means(differences: Mapping[str, MeanDifference], *, alpha: float = 0.05) -> tuple[Comparison, ...]:
    """Compare a numeric KPI of each challenger with the control; `MeanDifference.worse` tells which direction is bad.

    A binary KPI fits too, with events as sum and as sum of squares: then the difference is one of rates.

    Args:
        differences: For each challenger its `MeanDifference` from the control.
        alpha: Error probability over all arms and looks.

    Raises:
        InvalidInput: If there is no challenger or alpha is out of range.
    """
    share = _share(differences, alpha)
    comparisons = []
    for arm, difference in differences.items():
        effect = difference.confidence_sequence(share)
        sign = 1 if difference.worse == "lower" else -1
        gain = effect.mapped(lambda value, sign=sign: sign * value)  # type: ignore[misc]
        comparisons.append(Comparison(arm=arm, gain=gain, effect=effect, measure="difference of means"))
    return tuple(comparisons)


def judge_arms(
    comparisons: Sequence[Comparison],
    *,
    control: str,
    equivalence_margin: float,
    sample_ratio: SampleRatioTest | None,
    randomised: bool = True,
) -> ArmsResult:
    """Return the outcome of one look.

    The sample ratio comes first: with a mismatch there is no outcome. Arms chosen by a caller's header aren't
    randomised (`randomised=False`): they are reported and no winner is declared.

    A challenger wins when its gain is above 0; the control wins when every challenger's gain is below 0; there is no
    difference when every challenger that isn't worse lies within `delta` on both sides.

    Args:
        comparisons: Every challenger against the control, from `compare_rates` or `compare_means`.
        control: The control's deployment.
        equivalence_margin: The largest difference that doesn't matter: an odds ratio above 1 (both ways), or a difference of means.
        sample_ratio: The test of the arms' shares; None only where the arms have no intended shares.
        randomised: Whether the arms were assigned at random (by weight or by `client.assign`).

    Raises:
        InvalidInput: If there is no challenger, measures are mixed, or delta is out of range.
    """
    measures = {comparison.measure for comparison in comparisons}
    if len(measures) != 1:
        raise InvalidInput(f"an A/B/n test needs challengers compared by one measure, got {sorted(measures)}")
    limit = _limit(equivalence_margin, measures.pop())
    mismatch = sample_ratio is not None and sample_ratio.mismatched()
    evidence: dict[str, Any] = {
        "control": control,
        "delta": equivalence_margin,
        "randomised": randomised,
        "comparisons": [to_json(comparison) for comparison in comparisons],
    }
    if sample_ratio is not None:
        evidence["sample_ratio"] = {"mismatch": mismatch, "p_value": sample_ratio.p_value}

    def result(outcome: Outcome, reason: str, winner: str | None = None) -> ArmsResult:
        return ArmsResult(outcome=outcome, winner=winner, reason=reason, evidence=evidence)

    if mismatch:
        return result(
            "inconclusive",
            "The arms didn't get their shares of the traffic (sample-ratio mismatch), so they can't be compared.",
        )
    described = "; ".join(_describe(comparison, control) for comparison in comparisons)
    if not randomised:
        return result("inconclusive", f"The arms weren't assigned at random, so no winner is declared. {described}.")
    better = [comparison for comparison in comparisons if comparison.gain.lower > 0]
    if better:
        best = max(better, key=lambda comparison: comparison.gain.estimate or 0.0)
        others = [comparison.arm for comparison in better if comparison is not best]
        also = f" {', '.join(others)} beat it too, with a smaller estimate." if others else ""
        return result("winner", f"{best.arm} is better than {control}: {_describe(best, control)}.{also}", best.arm)
    left = [comparison for comparison in comparisons if comparison.gain.upper >= 0]
    if not left:
        return result("winner", f"{control} is better than every challenger: {described}.", control)
    if all(-limit < comparison.gain.lower and comparison.gain.upper < limit for comparison in left):
        names = ", ".join(comparison.arm for comparison in left)
        return result(
            "no difference",
            f"No difference larger than {equivalence_margin:g} between {control} and {names}: {described}.",
        )
    return result("inconclusive", f"Not enough evidence yet: {described}.")


def _share(tests: Mapping[str, object], alpha: float) -> float:
    check_alpha(alpha)
    if not tests:
        raise InvalidInput("an A/B/n test needs at least one challenger beside the control")
    return alpha / len(tests)


def _limit(equivalence_margin: float, measure: str) -> float:
    if measure == "difference of means":
        check_positive("delta (a difference of means)", equivalence_margin)
        return equivalence_margin
    if not equivalence_margin > 1:
        raise InvalidInput(f"delta must be an odds ratio above 1, such as 1.05; got {equivalence_margin}")
    return math.log(equivalence_margin)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _describe(comparison: Comparison, control: str) -> str:
    effect = comparison.effect
    lower, upper = finite(effect.lower), finite(effect.upper)
    ends = f"{'unbounded' if lower is None else f'{lower:.3g}'} to {'unbounded' if upper is None else f'{upper:.3g}'}"
    return f"{comparison.arm} against {control}: {comparison.measure} {ends}"
