"""From guards and bounds to a verdict, the same way at every look."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from mlflow_istio.core.analysis.guards import CombinedEvidence, Guard, combine
from mlflow_istio.core.analysis.interval import check_alpha, finite
from mlflow_istio.core.analysis.promotion import PromotionBound
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.errors import InvalidInput

NoDataPolicy = Literal["hold", "rollback"]
"""What missing data mean: wait until the deadline, or give traffic back. Never a pass."""


def decide(
    guards: Sequence[Guard],
    *,
    alpha: float = 0.05,
    averaged: bool = False,
    promotion: Sequence[PromotionBound] | None = None,
    sample_ratio: SampleRatioTest | None = None,
    missing: Sequence[str] = (),
    no_data: NoDataPolicy = "hold",
    step_complete: bool = True,
    step_left: str = "",
    deadline_reached: bool = False,
) -> Verdict:
    """Return the verdict of one look.

    In this order: enough evidence against the candidate rolls back, whatever else is the matter, because giving
    traffic back is safe; data that are missing follow `no_data`; shares that don't fit the weights, an incomplete step
    and bounds that aren't met hold, and at the deadline are inconclusive; else advance.

    Args:
        guards: Every guard of the release, each look with the same weights.
        alpha: Probability of ever rolling back a candidate within every margin, over all looks.
        averaged: Whether the guards' evidence is averaged, as the first rules did.
        promotion: None at an intermediate step. At the last one, the bounds that must all be met.
        sample_ratio: The test of the traffic shares; None where traffic isn't randomised by weight.
        missing: Names of the guards or sources without data at this look.
        no_data: What missing data mean.
        step_complete: Whether the step's time or number of requests is reached.
        step_left: What the step still needs, as a clause.
        deadline_reached: Whether the release's deadline is reached.

    Raises:
        InvalidInput: If there is no guard, `promotion` is empty (that would be a silent pass), alpha is out of range, or
            `no_data` is another word.
    """
    check_alpha(alpha)
    if promotion is not None and not promotion:
        raise InvalidInput("promotion needs at least one bound: name what the candidate may be worse by")
    if no_data not in ("hold", "rollback"):
        raise InvalidInput(f'no_data must be "hold" or "rollback", got {no_data!r}')
    combined = combine(guards, averaged=averaged)
    mismatched = sample_ratio is not None and sample_ratio.mismatched()
    evidence: dict[str, Any] = {
        "alpha": alpha,
        "log_e": finite(combined.log_e),
        "guards": {
            guard.name: {"log_e": finite(guard.log_e), "weight": guard.weight, **guard.figures} for guard in guards
        },
        "missing": list(missing),
    }
    if sample_ratio is not None:
        evidence["sample_ratio"] = {
            "mismatch": mismatched,
            "p_value": sample_ratio.p_value,
            **({"still_to_fit": sample_ratio.still_to_fit} if sample_ratio.still_to_fit else {}),
        }
    if promotion is not None:
        evidence["promotion"] = [bound.to_json() for bound in promotion]
    doubt = " The shares of traffic don't fit the weights." if mismatched else ""

    if combined.reaches(alpha):
        leading = combined.leading
        reason = f"The candidate is worse: {leading.name}, {leading.summary or 'see the evidence'}."
        return Verdict(word="rollback", reason=f"{reason} {_strength(combined, alpha)}{doubt}", evidence=evidence)
    if missing and no_data == "rollback":
        return Verdict(word="rollback", reason=f"No data from {', '.join(missing)}.{doubt}", evidence=evidence)

    misfit = _misfit(sample_ratio) if sample_ratio is not None and mismatched else ""
    waiting = _waiting(promotion or (), missing, misfit=misfit, step_complete=step_complete, step_left=step_left)
    if not waiting:
        proof = "; ".join(bound.describe() for bound in promotion or ())
        reason = f"Proven good enough: {proof}." if proof else "Nothing speaks against the candidate at this step."
        return Verdict(word="advance", reason=reason, evidence=evidence)
    if deadline_reached:
        return Verdict(word="inconclusive", reason=f"The deadline has passed: {waiting}.", evidence=evidence)
    return Verdict(word="hold", reason=f"Waiting: {waiting}.", evidence=evidence)


def _waiting(
    promotion: Sequence[PromotionBound],
    missing: Sequence[str],
    *,
    misfit: str,
    step_complete: bool,
    step_left: str,
) -> str:
    """Return what stands in the way of going on, as a clause; empty if nothing does."""
    reasons = []
    if misfit:
        reasons.append(misfit)
    if missing:
        reasons.append(f"no data from {', '.join(missing)}")
    if not step_complete:
        reasons.append(f"the step isn't complete{f' ({step_left})' if step_left else ''}")
    reasons.extend(bound.describe() for bound in promotion if not bound.met)
    return "; ".join(reasons)


def _misfit(ratio: SampleRatioTest) -> str:
    clause = "the shares of traffic don't fit the weights, so the versions can't be compared"
    return f"{clause} before about {ratio.still_to_fit:,} more requests do" if ratio.still_to_fit else clause


def _strength(combined: CombinedEvidence, alpha: float) -> str:
    """What the method supports and no more: nobody knows its tail beyond alpha on real servers."""
    if not math.isfinite(combined.log_e):
        return "That needs no statistics."
    return f"Were it not, such evidence would be seen in at most {100 * alpha:g}% of releases."
