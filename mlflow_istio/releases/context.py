"""What every use-case works with, and what every one returns."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import (
    DEPLOYMENT_LABEL,
    ENDPOINT_LABEL,
    Object,
    annotations_of,
    labels_of,
    name_of,
)
from mlflow_istio.core.endpoint.endpoint import ChangeMetadata, Endpoint, guard_of, has_endpoint
from mlflow_istio.core.matching.entrance import SCORING, Entrance, entrance_at
from mlflow_istio.core.matching.pin_guard import OPEN, key_headers
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.core.mesh.attached import Attachment, as_attached, readable_attachment, workloads_behind
from mlflow_istio.core.mesh.delegation import is_delegate, merged
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION, may_stream, runtime_of_deployment
from mlflow_istio.core.mesh.virtual_service import note_endpoint, read_endpoint, split_route, write_endpoint
from mlflow_istio.core.moves.adoption import copied_state, endpoints_in, several_carriers
from mlflow_istio.core.moves.claims import claimants
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict, Unsupported
from mlflow_istio.ports.clock import Clock
from mlflow_istio.ports.cluster import Address, Cluster
from mlflow_istio.ports.registry import Registry
from mlflow_istio.ports.runs import Runs

ROOT = "root"
"""Setting of an endpoint without hosts of its own: the VirtualService that delegates its requests to it."""

CLAIM = "claim"
"""Setting of such an endpoint: which requests of the shared host are its own, should its root forget."""


def _silent(_message: str) -> None:
    """Say nothing."""


def new_key() -> str:
    """A key for pinned routes."""
    return f"mik_{secrets.token_hex(16)}"


def _let_be(_context: Context, _endpoint: str) -> None:
    """Enforce nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The ports and the few things that come from outside.

    Attributes:
        cluster: Where deployments and routes are.
        registry: Where changes are recorded.
        runs: What else a release's MLflow run holds.
        clock: Time.
        who: Who works here, for the ledger.
        new_id: Makes an id that nobody else makes.
        new_key: Makes a key for pinned routes that nobody guesses.
        templates: Kind to Jinja2 text.
        scope: The registry's name for where this is.
        tell: Called with one line when something takes a while.
        warn: Called with one line when something went other than hoped, but the work goes on.
        removal_delay: Seconds between the last proxy's confirmation and the end of the pods, for requests in flight.
        enforce: Carries out the deadlines of an endpoint that have passed; every change of traffic begins with it.
        revive: Lets the proxies begin anew that do not answer; None where it is not for us to do.
    """

    cluster: Cluster
    registry: Registry
    runs: Runs
    clock: Clock
    who: str
    new_id: Callable[[], str]
    new_key: Callable[[], str] = new_key
    templates: Mapping[str, str]
    scope: str
    tell: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent
    removal_delay: float = 0.5
    enforce: Callable[[Context, str], None] = _let_be
    revive: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a use-case did.

    Attributes:
        endpoint: The endpoint as it is now; None when it is gone.
        changed: Whether traffic or release changed.
        proxies: The proxies that confirmed the newest change; empty when none can be reached.
        warnings: What did not go as hoped, one line each (an unreachable registry, no gateway to ask).
        pending: What is still going on and which command finishes it, in one line; empty when all is done.
    """

    endpoint: Endpoint | None
    changed: bool
    proxies: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    pending: str = ""


def new_change(
    context: Context,
    action: str,
    *,
    reason: str = "",
    run: str | None = None,
    versions: Mapping[str, str] | None = None,
    evidence: Mapping[str, Any] | None = None,
    urgent: bool = False,
) -> ChangeMetadata:
    """A change that is made now, with an id and a key that nobody else makes; the rest as in ``ChangeMetadata``."""
    return ChangeMetadata(
        id=context.new_id(),
        time=context.clock.now(),
        who=context.who,
        action=action,
        reason=reason,
        run=run,
        versions=versions or {},
        evidence=evidence or {},
        fresh_key=context.new_key(),
        urgent=urgent,
    )


def emit_warnings(context: Context, warnings: Sequence[str]) -> tuple[str, ...]:
    """Say warnings as they come up, and return them for the outcome."""
    for warning in warnings:
        context.warn(warning)
    return tuple(warnings)


