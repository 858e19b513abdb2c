"""Whether a command, given again, means the release that an earlier version of mlflow-istio opened by it.

A version that knows more fills in more where nothing is said, so its plan of the same options has more in it than the one that
stands on the object. The release goes on by what stands there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mlflow_istio.core.release.guards.base import GuardTerms
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan


def is_of_earlier_version(known: ReleasePlan) -> bool:
    """Whether a stored plan was made before there were controls, which every plan of today says something of."""
    return known.control is None


def as_stored(plan: ReleasePlan, known: ReleasePlan) -> ReleasePlan:
    """The plan as whoever stored `known` would have made it of the same options.

    What was said stays as it is, so that another plan stays another: a control that is asked for, a surge, a watch. Where nothing
    was said and where it was can't be told apart of replicas that follow the traffic, of the warm-up, and of the requests that
    come before latency counts: none of them changes what is released or how far it may go.
    """
    plan = replace(plan, warm=known.warm)  # that is done
    if not is_of_earlier_version(known):
        return plan
    unsaid = plan.control == "auto" or plan.strategy != "canary" or not plan.guards
    plan = replace(
        plan,
        control=None if unsaid else plan.control,
        capacity=known.capacity if plan.surge is None else plan.capacity,
        warm_requests=known.warm_requests,
    )
    if known.rules == plan.rules:
        return plan
    return replace(
        plan,
        rules=known.rules,
        phase=known.phase if plan.phase is None else plan.phase,
        guards=tuple(_guards_of_then(plan.guards, known.guards)),
    )


def as_before_controls(plan: ReleasePlan) -> Iterator[ReleasePlan]:
    """What the versions before controls may have made of the same options, where their plan itself is not kept."""
    if plan.surge is None:
        known = replace(plan, control=None, warm="none", capacity="fixed")
        yield as_stored(plan, known)
        yield as_stored(plan, replace(known, capacity="follow"))


def _guards_of_then(guards: tuple[GuardPlan, ...], known: tuple[GuardPlan, ...]) -> Iterator[GuardPlan]:
    """Without the one that came by itself later, and with the shares of alpha of then."""
    then: dict[str, GuardTerms] = {guard.name: guard for guard in known}
    for guard in guards:
        if guard.name in then:
            yield replace(guard, weight=then[guard.name].weight)
        elif guard.kind != "gross":
            yield guard
