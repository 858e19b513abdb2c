"""Take deployments and endpoints away.

Weight away -> proxies confirm -> a moment for requests in flight -> subset -> pods. Each step may be the last one a process
lives to do: the same command again does the rest.
"""

from __future__ import annotations

from mlflow_istio.core.basics.objects import DEPLOYMENT_LABEL, ENDPOINT_LABEL, Object, labels_of, name_of
from mlflow_istio.core.endpoint.endpoint import Endpoint, has_endpoint
from mlflow_istio.core.mesh.attached import is_attached
from mlflow_istio.core.mesh.destination_rule import with_policy, without_subset
from mlflow_istio.core.mesh.foreign_routes import foreign_routes
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import given_back, looks_adopted, torn_out
from mlflow_istio.core.policy.routes import written_policy
from mlflow_istio.errors import InvalidInput, NotFound, NotRouted, StateConflict, Unsupported
from mlflow_istio.releases.context import (
    ROOT,
    Context,
    Outcome,
    deployments_of,
    emit_warnings,
    endpoint_of,
    entrance_of,
    existing_endpoint,
    find_virtual_service,
    is_ours,
    versions_of,
)
from mlflow_istio.releases.deploying.sharing import check_nothing_under, give_up_claims
from mlflow_istio.releases.ledger import flush_outbox, publish_nothing, run_for
from mlflow_istio.releases.moving.attachments import let_go
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move
from mlflow_istio.releases.reading.owners_services import check_owners_services


def delete(
    context: Context, name: str, *, force: bool = False, reason: str = "", timeout: float = DEFAULT_TIMEOUT
) -> Outcome | None:
    """Take a deployment away; None when there is none (deleting twice is fine).

    The registry forgets where its version served before the pods go, since afterwards nobody knows which version it was.

    Args:
        context: The ports.
        name: The deployment.
        force: Whether to delete it though routes of others go to it.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.

    Raises:
        StateConflict: It has traffic, is stable, or belongs to the open release; or somebody else's route goes to it, and it is
            not forced.
        NotRouted: A proxy did not take the change over in time; the pods still run.
    """
    obj = context.cluster.get("Deployment", name)
    if obj is None or DEPLOYMENT_LABEL not in labels_of(obj):
        return None
    endpoint = labels_of(obj)[ENDPOINT_LABEL]
    outcome = Outcome(endpoint=None, changed=True)
    if existing_endpoint(context.cluster, endpoint) is not None:
        transitions.unpin(endpoint_of(context.cluster, endpoint), name)  # says first what is its own
    check_no_foreign_routes(context, endpoint, deployment=name, force=force)
    if existing_endpoint(context.cluster, endpoint) is not None:
        outcome = move(
            context,
            endpoint,
            lambda now: transitions.unpin(now, name),
            action="remove",
            reason=reason,
            timeout=timeout,
        )
        context.clock.sleep(context.removal_delay)
        drop_subset(context, endpoint, name)
    if is_attached(obj):
        let_go(context, endpoint, (name,))
    context.cluster.delete("Deployment", name)
    return outcome


def delete_endpoint(
    context: Context, name: str, *, force: bool = False, reason: str = "", timeout: float = DEFAULT_TIMEOUT
) -> bool:
    """Take an endpoint away with all its deployments; False when there is none.

    The registry must have every change first, since the object that holds them goes. Objects of the same name that were
    not made for the endpoint stay.

    Args:
        context: The ports.
        name: The endpoint.
        force: Whether to delete it with a release open, with a registry that is down, though routes of others go to it or what
            users had before it is gone, or when it can't be read any more.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm that it is being deleted.

    Raises:
        StateConflict: A release is open, changes wait for a registry that is down, somebody else's route goes to it, or what its
            users had before is gone, and it is not forced.
        InvalidInput: It can't be read, and it is not forced.
        NotRouted: A proxy did not take the mark over in time, and it is not forced.
    """
    check_nothing_under(context, name)
    endpoint = _readable(context, name, force)
    routes = find_virtual_service(context.cluster, name) or _named(context, name)
    deployments = deployments_of(context.cluster, name)
    if endpoint is not None or (routes is None and deployments):
        check_no_foreign_routes(context, name, force=force)
    if endpoint is not None:
        if not endpoint.deleting or _is_reached(context, name):
            _mark_deleting(context, name, force=force, reason=reason, timeout=timeout)
    elif deployments:
        emit_warnings(context, publish_nothing(context, name, {}, versions_of(deployments).values()))
    give_up_claims(context, name, endpoint.settings.get(ROOT, "") if endpoint else None)
    if routes is not None:
        if is_ours(routes, name):
            context.cluster.delete("VirtualService", name)
        else:
            _give_back(context, name, name_of(routes), torn=endpoint is None)
        context.clock.sleep(context.removal_delay)
    attached = {name_of(obj) for obj in deployments if is_attached(obj)} | {*(endpoint.attached if endpoint else ())}
    gone = [let_go(context, name, sorted(attached)), _delete_ours(context, "DestinationRule", name)]
    gone += [context.cluster.delete("Deployment", name_of(obj)) for obj in deployments]
    gone += [_delete_ours(context, "Service", name)]
    return routes is not None or any(gone)