def find_virtual_service(cluster: Cluster, endpoint: str) -> Object | None:
    """The VirtualService that carries an endpoint, or None.

    It has the endpoint's name, unless the endpoint adopted a route: then its annotations tell.
    """
    virtual_service = cluster.get("VirtualService", endpoint)
    if virtual_service is not None and has_endpoint(virtual_service, endpoint):
        return virtual_service
    return next((obj for obj in cluster.list("VirtualService", {}) if has_endpoint(obj, endpoint)), None)


def one_carrier(context: Context, name: str, *, refuse: bool) -> None:
    """Say that more than one VirtualService holds an endpoint, since somebody applied a copy: which one counts is nobody's guess.

    One that holds a copy of another's state under another name carries nothing, but its routes stay as they were copied.

    Args:
        context: The ports.
        name: The endpoint.
        refuse: Whether two that carry it are refused, not only told of.

    Raises:
        StateConflict: Two of them carry it; names both and what to do.
    """
    there = context.cluster.list("VirtualService", {})
    problem = several_carriers(there, name)
    if problem and refuse:
        raise StateConflict(problem)
    emit_warnings(context, (*((problem,) if problem else ()), *copied_state(there, name)))


def virtual_service_of(cluster: Cluster, endpoint: str) -> Object:
    """The VirtualService that carries an endpoint.

    Raises:
        NotFound: There is none; names the nearest endpoint.
    """
    obj = find_virtual_service(cluster, endpoint)
    if obj is not None:
        return obj
    copies = copied_state(cluster.list("VirtualService", {}), endpoint)
    raise NotFound(
        "; ".join(
            (
                f"there is no endpoint '{endpoint}' in {cluster.scope}: {nearest(endpoint, endpoint_names(cluster))}",
                *copies,
            )
        )
    )


def endpoint_of(cluster: Cluster, name: str) -> Endpoint:
    """Read an endpoint.

    Raises:
        NotFound: There is none.
    """
    return read_endpoint(virtual_service_of(cluster, name), name)


def endpoint_names(cluster: Cluster) -> list[str]:
    """Names of all endpoints, in order."""
    return sorted({name for obj in cluster.list("VirtualService", {}) for name in endpoints_in(obj)})


def entrance_of(cluster: Cluster, name: str, virtual_service: Object | None = None) -> Entrance:
    """What a request must look like to reach an endpoint.

    Args:
        cluster: Where it is.
        name: The endpoint.
        virtual_service: The VirtualService that carries it, where it was just read or written; read when None.

    Raises:
        NotFound: There is no such endpoint, or the root that delegates to it does not do so any more.
        InvalidInput: Its route was edited so that no request that we could make up reaches it.
    """
    virtual_service = virtual_service if virtual_service is not None else virtual_service_of(cluster, name)
    route = split_route(virtual_service, name)
    key = key_headers(guard_of(virtual_service, name))
    if not is_delegate(virtual_service):
        return replace(entrance_at(virtual_service, route), key=key)
    whole, routes = _through_root(cluster, name, virtual_service, str(route["name"]))
    entrances = [entrance_at(whole, route_taken) for route_taken in routes]
    return replace(
        next((candidate for candidate in reversed(entrances) if candidate.handed_on == SCORING), entrances[0]), key=key
    )


def guard_for(context: Context, pins: str | None) -> str | None:
    """What guards the pinned routes of a new endpoint.

    Args:
        context: Makes the key.
        pins: ``guarded``, ``open``, or None: it depends on whether it has a gateway.
    """
    return context.new_key() if pins == "guarded" else pins


def check_pins(endpoint: Endpoint, pins: str | None) -> None:
    """Refuse to say of an endpoint that is there who may pin, other than it is: nothing would come of it.

    Raises:
        InvalidInput: Names the command that changes it.
    """
    now = OPEN if endpoint.guard in (None, OPEN) else "guarded"
    if pins not in (None, now):
        raise InvalidInput(
            f"option 'pins' has no effect on endpoint '{endpoint.name}', which is there already and has {now} pins: change "
            f"them with 'mlflow-istio pins {endpoint.name} --pins {pins}'"
        )


def pin_headers(cluster: Cluster, name: str, deployment: str) -> dict[str, str]:
    """The headers by which a request reaches one deployment whatever the split says; among them the key, if pins are guarded.

    Raises:
        NotFound: There is no such endpoint.
    """
    return {PIN_HEADER: deployment, **key_headers(guard_of(virtual_service_of(cluster, name), name))}


