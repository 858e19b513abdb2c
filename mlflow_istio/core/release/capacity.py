"""How many replicas a release needs: each version as many as its share of the traffic takes, before it has that share.

What the stable had when the release began answers all the traffic, so a share of it needs that share of the replicas. The stable
keeps all of them while the release is open: a way back is one edit, and whoever takes all users back must be able to. So each
of its replicas gets less than before; the candidate gets more than its share needs then, so that loads per replica are alike and
latencies can be compared. Where ``surge`` bounds all together that comes first to an end; then the stable gets smaller before a
step, never below what its share needs at that moment, and has its replicas back before users return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.surge import replicas_alike, replicas_for, surge_of
from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """The replicas that a step takes.

    Attributes:
        replicas: Deployment to its replicas; the stable is one of them.
        shortage: Why they can't be had within ``surge``, in one sentence; empty when they can.
    """

    replicas: Mapping[str, int]
    shortage: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What there is before a step.

    Attributes:
        start: Deployment to its replicas when the release began; the stable's are what shares are taken of.
        present: Deployment to its replicas now, as they are asked for.
        held: Deployments whose number somebody else sets: an autoscaler, or a person.
        stable_share: Percent of the live traffic that the stable answers now.
        control: The control, which has as many replicas as the candidate; empty for none.
    """

    start: Mapping[str, int]
    present: Mapping[str, int] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    stable_share: float = 100.0
    control: str = ""


def shares_of(plan: ReleasePlan, weight: float, *, winner: str | None = None, control: str = "") -> dict[str, float]:
    """Percent of the traffic that each deployment beside the stable must be able to take at a step, or the winner at promotion.

    A control is always as large as the candidate, also where less is left for it.
    """
    if winner is not None:
        return {winner: 100.0}
    return dict.fromkeys((*plan.candidates, *((control,) if control else ())), weight)


def needs(plan: ReleasePlan, standing: Standing, shares: Mapping[str, float], what: str) -> Needs:
    """The replicas with which these deployments can take these shares, the stable beside them.

    Nobody is made smaller than they are but the stable, and that one only where ``surge`` leaves no other way. Numbers that
    somebody else sets count as they are.

    Args:
        plan: The release's plan.
        standing: What there is.
        shares: Deployment to its percent, for those that gain.
        what: The step in words, for the sentence: ``50%`` or ``promotion``.
    """
    start, present = standing.start, standing.present
    whole = start[plan.stable]
    replicas = {name: max(present.get(name, 0), count) for name, count in start.items() if name != plan.stable}
    replicas |= {name: max(replicas.get(name, 0), replicas_for(whole, share)) for name, share in shares.items()}
    replicas |= {name: present[name] for name in standing.held if name in replicas and name in present}
    keeps = present.get(plan.stable, whole)
    surge = surge_of(plan.surge, whole)
    left = 100.0 if plan.strategy == "shadow" else 100.0 - sum(shares.values())
    compared = all(
        name in plan.candidates for name in shares
    )  # with the stable: a control is what loads are like otherwise
    for name in (name for name in shares if compared and name not in standing.held):
        room = whole if surge is None else whole + surge - keeps - sum(replicas.values())
        alike = replicas_alike(whole, shares[name], left)
        replicas[name] += max(0, min(alike - replicas[name], room))
    beside = sum(replicas.values())
    replicas[plan.stable] = keeps
    if surge is None or beside + keeps <= whole + surge:
        return Needs(replicas=replicas)
    least = keeps if plan.stable in standing.held else min(keeps, replicas_for(whole, standing.stable_share))
    replicas[plan.stable] = max(least, min(keeps, whole + surge - beside))
    if beside + replicas[plan.stable] <= whole + surge:
        return Needs(replicas=replicas)
    counts = ", ".join(f"'{name}' {count}" for name, count in replicas.items())
    return Needs(
        replicas=replicas,
        shortage=f"{what} needs {beside + least} replicas ({counts}), and surge={plan.surge} allows {whole + surge}, {surge} more "
        f"than the {whole} that '{plan.stable}' had at the start",
    )


def steps_of(plan: ReleasePlan, control: str = "") -> list[tuple[str, float, dict[str, float]]]:
    """The steps and the promotion: in words, the stable's percent before, and what each of the others has then."""
    before, steps = 100.0, []
    for weight in plan.steps:
        steps.append((f"the step to {weight:g}%", before, shares_of(plan, weight, control=control)))
        before = 100.0 if plan.strategy == "shadow" else 100.0 - weight * len(plan.candidates)
    if plan.promote:
        steps += [("promotion", before, shares_of(plan, weight, winner=name)) for name in plan.candidates]
    return steps


def check_surge(plan: ReleasePlan, standing: Standing) -> None:
    """Refuse a release that ``surge`` would stop at one of its steps.

    Raises:
        InvalidInput: Names the step that needs most, and the surge that does.
    """
    whole = standing.start[plan.stable]
    allowed = surge_of(plan.surge, whole)
    if allowed is None:
        return
    worst, most = "", allowed
    present = dict(standing.present)
    for what, before, shares in steps_of(plan, standing.control):
        now = Standing(start=standing.start, present=present, held=standing.held, stable_share=before)
        needed = needs(plan, now, shares, what)
        wanted = sum(needed.replicas.values()) - whole
        if wanted > most:
            worst, most = what, wanted
        if what != "promotion":  # each arm may be promoted, and none after another
            present = dict(needed.replicas)
    if worst:
        raise InvalidInput(
            f"option 'surge' allows {allowed} replicas beyond the {whole} that '{plan.stable}' has, and {worst} needs {most}: say "
            f"surge={most} at least, or leave it out"
        )


def largest_needs(plan: ReleasePlan, standing: Standing) -> dict[str, tuple[int, str]]:
    """Deployment to the most replicas that any step asks of it, and which step that is."""
    whole = standing.start[plan.stable]
    largest: dict[str, tuple[int, str]] = {}
    for what, _, shares in steps_of(plan, standing.control):
        for name, share in shares.items():
            wanted = replicas_for(whole, share)
            if wanted > largest.get(name, (0, ""))[0]:
                largest[name] = wanted, what
    return largest