def check_no_foreign_routes(
    context: Context, name: str, *, deployment: str | None = None, force: bool = False, what: str = "deleted"
) -> None:
    """Refuse to take away what routes of others go to; copies, whose answers nobody gets, and what is forced are warnings.

    Raises:
        StateConflict: Names the route and its VirtualService.
    """
    there = context.cluster.list("VirtualService", {})
    attached = [
        name_of(each)
        for each in deployments_of(context.cluster, name)
        if is_attached(each) and deployment in (None, name_of(each))
    ]
    foreign = list(foreign_routes(there, name, context.cluster.scope, deployment, attached))
    meant = f"endpoint '{name}'" if deployment is None else f"deployment '{deployment}' of endpoint '{name}'"
    live = [str(route) for route in foreign if not route.copies]
    if live and not force:
        raise StateConflict(
            f"{meant} can't be {what}: {' and '.join(live)} {'goes' if len(live) == 1 else 'go'} to it, whose users would get "
            "errors; take it out there first, or force it"
        )
    lost = [*(f"users of {user}" for user in live), *(f"copies of {route}" for route in foreign if route.copies)]
    if lost:
        emit_warnings(context, (f"{meant} is {what} though it is where {', '.join(lost)} go",))


def _is_reached(context: Context, name: str) -> bool:
    """Whether requests still come to an endpoint; the root of one whose deletion was cut short may have let go of it."""
    try:
        entrance_of(context.cluster, name)
    except NotFound:
        return False
    except (InvalidInput, Unsupported):
        return True  # perhaps: a route above takes those of ours
    return True


def _give_back(context: Context, name: str, virtual_service: str, *, torn: bool) -> None:
    """Take our routes and annotations out of a VirtualService that stays its owner's."""

    def give_back(virtual_service: Object | None) -> Object:
        if virtual_service is None:
            raise NotFound(f"VirtualService '{virtual_service}' went away meanwhile: run the same command again")
        if not has_endpoint(virtual_service, name):
            return virtual_service
        return torn_out(virtual_service, name) if torn else given_back(virtual_service, name)

    context.tell(f"giving route back to VirtualService '{virtual_service}'")
    context.cluster.edit("VirtualService", virtual_service, give_back)


def _named(context: Context, name: str) -> Object | None:
    """The VirtualService that was made for the endpoint, even if it no longer says that it carries it."""
    obj = context.cluster.get("VirtualService", name)
    return obj if obj is not None and is_ours(obj, name) else None


def _readable(context: Context, name: str, force: bool) -> Endpoint | None:
    """The endpoint; None when there is none, or when it is forced and ours but can't be read."""
    virtual_service = find_virtual_service(context.cluster, name) or _named(context, name)
    if virtual_service is None:
        left = deployments_of(context.cluster, name) or any(
            (obj := context.cluster.get(kind, name)) is not None and is_ours(obj, name)
            for kind in ("Service", "DestinationRule")
        )
        # A VirtualService of that name may have been adopted, and given back before the rest was taken away.
        return None if left else existing_endpoint(context.cluster, name)
    try:
        return (
            read_endpoint(virtual_service, name)
            if has_endpoint(virtual_service, name)
            else existing_endpoint(context.cluster, name)
        )
    except (InvalidInput, NotFound, StateConflict) as exc:
        if not force or not (is_ours(virtual_service, name) or looks_adopted(virtual_service, name)):
            raise
        emit_warnings(context, (f"endpoint '{name}' is deleted unread, so its last changes are lost ({exc.message})",))
        return None


def _mark_deleting(context: Context, name: str, *, force: bool, reason: str, timeout: float) -> None:
    """From here on nothing else may change the endpoint, and the ledger says who deletes it."""
    if not force:
        before = endpoint_of(context.cluster, name)
        check_owners_services(context, before, transitions.mark_deleting(before))
        _, problems = run_for(context, name, None)  # before the mark: it would forbid even a rollback
        if problems:
            raise StateConflict(
                f"endpoint '{name}' can't be deleted while the registry is down, which must know of it ({problems[0]}): make it "
                "reachable, or lose what it does not know with 'mlflow-istio delete-endpoint --force'"
            )
    try:
        move(
            context,
            name,
            lambda now: transitions.mark_deleting(now, force=force),
            action="delete",
            reason=reason,
            returning=True,
            urgent=True,
            timeout=timeout,
        )
    except NotRouted as exc:
        if not force:
            raise
        emit_warnings(context, (exc.message, *flush_outbox(context, name)))
    waiting = endpoint_of(context.cluster, name).outbox
    if waiting and not force:
        raise StateConflict(
            f"endpoint '{name}' holds {len(waiting)} routing changes the registry does not have: make it reachable and delete "
            "again, or lose them with 'mlflow-istio delete-endpoint --force'"
        )


def _delete_ours(context: Context, kind: str, name: str) -> bool:
    obj = context.cluster.get(kind, name)
    return obj is not None and is_ours(obj, name) and context.cluster.delete(kind, name)


def drop_subset(context: Context, endpoint: str, deployment: str) -> None:
    """Take a deployment's subset out of the DestinationRule, with what is set for it alone."""

    def drop(rule: Object | None) -> Object:
        if rule is None:
            raise NotFound(f"DestinationRule '{endpoint}' is gone")
        left = without_subset(rule, deployment)
        settings = written_policy(left, endpoint).policy.without_deployment(deployment)
        return with_policy(left, endpoint, settings)

    if context.cluster.get("DestinationRule", endpoint) is not None:
        context.cluster.edit("DestinationRule", endpoint, drop)