def root_of(cluster: Cluster, endpoint: Endpoint) -> Object | None:
    """The VirtualService that delegates to an endpoint; None where it has hosts of its own, or the root is gone."""
    name = endpoint.settings.get(ROOT)
    return cluster.get("VirtualService", name) if name else None


def _through_root(cluster: Cluster, name: str, virtual_service: Object, route: str) -> tuple[Object, list[Object]]:
    """The root of a delegate as proxies carry it out, and the places where the delegate's route stands in it."""
    root_name = read_endpoint(virtual_service, name).settings.get(ROOT, "")
    root = root_of(cluster, read_endpoint(virtual_service, name))
    others = {name_of(virtual_service): virtual_service}
    whole = merged(root, others.get) if root is not None else {}
    routes = [entry for entry in whole.get("spec", {}).get("http") or [] if str(entry.get("name", "")).endswith(route)]
    if not routes:
        raise NotFound(
            f"VirtualService '{root_name}' does not delegate to endpoint '{name}': run its create command with 'under' again, or "
            "delete the endpoint"
        )
    return whole, routes


def address_of(cluster: Cluster, name: str, deployment: str | None = None) -> Address:
    """How a caller reaches an endpoint, and asks a deployment of it; its stable one unless another is named.

    Raises:
        NotFound: There is no such endpoint.
    """
    virtual_service = virtual_service_of(cluster, name)
    endpoint = read_endpoint(virtual_service, name)
    asked = deployment or (endpoint.stable.name if endpoint.owns(endpoint.stable) else None)
    workload = cluster.get("Deployment", asked) if asked else None
    return address_at(cluster, virtual_service, name, workload)


def address_at(cluster: Cluster, virtual_service: Object, name: str, deployment: Object | None) -> Address:
    """How a caller reaches an endpoint whose VirtualService has been read.

    Args:
        cluster: The cluster.
        virtual_service: The VirtualService that carries it.
        name: The endpoint.
        deployment: The Deployment that is to answer; None where nobody knows it.

    Raises:
        Unsupported: Its route takes no requests of the scheme by which it can be reached from here.
    """
    entrance = entrance_of(cluster, name, virtual_service)
    address = cluster.address(entrance.virtual_service)
    listeners, scheme = entrance.listeners, address.url.partition("://")[0]
    if listeners is not None and scheme not in [listener_scheme for listener_scheme, _ in listeners.taking]:
        raise Unsupported(
            f"the route of endpoint '{name}' takes requests by {listeners} alone, and {address.url} takes none of those"
        )
    base = entrance.scoring.removesuffix(SCORING)
    runtime = runtime_of_deployment(deployment) if deployment else MLFLOW
    scoring = entrance.scoring.removeprefix(base)
    return replace(
        address,
        url=address.url.rstrip("/") + base,
        headers={**address.headers, **entrance.headers},
        scoring=runtime.scoring if scoring == SCORING else scoring,
        body=runtime.body,
        protocol=runtime.protocol,
    )


def deployments_of(cluster: Cluster, endpoint: str | None = None) -> list[Object]:
    """The Deployments of an endpoint, or all of ours; one that stands for what is attached has the replicas of that."""
    labels = {ENDPOINT_LABEL: endpoint} if endpoint else {}
    objects = [obj for obj in cluster.list("Deployment", labels) if DEPLOYMENT_LABEL in labels_of(obj)]
    return [_as_it_runs(cluster, obj) for obj in objects]


def find_deployment(cluster: Cluster, name: str) -> Object | None:
    """A Deployment, or None; one that stands for what is attached has the replicas of that."""
    obj = cluster.get("Deployment", name)
    return None if obj is None else _as_it_runs(cluster, obj)


def workloads_of(cluster: Cluster, attachment: Attachment) -> list[Object]:
    """The Deployments whose pods what is attached has now."""
    if attachment.kind == "Deployment":
        workload = cluster.get("Deployment", attachment.name)
        return workloads_behind(attachment.selector, [workload] if workload else [])
    return workloads_behind(attachment.selector, cluster.list("Deployment", {})) if attachment.kind else []


