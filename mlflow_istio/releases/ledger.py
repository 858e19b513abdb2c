"""Keep the registry in step with the object: left-overs first, in order, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlflow_istio.core.endpoint import Endpoint, Release, without_recorded
from mlflow_istio.core.objects import Object
from mlflow_istio.core.routing_change import RoutingChange
from mlflow_istio.core.standing import standing_of
from mlflow_istio.core.virtual_service import read_endpoint
from mlflow_istio.errors import NotFound, RegistryError
from mlflow_istio.releases.desk import Desk, deployments_of, versions_of, virtual_service_of


def catch_up(
    desk: Desk,
    name: str,
    *,
    objects: Mapping[str, Object] | None = None,
    removed: Sequence[str] = (),
    publish: bool = True,
) -> tuple[str, ...]:
    """Record what the registry does not have yet, then make its tags and aliases say what stands now.

    A registry that is down is a warning here, never an error: the changes wait on the object, and the next command
    records them.

    Args:
        desk: The ports.
        name: The endpoint.
        objects: Artifacts for the newest change, by file stem; older ones have none any more.
        removed: ``MODEL/VERSION`` of deployments just removed.
        publish: Whether to publish even when nothing was left over.

    Returns:
        Warnings, one line each.
    """
    virtual_service = virtual_service_of(desk.cluster, name)
    endpoint = read_endpoint(virtual_service, name)
    pending = endpoint.unrecorded
    recorded: set[str] = set()
    try:
        for change in pending:
            artifacts = objects if objects and change.id == endpoint.change else {}
            desk.registry.record(desk.scope, _with_run(desk, endpoint, change), artifacts or {})
            recorded.add(change.id)
    except RegistryError as exc:
        _forget(desk, name, recorded)
        left = len(pending) - len(recorded)
        return (
            f"{left} routing change{'s wait' if left > 1 else ' waits'} on endpoint '{name}' itself until the registry is back "
            f"({exc.message})",
        )
    _forget(desk, name, recorded)
    if not (publish or recorded or removed):
        return ()
    return publish_standing(desk, name, removed)


def publish_standing(desk: Desk, name: str, removed: Sequence[str] = ()) -> tuple[str, ...]:
    """Tags and aliases from the current object; a registry that is down is a warning."""
    endpoint = read_endpoint(virtual_service_of(desk.cluster, name), name)
    versions = versions_of(deployments_of(desk.cluster, name))
    try:
        desk.registry.publish(standing_of(endpoint, desk.scope, versions, removed))
    except RegistryError as exc:
        return (
            f"tags and aliases of endpoint '{name}' are not up to date ({exc.message}); any later command mends them",
        )
    except NotFound as exc:
        return (f"tags and aliases of endpoint '{name}' could not all be set: {exc.message}",)
    return ()


def run_for(desk: Desk, name: str, release: Release | None) -> tuple[str | None, tuple[str, ...]]:
    """The run a change will be recorded in, opened before the edit; None with a warning while the registry is down."""
    try:
        return desk.registry.open_run(desk.scope, name, release), ()
    except RegistryError as exc:
        return None, (f"no run could be opened yet ({exc.message}); the changes wait on the object",)


def close_run(desk: Desk, run: str | None, outcome: str) -> tuple[str, ...]:
    """End a release's run; a registry that is down is a warning."""
    if run is None:
        return ()
    try:
        desk.registry.close_run(run, outcome)
    except RegistryError as exc:
        return (f"run {run} is still shown as running ({exc.message})",)
    return ()


def _with_run(desk: Desk, endpoint: Endpoint, change: RoutingChange) -> RoutingChange:
    """A change made while the registry was down has no run: it gets its release's, or the standing one."""
    if change.run is not None:
        return change
    if change.release is None:
        return replace(change, run=desk.registry.open_run(desk.scope, endpoint.name, None))
    known = endpoint.release if endpoint.release and endpoint.release.id == change.release else None
    stand_in = known or Release(id=change.release, strategy="", candidates=(), opened=change.time, who=change.who)
    return replace(change, run=desk.registry.open_run(desk.scope, endpoint.name, stand_in))


def _forget(desk: Desk, name: str, recorded: set[str]) -> None:
    if not recorded:
        return

    def forget(virtual_service: Object | None) -> Object:
        if virtual_service is None:
            raise NotFound(f"endpoint '{name}' went away while its changes were recorded")
        return without_recorded(virtual_service, name, frozenset(recorded))

    desk.cluster.edit("VirtualService", name, forget)
