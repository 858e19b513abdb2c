"""Before a step of a release: the replicas that it needs, up and ready; and at its opening, whether they can be had at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mlflow_istio.core.basics.objects import name_of, ready_replicas, wanted_replicas
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import replicas_after
from mlflow_istio.core.mesh.autoscalers import AUTOSCALERS, Autoscaler, autoscalers
from mlflow_istio.core.release.capacity import (
    Standing,
    check_surge,
    largest_needs,
    needs,
    shares_of,
)
from mlflow_istio.core.release.on_endpoint import step_weights
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.surge import replicas_for
from mlflow_istio.errors import Forbidden, InvalidInput, NotReady
from mlflow_istio.releases.context import Context, deployments_of, find_deployment
from mlflow_istio.releases.moving.scaling import is_ours_to_scale, scale

_PATIENCE = 5.0
"""Seconds at most for which a look waits for replicas before the release is looked at again."""

Say = Callable[[str], None]


def replicas_at_start(
    context: Context, endpoint: Endpoint, plan: ReleasePlan, coming: Mapping[str, int | None], *, control: str = ""
) -> dict[str, int]:
    """What the release's deployments have when it begins, where replicas follow the traffic; else nothing.

    Where the stable has one replica there is nothing to follow: every share needs one.

    Args:
        context: The ports.
        endpoint: The endpoint; of a release that is still open on it, what its deployments will have when it has ended counts.
        plan: The release's plan.
        coming: Deployments that are to be brought up first, and the replicas that were said of them.
        control: The control that is to be brought up as large as the candidate; empty for none.

    Raises:
        InvalidInput: ``surge`` stops the release at one of its steps, or is said of a stable that is its owner's; or an autoscaler
            forbids what a step needs.
    """
    if plan.capacity == "fixed":
        return {}
    if not endpoint.owns(endpoint.stable):
        if plan.surge is not None:
            raise InvalidInput(
                f"option 'surge' has no effect beside '{endpoint.stable.name}', which is its owner's, with replicas that can't be "
                "counted here: leave it out"
            )
        context.tell(f"replicas are left alone: '{plan.stable}' is its owner's, so nobody here knows how many it has")
        return {}
    present = {name_of(obj): wanted_replicas(obj) for obj in deployments_of(context.cluster, endpoint.name)}
    if endpoint.release is not None:
        present |= replicas_after(endpoint.release, endpoint.stable.name)
    present |= {name: replicas or present.get(name) or 1 for name, replicas in coming.items()}
    start = {name: present[name] for name in plan.deployments if name in present}
    if not start.get(plan.stable):
        return {}
    if control:
        start[control] = start.get(plan.candidate, 1)
    check_surge(plan, Standing(start=start, present=start, control=control))
    if start[plan.stable] == 1:
        return {}
    scalers = _autoscalers(context, context.warn)
    for name, (most, what) in largest_needs(plan, Standing(start=start, control=control)).items():
        scaler = scalers.get(name)
        if scaler is not None and most > scaler.high:
            raise InvalidInput(
                f"{scaler} allows '{name}' no more than {scaler.high}, and {what} needs {most} replicas of it: raise its maximum, "
                "or say capacity=fixed"
            )
    return start


def room_for(
    context: Context, endpoint: Endpoint, plan: ReleasePlan, weight: float, *, winner: str | None, say: Say, hurry: bool
) -> str:
    """Bring up what a step needs; why it has to wait, in one sentence, or nothing when all of it is there.

    Safe to be asked again and again, and by a successor: each time it does what is still to be done.

    Args:
        context: The ports.
        endpoint: The endpoint, with its open release.
        plan: The release's plan.
        weight: The candidates' percent at the step.
        winner: Who is promoted, where that is the step.
        say: Told what is left alone and why, once.
        hurry: Whether users have nobody else: what is needed is asked for, and nobody waits for it.
    """
    release = endpoint.release
    if release is None or not release.replicas:
        return ""
    what = "promotion" if winner is not None else f"the step to {weight:g}%"
    start, shares = dict(release.replicas), shares_of(plan, weight, winner=winner, control=release.control)
    by_name = {name_of(obj): obj for obj in deployments_of(context.cluster, endpoint.name)}
    present = {name: wanted_replicas(by_name[name]) for name in start if name in by_name}
    standing = Standing(start=start, present=present, stable_share=_stable_share(endpoint, plan))
    wished = needs(plan, standing, shares, what)
    asked, theirs = wished, list[str]()
    if wished.shortage or wished.replicas != present:
        scalers = _autoscalers(context, say)
        theirs = [name for name in present if name in scalers or not is_ours_to_scale(by_name[name], start[name])]
        asked = needs(plan, replace(standing, held=frozenset(theirs)), shares, what)
        for name in theirs:
            if wished.replicas[name] != present[name]:
                by = str(scalers.get(name, "its owner" if name in endpoint.attached else "somebody else"))
                say(
                    f"'{name}' has replicas={present[name]}, set by {by}, and keeps that: {what} would have given it "
                    f"{wished.replicas[name]}"
                )
    if asked.shortage and not hurry:
        return f"Waiting for room: {asked.shortage}."
    if not hurry and (waiting := _smaller(context, plan, asked.replicas[plan.stable], start[plan.stable])):
        return waiting
    growing = [name for name, count in asked.replicas.items() if name != plan.stable and count > present.get(name, 0)]
    for name in growing:
        context.tell(f"'{name}' goes from {present.get(name, 0)} to {asked.replicas[name]} replicas before {what}")
        scale(context, name, asked.replicas[name], start[name])
    whole = start[plan.stable]
    ready = {name: min(asked.replicas[name], replicas_for(whole, share)) for name, share in shares.items()}
    scaled = [name for name in shares if name not in theirs and asked.replicas[name] > start.get(name, 0)]
    return "" if hurry else _until_ready(context, plan, ready, scaled)


def _smaller(context: Context, plan: ReleasePlan, replicas: int, start: int) -> str:
    """Let the stable give up what its share doesn't need, where ``surge`` leaves no other way; why that takes longer."""
    name = plan.stable
    obj = context.cluster.get("Deployment", name)
    if obj is None or plan.surge is None:
        return ""
    if replicas < wanted_replicas(obj):
        context.tell(f"'{name}' goes to {replicas} replicas: surge={plan.surge} leaves no more room for the next step")
        scale(context, name, replicas, start)
        obj = context.cluster.get("Deployment", name) or obj
    leaving = int(obj.get("status", {}).get("replicas") or 0) - wanted_replicas(obj)
    return f"Waiting for room: {leaving} replicas of '{name}' have not gone yet." if leaving > 0 else ""


