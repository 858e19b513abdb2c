"""What must be seen before and after an edit: targets that answer, proxies that have the change."""

from __future__ import annotations

from mlflow_istio.core.basics.objects import Object, name_of, ready_replicas
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Traffic
from mlflow_istio.core.matching.probe import Probe, change_probe, pin_probe
from mlflow_istio.errors import NotReady, NotRouted, StateConflict
from mlflow_istio.releases.context import Context, endpoint_of, entrance_of, versions_of

_FIRST_WAIT = 2.0
"""Seconds before looking whether somebody else has changed the endpoint once more."""


def check_targets(
    context: Context, deployments: list[Object], before: Endpoint, after: Endpoint, *, timeout: float
) -> None:
    """No weight to a subset without ready endpoints; one that gets its first traffic must answer its pinned route.

    Only deployments that gain are asked: one that is broken and loses traffic must not hold the others back.

    Raises:
        StateConflict: A deployment that would get traffic is gone.
        NotReady: It has no ready replica.
        NotRouted: It does not answer through its pinned route.
    """
    by_name = {name_of(obj): obj for obj in deployments}
    versions = versions_of(deployments)
    for deployment in after.traffic.pins:
        if not _gains(deployment, before.traffic, after.traffic):
            continue
        if deployment not in by_name:
            raise StateConflict(f"deployment '{deployment}' is gone, so it can't get traffic: deploy it again first")
        if ready_replicas(by_name[deployment]) == 0:
            raise NotReady(
                f"deployment '{deployment}' has no ready replica, so it gets no traffic: see 'mlflow-istio status', or force it"
            )
        if not before.traffic.reaches(deployment):
            prove_pinned(context, after.name, deployment, versions[deployment], timeout)


def prove_pinned(context: Context, name: str, deployment: str, version: str, timeout: float) -> None:
    """Ask a deployment through its header route whether it answers as the version it should be.

    Raises:
        NotRouted: It does not, in time.
    """
    try:
        _asked(context, pin_probe(name, deployment, version), name, timeout)
    except NotRouted as exc:
        raise NotRouted(f"deployment '{deployment}' gets no traffic: {exc.message}", detail=exc.detail) from exc


def prove_change(
    context: Context, endpoint: Endpoint, timeout: float, virtual_service: Object | None = None
) -> tuple[str, ...]:
    """Wait until every reachable proxy has the endpoint's newest change, and say which those are.

    When somebody else changes the endpoint right after us, proxies answer with that change, which contains ours.

    Args:
        context: The ports.
        endpoint: The endpoint after the change.
        timeout: Seconds.
        virtual_service: The VirtualService that carries it, as just written; read when None.

    Raises:
        NotRouted: A proxy did not, in time.
        NotFound: The endpoint went away meanwhile.
    """
    first = min(_FIRST_WAIT, timeout / 2)
    try:
        return _asked(context, change_probe(endpoint.name, endpoint.change), endpoint.name, first, virtual_service)
    except NotRouted:
        newest = endpoint_of(context.cluster, endpoint.name).change
        return _asked(context, change_probe(endpoint.name, newest), endpoint.name, timeout - first)


def _asked(
    context: Context, probe: Probe, name: str, timeout: float, virtual_service: Object | None = None
) -> tuple[str, ...]:
    """The proxies that proved it, asked in the way that reaches the endpoint."""
    entrance = entrance_of(context.cluster, name, virtual_service)
    return tuple(context.cluster.wait_routed(entrance.through(probe), timeout))


def _gains(deployment: str, before: Traffic, after: Traffic) -> bool:
    if not after.reaches(deployment):
        return False
    return not before.reaches(deployment) or after.weights.get(deployment, 0) > before.weights.get(deployment, 0)
