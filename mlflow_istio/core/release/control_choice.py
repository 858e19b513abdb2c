"""Whether a release takes a control, why, and what that costs: from its plan and what is known when it opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.moves.control_share import control_name
from mlflow_istio.core.release.guards.base import SPEED_KINDS
from mlflow_istio.core.release.plan import COMPARABLE_LOADS, ReleasePlan
from mlflow_istio.core.release.surge import replicas_alike
from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What is known of replicas when a release opens.

    Attributes:
        stable: The stable's replicas.
        candidate: The candidate's.
        follows: Whether replicas follow the weights while the release is open.
        scarce: Whether one more server is dear, as on a laptop: then a control is taken only where the release could not be decided
            without.
    """

    stable: int = 1
    candidate: int = 1
    follows: bool = False
    scarce: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlChoice:
    """Whether there is a control.

    Attributes:
        name: The deployment that will be the control; empty for none.
        lines: What a person is told of it, one line each.
    """

    name: str = ""
    lines: tuple[str, ...] = ()


def choose_control(plan: ReleasePlan, endpoint: Endpoint, capacity: Capacity) -> ControlChoice:
    """Whether the release of a plan takes a control.

    Raises:
        InvalidInput: One is asked for, and the stable can't have one.
    """
    if plan.control is None or plan.strategy != "canary" or not plan.guards:
        return ControlChoice()
    if endpoint.owners_stable:
        whose = f"the stable '{plan.stable}' of endpoint '{endpoint.name}' is its owner's"
        if plan.control == "fresh":
            raise InvalidInput(
                f"option 'control' can't be fresh: {whose} and can't be started once more; say control=none"
            )
        loads = (
            "; how many replicas it has isn't known, so latency counts at any load" if _compares_latency(plan) else ""
        )
        return ControlChoice(lines=(f"no control: {whose} and can't be started once more{loads}",))
    if plan.control == "fresh" or (plan.control == "auto" and _is_needed(plan, capacity)):
        return _taken(plan, capacity)
    if not _compares_latency(plan):
        return ControlChoice()
    if all(_loads_agree(step, capacity) for step in plan.steps):
        return ControlChoice(lines=(f"no control: loads per replica are comparable at every step; {_latency(plan)}",))
    return ControlChoice(lines=(f"no control: compared with '{plan.stable}' itself; {_latency(plan)}",))


def _taken(plan: ReleasePlan, capacity: Capacity) -> ControlChoice:
    name = control_name(plan.stable)
    replicas = f"{capacity.candidate} replica" + ("s" if capacity.candidate > 1 else "")
    if capacity.follows:
        replicas += " or more, as the candidate has"
    least = plan.hold * len(plan.steps)
    return ControlChoice(
        name=name,
        lines=(
            f"control: '{name}' runs what '{plan.stable}' runs, with the candidate's replicas, age and share (what is left, at "
            "most); the candidate is compared with it",
            f"it costs {replicas} for as long as the release lasts: at least {_replica_seconds(capacity.candidate, least)}, at "
            f"most {_replica_seconds(capacity.candidate, plan.deadline)}; control=none does without",
        ),
    )


def _replica_seconds(replicas: int, seconds: float) -> str:
    return f"{replicas * seconds:,.0f} replica-seconds"


def _latency(plan: ReleasePlan) -> str:
    """When latency counts without a control."""
    if not _compares_latency(plan):
        return "nothing of the plan needs one"
    return f"latency counts only while a replica of one has at most {COMPARABLE_LOADS:g} times the other's load"


def _compares_latency(plan: ReleasePlan) -> bool:
    return any(guard.kind in SPEED_KINDS for guard in plan.guards)


def _is_needed(plan: ReleasePlan, capacity: Capacity) -> bool:
    """Whether latency is guarded and replicas alone don't make loads comparable: at some step, or, if dear, at the last."""
    if not _compares_latency(plan):
        return False
    steps = plan.steps[-1:] if capacity.scarce else plan.steps
    return not all(_loads_agree(step, capacity) for step in steps)


def _loads_agree(step: float, capacity: Capacity) -> bool:
    weights = {"candidate": step, "stable": 100 - step}
    loads = [weights[side] / replicas for side, replicas in _replicas(step, capacity).items()]
    return max(loads) <= COMPARABLE_LOADS * min(loads)


def _replicas(step: float, capacity: Capacity) -> Mapping[str, int]:
    """Each side's replicas at a step, as far as they can be told beforehand; the stable keeps its own, for the way back."""
    needed = replicas_alike(capacity.stable, step, 100 - step) if capacity.follows else 0
    return {"candidate": max(capacity.candidate, needed), "stable": capacity.stable}
