"""Replicas that follow the traffic: set one Deployment's number, let who gets users back have theirs first, leave all as they were.

A number that somebody else has set since, a person or an autoscaler, is theirs: it is never changed. Whose it is stands on the
Deployment, in the same write as the number, so that whoever goes on after a death sees it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mlflow_istio.core.basics.objects import (
    SCALED_ANNOTATION,
    Object,
    annotations_of,
    name_of,
    wanted_replicas,
    with_annotations,
)
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.attached import is_attached
from mlflow_istio.core.moves.gaining import gaining
from mlflow_istio.core.release.surge import replicas_for
from mlflow_istio.errors import ClusterError, MlflowIstioError, NotFound
from mlflow_istio.releases.context import Context, deployments_of, edit_endpoint


def is_ours_to_scale(deployment: Object, start: int) -> bool:
    """Whether nobody else has set a Deployment's number since the release began; that of what is attached is its owner's.

    Args:
        deployment: The Deployment.
        start: Its replicas when the release began.
    """
    given = annotations_of(deployment).get(SCALED_ANNOTATION)
    return not is_attached(deployment) and str(wanted_replicas(deployment)) == (str(start) if given is None else given)


def scale(context: Context, name: str, replicas: int, start: int) -> bool:
    """Give a Deployment so many replicas, unless somebody else has set its number: whether it has them asked for now.

    Args:
        context: The ports.
        name: The Deployment.
        replicas: How many.
        start: How many it had when the release began.

    Raises:
        NotFound: There is no such Deployment any more.
        ClusterError: The cluster can't be reached or refuses.
    """

    def with_number(obj: Object) -> Object:
        if wanted_replicas(obj) == replicas or not is_ours_to_scale(obj, start):
            return obj
        return with_annotations(_sized(obj, replicas), {SCALED_ANNOTATION: str(replicas)})

    return wanted_replicas(_edited(context, name, with_number)) == replicas


def prepare_return(context: Context, before: Endpoint, after: Endpoint, timeout: float) -> None:
    """Let whoever gets users back have the replicas of before first, ready: no weight beyond capacity, on the way back either.

    Only a release that ``surge`` bounds has made its stable smaller, so there is nothing to wait for otherwise. A way back is
    never held up for longer than the timeout.

    Args:
        context: The ports.
        before: The endpoint before the way back.
        after: As it is to be.
        timeout: Seconds for the replicas.
    """
    numbers = _numbers_of(before)
    for name in gaining(before, after) if numbers else ():
        try:
            obj = context.cluster.get("Deployment", name)
            number = numbers.get(name, 0)
            if obj is None or wanted_replicas(obj) >= number or not _was_scaled(obj):
                continue
            context.tell(f"'{name}' gets its {number} replicas back before its users return")
            if scale(context, name, number, number):
                context.cluster.wait_ready(name, timeout)
        except (ClusterError, NotFound) as exc:
            context.warn(f"'{name}' gets its users back with fewer replicas than it had: {exc.message}")


def prepare_promotion(context: Context, before: Endpoint, after: Endpoint, *, wait: bool, timeout: float) -> None:
    """Give whom a person promotes the replicas that all the traffic needs, where the release lets replicas follow it.

    Args:
        context: The ports.
        before: The endpoint with its open release.
        after: As it is to be.
        wait: Whether to wait until they are ready.
        timeout: Seconds for the replicas.

    Raises:
        NotReady: They did not come up; the traffic is as it was.
    """
    release, chosen = before.release, after.stable.name
    if release is None or after.release is not None or after.last is None:
        return
    whole = after.last.replicas.get(chosen, 0)
    obj = context.cluster.get("Deployment", chosen) if whole else None
    if obj is None or wanted_replicas(obj) >= whole:
        return
    if scale(context, chosen, whole, release.replicas.get(chosen, 1)):
        context.tell(f"'{chosen}' goes to {whole} replicas before it gets all the traffic")
        if wait:
            context.cluster.wait_ready(chosen, timeout)


def finish(context: Context, endpoint: Endpoint) -> tuple[str, ...]:
    """Leave the Deployments of a release that has ended with the replicas they are to end with; what went wrong, a line each.

    Whoever dies before the last of it leaves what is to be done on the object: the next command, or the sweep, does it. Traffic has
    gone, and proxies have confirmed it, before anybody gets smaller.

    Args:
        context: The ports.
        endpoint: The endpoint as it is now.
    """
    last = endpoint.last
    if endpoint.release is not None or last is None or not last.replicas:
        return ()
    try:
        present = {name_of(obj): obj for obj in deployments_of(context.cluster, endpoint.name)}
        ours = {
            name: number for name, number in last.replicas.items() if name in present and _was_scaled(present[name])
        }
        growing = [name for name, number in ours.items() if wanted_replicas(present[name]) < number]
        shrinking = [name for name in ours if name not in growing]
        for name in growing:
            _edited(context, name, _ended_with(ours[name]))
        if any(wanted_replicas(present[name]) > ours[name] for name in shrinking):
            context.clock.sleep(context.removal_delay)
        for name in shrinking:
            _edited(context, name, _ended_with(ours[name]))

        def with_nothing_left(now: Endpoint) -> Endpoint:
            same = now.release is None and now.last is not None and now.last.id == last.id
            return replace(now, last=replace(now.last, replicas={})) if same and now.last else now

        edit_endpoint(context.cluster, endpoint.virtual_service, endpoint.name, with_nothing_left)
    except MlflowIstioError as exc:
        return (
            f"the replicas of endpoint '{endpoint.name}' are not as they are to be after release '{last.id}': {exc.message}; the "
            "next command, or 'mlflow-istio sweep', does the rest",
        )
    return ()


def thin(endpoint: Endpoint, deployments: Sequence[Object]) -> tuple[str, ...]:
    """Candidates that have fewer replicas than their share of the stable's would be, a line each: by hand replicas are left alone.

    Args:
        endpoint: The endpoint as it is now.
        deployments: Its Deployments.
    """
    release = endpoint.release
    if release is None or release.strategy == "shadow" or not endpoint.owns(endpoint.stable):
        return ()
    present = {name_of(obj): wanted_replicas(obj) for obj in deployments}
    whole = present.get(endpoint.stable.name, 0)
    lines = []
    for name in release.candidates:
        weight = endpoint.traffic.weights.get(name, 0)
        needed = replicas_for(whole, weight)
        if weight and name in present and present[name] < needed:
            way = (
                "its owner gives it more"
                if name in endpoint.attached
                else f"you run 'mlflow deployments update --name {name} -C replicas={needed}'"
            )
            lines.append(
                f"deployment '{name}' has {weight}% of the traffic with replicas={present[name]}, where the {whole} of "
                f"'{endpoint.stable.name}' would be {needed} for that: each gets more than one of the stable's, unless {way}"
            )
    return tuple(lines)


def _numbers_of(endpoint: Endpoint) -> Mapping[str, int]:
    """The replicas of before: of the open release, or of the last one while it is not left as it is to be."""
    if endpoint.release is not None:
        return endpoint.release.replicas
    return endpoint.last.replicas if endpoint.last is not None else {}


def _was_scaled(deployment: Object) -> bool:
    return SCALED_ANNOTATION in annotations_of(deployment)


def _sized(deployment: Object, replicas: int) -> Object:
    return {**deployment, "spec": {**deployment["spec"], "replicas": replicas}}


def _ended_with(replicas: int) -> Callable[[Object], Object]:
    """A Deployment with the number it is to end with, if we gave it the one it has, and without our note in any case."""

    def ended(deployment: Object) -> Object:
        ours = annotations_of(deployment).get(SCALED_ANNOTATION) == str(wanted_replicas(deployment))
        return with_annotations(_sized(deployment, replicas) if ours else deployment, {SCALED_ANNOTATION: None})

    return ended


def _edited(context: Context, name: str, change: Callable[[Object], Object]) -> Object:
    def edit(obj: Object | None) -> Object:
        if obj is None:
            raise NotFound(f"there is no deployment '{name}' any more")
        return change(obj)

    return context.cluster.edit("Deployment", name, edit)[1]
