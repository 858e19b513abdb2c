"""Take deployments and endpoints away.

Weight away -> proxies confirm -> a moment for requests in flight -> subset -> pods. Each step may be the last one a process
lives to do: the same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlflow_istio.core import transitions
from mlflow_istio.core.destination_rule import without_subset
from mlflow_istio.core.endpoint import Endpoint
from mlflow_istio.core.model_version import parse_label
from mlflow_istio.core.objects import DEPLOYMENT_LABEL, ENDPOINT_LABEL, Object, labels_of, name_of
from mlflow_istio.core.standing import Standing, alias_names
from mlflow_istio.errors import NotFound, RegistryError, StateConflict
from mlflow_istio.releases.desk import Desk, Outcome, deployments_of, endpoint_of, existing_endpoint, versions_of
from mlflow_istio.releases.ledger import catch_up
from mlflow_istio.releases.traffic import DEFAULT_TIMEOUT, move


def delete(desk: Desk, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> Outcome | None:
    """Take a deployment away; None when there is none (deleting twice is fine).

    Raises:
        StateConflict: It has traffic, is stable, or belongs to the open release.
        NotRouted: A proxy did not take the change over in time; the pods still run.
    """
    found = desk.cluster.get("Deployment", name)
    if found is None or DEPLOYMENT_LABEL not in labels_of(found):
        return None
    endpoint_name = labels_of(found)[ENDPOINT_LABEL]
    version = versions_of([found])[name]
    endpoint = existing_endpoint(desk.cluster, endpoint_name)
    outcome = Outcome(endpoint=None, changed=False)
    if endpoint is not None:
        outcome = move(
            desk,
            endpoint_name,
            lambda now: transitions.unpin(now, name),
            action="remove",
            timeout=timeout,
        )
        desk.clock.sleep(desk.removal_delay)
        _drop_subset(desk, endpoint_name, name)
    desk.cluster.delete("Deployment", name)
    if endpoint is None:
        return outcome
    others = set(versions_of(deployments_of(desk.cluster, endpoint_name)).values())
    removed = () if version in others else (version,)
    return replace(outcome, warnings=(*outcome.warnings, *catch_up(desk, endpoint_name, removed=removed)))


def delete_endpoint(desk: Desk, name: str, *, force: bool = False) -> bool:
    """Take an endpoint away with all its deployments; False when there is none.

    The registry must have every change first, since the object that holds them goes.

    Raises:
        StateConflict: A release is open, or changes wait for a registry that is down, and it is not forced.
    """
    endpoint = existing_endpoint(desk.cluster, name)
    deployments = deployments_of(desk.cluster, name)
    if endpoint is not None:
        _mark_deleting(desk, name, force)
        desk.cluster.delete("VirtualService", name)
        desk.clock.sleep(desk.removal_delay)
    gone = [desk.cluster.delete("DestinationRule", name)]
    gone += [desk.cluster.delete("Deployment", name_of(obj)) for obj in deployments]
    gone += [desk.cluster.delete("Service", name)]
    if deployments:
        _forget_endpoint(desk, name, endpoint.settings if endpoint else {}, versions_of(deployments))
    return endpoint is not None or any(gone)


def _mark_deleting(desk: Desk, name: str, force: bool) -> None:
    """From here on nothing else may change the endpoint, and the ledger says who deletes it."""

    def mark(now: Endpoint) -> Endpoint:
        return transitions.mark_deleting(now, force=force)

    move(desk, name, mark, action="delete", force=True, urgent=True)
    waiting = endpoint_of(desk.cluster, name).unrecorded
    if waiting and not force:
        raise StateConflict(
            f"endpoint '{name}' holds {len(waiting)} routing changes the registry does not have: make it reachable and delete "
            "again, or lose them with -C force=true"
        )


def _forget_endpoint(desk: Desk, name: str, settings: Mapping[str, str], versions: Mapping[str, str]) -> None:
    """Take tags and aliases away; with no object left, nothing else would."""
    labels = tuple(sorted(set(versions.values())))
    names = alias_names(settings).values()
    aliases = {(parse_label(label).model, alias): None for label in labels for alias in names}
    try:
        desk.registry.publish(Standing(scope=desk.scope, endpoint=name, served=(), removed=labels, aliases=aliases))
    except RegistryError as exc:
        desk.warn(f"tags and aliases of endpoint '{name}' are left over ({exc.message}): see 'mlflow-istio doctor'")


def _drop_subset(desk: Desk, endpoint: str, deployment: str) -> None:
    def drop(rule: Object | None) -> Object:
        if rule is None:
            raise NotFound(f"DestinationRule '{endpoint}' is gone")
        return without_subset(rule, deployment)

    if desk.cluster.get("DestinationRule", endpoint) is not None:
        desk.cluster.edit("DestinationRule", endpoint, drop)
