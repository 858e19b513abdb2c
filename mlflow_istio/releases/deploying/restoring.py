"""Roll back to any earlier change: bring back what its traffic needs, then put the traffic back in one edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlflow_istio.core.basics.model_version import ModelReference, parse_label
from mlflow_istio.core.basics.objects import name_of, wanted_replicas
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.moves.way_back import check_restorable, find_change, needed, restore
from mlflow_istio.core.policy.settings import NO_POLICY
from mlflow_istio.errors import NotFound, RegistryError, StateConflict
from mlflow_istio.releases.context import Context, Outcome, deployments_of, endpoint_of, versions_of
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import deploy, update
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move

AsRequest = Callable[[str, str], DeployRequest]
"""Deployment's name and ``models:/`` URI to the request that brings it up."""


def rollback_to(
    context: Context,
    name: str,
    to: str,
    *,
    as_request: AsRequest,
    reason: str = "",
    force: bool = False,
    ready_timeout: float = 300.0,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Give an endpoint the traffic that an earlier change left: weights, arms, mirrors.

    What that traffic needs and is gone is deployed again under its name, in the version that the ledger has for it; what was
    scaled to 0 gets one replica. Only when all of it answers does one edit move the traffic.

    Args:
        context: The ports.
        name: The endpoint.
        to: Sequence number or id of the change.
        as_request: Makes the request for a deployment that has to come back.
        reason: Why, for the ledger.
        force: Whether to send traffic to a deployment that is not ready.
        ready_timeout: Seconds for the model servers to become ready.
        timeout: Seconds for the proxies to confirm.

    Raises:
        NotFound: There is no such endpoint, change or model version.
        StateConflict: The traffic can't be put back; names what it lacks.
        RegistryError: The change, or a version that must be deployed, is only in a registry that can't be reached.
        NotReady: A deployment that would get traffic is not ready, and it is not forced.
        NotRouted: A proxy did not take a change over in time.
    """
    endpoint = endpoint_of(context.cluster, name)
    changes = _known_changes(context, endpoint, to)
    change = find_change(changes, to, name)
    check_restorable(change)
    versions = needed(change, changes)
    if change.forged and not force:
        raise StateConflict(
            f"change {change.sequence} of endpoint '{name}' can't be gone back to: its tag '{change.tag_key}' was changed after it "
            "was written; look at it with 'mlflow-istio history --json', and say force=true (--force) if it is right all the same"
        )
    _bring_back(context, endpoint, change, versions, as_request, force=force, ready_timeout=ready_timeout)
    now = context.clock.now()
    deployed = tuple(name_of(obj) for obj in deployments_of(context.cluster, name))
    return move(
        context,
        name,
        lambda present: restore(present, change, now, deployed),
        action="rollback",
        reason=reason or f"back to change {change.sequence}",
        evidence={"to": change.sequence, "id": change.id},
        force=force,
        urgent=True,
        timeout=timeout,
    )


def _known_changes(context: Context, endpoint: Endpoint, to: str) -> Sequence[RoutingChange]:
    """Changes of the registry and those on the object; the latter alone, if they hold the one that is meant."""
    for warning in flush_outbox(context, endpoint.name, publish=False):
        context.warn(warning)
    waiting = endpoint.outbox
    try:
        recorded = context.registry.history(context.scope, endpoint.name)
    except RegistryError as exc:
        if any(to in (str(change.sequence), change.id) for change in waiting):
            return waiting
        raise RegistryError(
            f"change '{to}' of endpoint '{endpoint.name}' is not on the endpoint itself any more, and the registry that has it "
            f"can't be reached ({exc.message}): make it reachable, or move the traffic with 'weight' or 'action'"
        ) from exc
    known = {change.id for change in recorded}
    return (*recorded, *(change for change in waiting if change.id not in known))


def _bring_back(
    context: Context,
    endpoint: Endpoint,
    change: RoutingChange,
    versions: Mapping[str, str],
    as_request: AsRequest,
    *,
    force: bool,
    ready_timeout: float,
) -> None:
    """Deploy what is gone, once it is certain that all of it can be."""
    by_name = {name_of(obj): obj for obj in deployments_of(context.cluster, endpoint.name)}
    serving = versions_of(list(by_name.values()))
    gone: dict[str, str] = {}
    for name, version in versions.items():
        if name in by_name:
            if version and serving[name] != version:
                raise StateConflict(
                    f"deployment '{name}' serves {serving[name]} now, but served {version} in change {change.sequence}, "
                    "so that traffic can't be put back: deploy that version under another name and release it"
                )
            continue
        if not version:
            raise StateConflict(
                f"change {change.sequence} needs deployment '{name}', which is gone, and no entry says which version it "
                "served: deploy it first under that name"
            )
        gone[name] = _uri(context, name, version, change)
    requests = {name: as_request(name, uri) for name, uri in gone.items()}
    policy = change.after.policy if change.after else NO_POLICY
    for name, request in requests.items():
        if policy.versions.get(name) and request.runtime.names_version:
            raise StateConflict(
                f"change {change.sequence} needs deployment '{name}', which is gone and was not run by our own server: say what "
                'runs it, such as -C redeploy={"runtime": "mlserver", "image": "..."}'
            )
    for name, request in requests.items():
        context.tell(f"deployment '{name}' is gone: bringing it back")
        deploy(context, request)
    for name in versions:
        if name in by_name and not wanted_replicas(by_name[name]) and not force:
            context.tell(f"deployment '{name}' has no replicas: bringing one up")
            update(context, name, replicas=1, ready_timeout=ready_timeout)
        elif name in by_name and name not in endpoint.traffic.pins:
            deploy(
                context, as_request(name, _uri(context, name, serving[name], change))
            )  # its removal was not finished


def _uri(context: Context, name: str, version: str, change: RoutingChange) -> str:
    """The model URI of a version that can still be deployed.

    Raises:
        NotFound: The version, or its files, are gone.
        RegistryError: The registry can't be reached.
    """
    label = parse_label(version)
    try:
        return context.registry.resolve(ModelReference(model=label.model, version=label.version)).uri
    except NotFound as exc:
        raise NotFound(
            f"change {change.sequence} needs deployment '{name}' of {version}, which can't be brought back: {exc.message}"
        ) from exc
    except RegistryError as exc:
        raise RegistryError(
            f"change {change.sequence} needs deployment '{name}', which is gone and can't be brought back while the registry "
            f"can't be reached: {exc.message}"
        ) from exc
