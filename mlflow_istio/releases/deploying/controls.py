"""Bring a control up beside its candidate, keep it as large, and take it away.

Its deadline stands on the endpoint before its pods do and until they are gone, so whoever dies, somebody takes it away.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

from mlflow_istio.core.basics.objects import (
    CONTROL_ANNOTATION,
    ENDPOINT_LABEL,
    Object,
    annotations_of,
    labels_of,
    wanted_replicas,
)
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.destination_rule import with_subset
from mlflow_istio.core.mesh.manifests import destination_rule_manifest, runtime_of_deployment
from mlflow_istio.core.mesh.twin import twin
from mlflow_istio.core.moves import control_share, transitions
from mlflow_istio.core.release.driver import release_status_of
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.releases.context import (
    Context,
    deployment_of,
    edit_endpoint,
    endpoint_of,
    find_deployment,
    versions_of,
)
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving.proof import prove_pinned
from mlflow_istio.releases.moving.scaling import scale
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move

STARTING = timedelta(minutes=30)
"""How long the opening of a release may take after its control was announced, beyond what its pods may take."""

AGAIN = timedelta(hours=1)
"""A control whose release still goes on after its deadline is looked at again after so long."""


def check_free(context: Context, endpoint: Endpoint, control: str) -> None:
    """Refuse a control whose name is taken by what is none, before anything is applied.

    Raises:
        StateConflict: Names what stands there.
    """
    obj = context.cluster.get("Deployment", control)
    if obj is not None and not (_is_control(obj, endpoint.name) or endpoint.role_of(control) == "control"):
        raise StateConflict(
            f"a control of '{endpoint.stable.name}' would be deployment '{control}', which is there already and is none: delete "
            "it, or say control=none"
        )


def bring_up(
    context: Context, name: str, *, control: str, candidate: str, ready_timeout: float, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Deploy the stable's version once more, as large as the candidate: reachable by its header, at no weight.

    One that does not come up is taken away again.

    Args:
        context: The ports.
        name: The endpoint.
        control: The control's name.
        candidate: The candidate, which is deployed already.
        ready_timeout: Seconds for its pods to become ready.
        timeout: Seconds for the proxies to confirm.

    Raises:
        NotReady: It did not come up.
        NotRouted: A proxy did not take a change over in time.
        StateConflict: Its name is taken.
    """
    endpoint = endpoint_of(context.cluster, name)
    check_free(context, endpoint, control)
    named = endpoint.traffic.policy.versions.get(endpoint.stable.name)
    original = deployment_of(context.cluster, endpoint.stable.name)
    until = context.clock.now() + timedelta(seconds=ready_timeout + timeout) + STARTING
    edit_endpoint(
        context.cluster, endpoint.virtual_service, name, lambda now: control_share.announced(now, control, until)
    )
    context.tell(f"deploying '{control}', which runs what '{endpoint.stable.name}' runs, to compare '{candidate}' with")
    try:
        context.cluster.apply(twin(original, control, _replicas(deployment_of(context.cluster, candidate))))
        context.cluster.wait_ready(control, ready_timeout)
        rule = destination_rule_manifest(context.templates["DestinationRule"], name)
        context.cluster.edit("DestinationRule", name, lambda present: with_subset(present or rule, control))
        move(
            context,
            name,
            lambda now: transitions.pin(now, control, named),
            action="deploy",
            reason=f"control of '{candidate}': runs what '{endpoint.stable.name}' runs",
            timeout=timeout,
        )
        version, runtime = versions_of([original])[endpoint.stable.name], runtime_of_deployment(original)
        prove_pinned(context, name, control, version, timeout, runtime)
    except MlflowIstioError:
        with contextlib.suppress(MlflowIstioError):  # its deadline stands
            take_away(context, name, control)
        raise


def keep_as_large(context: Context, control: str, candidate: str, timeout: float) -> None:
    """Give a control as many replicas as the candidate has, and wait for them, before both get more to answer.

    Raises:
        NotReady: They did not come up.
    """
    obj, other = (find_deployment(context.cluster, name) for name in (control, candidate))
    if obj is None or other is None or _replicas(obj) == _replicas(other):
        return
    if scale(context, control, _replicas(other), _replicas(obj)):
        context.cluster.wait_ready(control, timeout)


def take_away(context: Context, name: str, control: str, *, reason: str = "its release is over") -> None:
    """Take a control away and forget its deadline, which goes last: whoever dies before that is done again."""
    endpoint = endpoint_of(context.cluster, name)
    if endpoint.release is not None and endpoint.release.control == control:
        move(
            context,
            name,
            lambda now: control_share.dismissed(now, control),
            action="shift",
            reason=f"control '{control}' goes: {reason}",
        )
    if removal.delete(context, control, reason=reason) is None:
        _forget_route(context, name, control)
    edit_endpoint(context.cluster, endpoint.virtual_service, name, lambda now: control_share.forgotten(now, control))


def is_wanted_until(endpoint: Endpoint, control: str, now: datetime) -> datetime | None:
    """Until when a control whose deadline has passed is still wanted; None: it is not.

    It is while its release is open and somebody drives it or has paused it.
    """
    release = endpoint.release
    if release is None or release.control != control:
        return None
    status = release_status_of(endpoint.progress)
    driven = status is not None and status.driven(now) is not None
    return now + AGAIN if driven or release.state == "paused" else None


def put_off(context: Context, name: str, control: str, until: datetime) -> None:
    """Look at a control again later."""
    virtual_service = endpoint_of(context.cluster, name).virtual_service
    edit_endpoint(context.cluster, virtual_service, name, lambda now: control_share.announced(now, control, until))


def _forget_route(context: Context, name: str, control: str) -> None:
    """The header route of a control whose Deployment somebody deleted by hand."""
    if control in endpoint_of(context.cluster, name).traffic.pins:
        move(context, name, lambda now: transitions.unpin(now, control), action="remove", reason="its pods are gone")
    removal.drop_subset(context, name, control)


def _is_control(deployment: Object, endpoint: str) -> bool:
    return CONTROL_ANNOTATION in annotations_of(deployment) and labels_of(deployment).get(ENDPOINT_LABEL) == endpoint


def _replicas(deployment: Object) -> int:
    return max(1, wanted_replicas(deployment))
