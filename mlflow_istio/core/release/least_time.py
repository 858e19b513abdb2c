"""How long a release takes at least, whatever its figures are: a deadline before that can't be kept by any candidate."""

from __future__ import annotations

from mlflow_istio.core.analysis.blocks import first_bound
from mlflow_istio.core.release.guards.table import GUARD_KINDS
from mlflow_istio.core.release.plan import ReleasePlan


def least_seconds(plan: ReleasePlan) -> float:
    """Seconds that the plan's steps last at least: each for its ``hold``, and until the look after the one that began it."""
    return len(plan.steps) * max(plan.hold, plan.interval)


def short_deadline(plan: ReleasePlan) -> str:
    """A warning that the deadline passes before the plan's steps can be over, and what to do; empty where it doesn't.

    Who wants to watch a version for a time, and see it go back, may say so on purpose.
    """
    least = least_seconds(plan)
    if least <= plan.deadline:
        return ""
    steps = "1 step lasts" if len(plan.steps) == 1 else f"{len(plan.steps)} steps last"
    return (
        f"deadline={plan.deadline:g} is over before the release can be: its {steps} {least:g} s at least "
        f"(hold={plan.hold:g}, interval={plan.interval:g}): give more time, or shorter steps"
    )


def proof_seconds(plan: ReleasePlan, phase: float) -> float:
    """Seconds of traffic of both versions before which nothing can be proven of a candidate that needs proof; 0: none is needed.

    Only what is known of all its figures: a blue-green's versions never have traffic at the same time, guards of other packages
    have their own ways, and where phases are none each request counts by itself.

    Args:
        plan: The plan.
        phase: The longest slow phase in seconds that its tests reckon with.
    """
    proves = any(guard.allowed.kinds and guard.kind in GUARD_KINDS for guard in plan.guards)
    return first_bound(phase, plan.interval, plan.alpha) if proves and phase and plan.strategy == "canary" else 0.0


def late_proof(plan: ReleasePlan, phase: float) -> str:
    """A warning that nothing will be proven before the deadline, and what to do; empty where it can be."""
    proof = proof_seconds(plan, phase)
    if proof <= plan.deadline:
        return ""
    return (
        f"deadline={plan.deadline:g} is over before the candidate can be proven good enough: with slow phases of up to {phase:g} s "
        f"(option 'phase') that takes {proof:.0f} s of traffic at least; give more time, or a shorter phase if your servers have "
        "none so long"
    )