def _until_ready(context: Context, plan: ReleasePlan, replicas: Mapping[str, int], scaled: Sequence[str]) -> str:
    """Wait a little for the replicas that a step needs; what is still missing, or nothing.

    Of those that were scaled all are awaited, at each look: the cluster says more than their status does, such as whether a proxy
    of this machine sends them requests.
    """
    for name, count in replicas.items():
        if name in scaled:
            try:
                context.cluster.wait_ready(name, min(_PATIENCE, plan.interval))
            except NotReady as exc:
                return f"Waiting for replicas: {exc.message}."
        ready = ready_replicas(find_deployment(context.cluster, name) or {})
        if ready < count:
            return f"Waiting for replicas: {ready} of {count} of '{name}' are ready."
    return ""


def _stable_share(endpoint: Endpoint, plan: ReleasePlan) -> float:
    if plan.strategy == "shadow":
        return 100.0
    return step_weights(endpoint, plan).get(plan.stable, 100.0)


def _autoscalers(context: Context, say: Say) -> dict[str, Autoscaler]:
    """What scales this place's Deployments, as far as we may see it; what we may not is said and is no obstacle."""
    objects = {}
    for kind in AUTOSCALERS:
        try:
            objects[kind] = context.cluster.list(kind, {})
        except Forbidden as exc:
            say(f"whether a {kind} sets replicas here can't be seen: {exc.message}")
    return autoscalers(objects)