def _as_it_runs(cluster: Cluster, deployment: Object) -> Object:
    attachment = readable_attachment(deployment)  # one that is damaged has no replicas, and gets nobody
    return as_attached(deployment, workloads_of(cluster, attachment)) if attachment else deployment


def streams_at(context: Context, endpoint: Endpoint) -> bool:
    """Whether the answers of an endpoint's stable may be streamed; not known of one that is its owner's."""
    stable = endpoint.stable
    workload = context.cluster.get("Deployment", stable.name) if endpoint.owns(stable) else None
    return workload is not None and may_stream(workload)


def deployment_of(cluster: Cluster, name: str) -> Object:
    """One of our Deployments.

    Raises:
        NotFound: There is none; names the nearest.
    """
    deployment = find_deployment(cluster, name)
    if deployment is None or DEPLOYMENT_LABEL not in labels_of(deployment):
        known = [name_of(obj) for obj in deployments_of(cluster)]
        raise NotFound(f"there is no deployment '{name}' in {cluster.scope}: {nearest(name, known)}")
    return deployment


def is_ours(obj: Object, endpoint: str) -> bool:
    """Whether an object was made for this endpoint; others of the same name are never changed or deleted."""
    return labels_of(obj).get(ENDPOINT_LABEL) == endpoint


def versions_of(deployments: list[Object]) -> dict[str, str]:
    """Deployment to ``MODEL/VERSION``."""
    return {name_of(obj): annotations_of(obj).get(VERSION_ANNOTATION, "") for obj in deployments}


def edit_virtual_service(
    cluster: Cluster, virtual_service: str, name: str, change: Callable[[Object], Object]
) -> tuple[Object, Object]:
    """Change the VirtualService that carries an endpoint; the object before and after.

    Args:
        cluster: Where it is.
        virtual_service: Its name.
        name: The endpoint.
        change: Makes the new object from the one inside the edit; the same object where there is nothing to change.

    Raises:
        NotFound: It is gone, or carries the endpoint no more.
    """

    def edit(virtual_service: Object | None) -> Object:
        if virtual_service is None or not has_endpoint(virtual_service, name):
            raise NotFound(f"there is no endpoint '{name}' any more")
        return change(virtual_service)

    before, after = cluster.edit("VirtualService", virtual_service, edit)
    return before or {}, after


def edit_endpoint(
    cluster: Cluster, virtual_service: str, name: str, change: Callable[[Endpoint], Endpoint]
) -> Endpoint:
    """Read an endpoint, change it and write it back, all inside one edit; the endpoint afterwards.

    One that the change leaves as it is is not written, and no route is where its traffic stays, whatever somebody edited on its
    object by hand.

    Args:
        cluster: Where it is.
        virtual_service: The VirtualService that carries it.
        name: The endpoint.
        change: Makes the new endpoint; raises what forbids it.

    Raises:
        NotFound: There is no such endpoint any more.
    """

    def write(virtual_service: Object, before: Endpoint, after: Endpoint) -> Object:
        noted = (before.traffic, before.change, before.guard) == (after.traffic, after.change, after.guard)
        return (note_endpoint if noted else write_endpoint)(virtual_service, after)

    def edit(virtual_service: Object) -> Object:
        before = read_endpoint(virtual_service, name)
        after = change(before)
        return virtual_service if after == before else write(virtual_service, before, after)

    _, after = edit_virtual_service(cluster, virtual_service, name, edit)
    return read_endpoint(after, name)


def existing_endpoint(cluster: Cluster, name: str) -> Endpoint | None:
    """The endpoint, or None when there is none yet.

    Raises:
        StateConflict: A VirtualService of that name is somebody else's, or the root of several endpoints.
    """
    virtual_service = find_virtual_service(cluster, name)
    if virtual_service is not None:
        return read_endpoint(virtual_service, name)
    other = cluster.get("VirtualService", name)
    if other is not None and is_ours(other, name) and claimants(other):
        raise StateConflict(
            f"'{name}' is the host that {', '.join(claimants(other))} share, not an endpoint: name one of them, or another"
        )
    if other is not None:
        raise StateConflict(
            f"VirtualService '{name}' exists and is not ours: use another endpoint name, or take over one of its routes "
            f"with 'mlflow-istio adopt NAME --virtual-service {name} --route ROUTE'"
        )
    return None
