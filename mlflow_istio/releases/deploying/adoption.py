"""Take over one route of a VirtualService that was there before us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, nearest, service_name
from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting, has_endpoint
from mlflow_istio.core.matching.entrance import SCORING, entrance_at
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.delegation import delegates_of, merged
from mlflow_istio.core.mesh.virtual_service import read_endpoint, routes_of
from mlflow_istio.core.moves import adoption
from mlflow_istio.errors import MlflowIstioError, NotFound, RegistryError, StateConflict
from mlflow_istio.releases.context import (
    Context,
    Outcome,
    check_pins,
    deployments_of,
    emit_warnings,
    entrance_of,
    find_virtual_service,
    guard_for,
    is_ours,
    new_change,
    one_carrier,
)
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.releases.deploying.new_endpoint import last_sequence
from mlflow_istio.releases.deploying.removal import delete_endpoint
from mlflow_istio.releases.deploying.sharing import check_gateways
from mlflow_istio.releases.ledger import flush_outbox, run_for
from mlflow_istio.releases.moving.proof import prove_change
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT
from mlflow_istio.releases.reading.owners_services import services_behind


def adopt(
    context: Context,
    name: str,
    *,
    virtual_service: str,
    route: str,
    stable: str | None = None,
    settings: Mapping[str, str] | None = None,
    gateways: tuple[str, ...] = (),
    pins: str | None = None,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
    take_over: bool = False,
) -> Outcome:
    """Make one route of somebody's VirtualService an endpoint, whose stable is what the route goes to now.

    Requests notice nothing. The VirtualService keeps its name, hosts and every other route; ``delete_endpoint`` gives the route
    back. Given again, it changes nothing.

    Args:
        context: The ports.
        name: The endpoint.
        virtual_service: Name of the VirtualService, in the target's namespace.
        route: Name of one of its http routes.
        stable: Which of the route's destinations is stable, where several have weight.
        settings: Small settings of the endpoint, such as alias names.
        gateways: Those that the call names, which the VirtualService must have.
        pins: ``guarded``, ``open``, or None: guarded where there is a gateway.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.
        take_over: Whether the endpoint's ledger is this place's from now on, whosever it was.

    Raises:
        NotFound: There is no such VirtualService or route.
        StateConflict: The route can't be adopted, the endpoint exists elsewhere, or another place keeps its ledger.
        InvalidInput: It can't be told what is stable, no request of ours could reach the route, or a gateway is not its.
        NotRouted: A proxy did not take the change over in time.
    """
    check_endpoint_name(name)
    carrier = check_free(context, name, virtual_service)
    check_gateways(context, carrier, gateways, f"of VirtualService '{virtual_service}', which is there already")
    one_carrier(context, name, refuse=True)
    again = has_endpoint(carrier, name)
    if again:
        _check_same(read_endpoint(carrier, name), stable, settings or {}, pins)
    change_metadata = new_change(context, "adopt", reason=reason)
    # Refuse what can't be before the registry knows of it, and before anybody is told to change.
    adoption.adopt(carrier, name, route, change_metadata, stable=stable)
    if not again:
        _check_reachable(context, carrier, route)
    with suppress(RegistryError):  # one that is down knows no better
        context.registry.check_place(context.scope, name, take_over=take_over)
    run, warnings = (None, ()) if again else run_for(context, name, None)
    change_metadata = replace(change_metadata, run=run)
    guard = guard_for(context, pins)
    sequence = 0 if again else last_sequence(context, name)
    services = () if again else services_behind(context.cluster, _hosts(carrier, route))

    def edit(obj: Object | None) -> Object:
        if obj is None:
            raise NotFound(f"there is no VirtualService '{virtual_service}' any more")
        return adoption.adopt(
            obj,
            name,
            route,
            change_metadata,
            stable=stable,
            settings=settings,
            sequence=sequence,
            guard=guard,
            services=services,
        )

    before, after = context.cluster.edit("VirtualService", virtual_service, edit)
    endpoint = read_endpoint(after, name)
    proof = prove_change(context, endpoint, timeout)
    warnings += (*proof.warnings, *_unserved(context, endpoint), *adoption.header_warnings(after, name))
    warnings += flush_outbox(context, name, objects={change_metadata.id: {"before": before or {}, "after": after}})
    emit_warnings(context, warnings)
    return Outcome(endpoint=endpoint, changed=after != before, proxies=proof.proxies, warnings=warnings)


def _hosts(virtual_service: Object, route: str) -> Iterator[str]:
    """Hosts that a route goes to; whether it can be adopted is not asked here."""
    for http_route in routes_of(readable(virtual_service)):
        if http_route.get("name") == route:
            yield from (str(entry["destination"]["host"]) for entry in http_route.get("route") or [])


def _check_reachable(context: Context, carrier: Object, route: str) -> None:
    """Refuse a route that no request of ours reaches past what the carrier delegates."""
    if delegates_of(carrier):
        whole = merged(carrier, lambda name: context.cluster.get("VirtualService", name))
        entrance_at(whole, next(entry for entry in routes_of(carrier) if entry.get("name") == route))


def _check_same(endpoint: Endpoint, stable: str | None, settings: Mapping[str, str], pins: str | None) -> None:
    """Refuse to adopt once more with options that were chosen when the route was adopted.

    Raises:
        StateConflict: Names the first, and what was chosen.
    """
    chosen = endpoint.adopted.stable.name if endpoint.adopted else ""
    if stable not in (None, chosen):
        raise StateConflict(
            f"endpoint '{endpoint.name}' adopted route '{endpoint.route}' with '{chosen}' as stable: leave 'stable' out, or promote"
        )
    if any(endpoint.settings.get(key) != value for key, value in settings.items()):
        raise StateConflict(
            f"endpoint '{endpoint.name}' has had its aliases since it adopted route '{endpoint.route}': leave champion_alias and "
            "challenger_alias out"
        )
    check_pins(endpoint, pins)


def _unserved(context: Context, endpoint: Endpoint) -> tuple[str, ...]:
    """A warning where the route hands requests on under a path that MLflow's model server does not know."""
    try:
        path = entrance_of(context.cluster, endpoint.name).handed_on
    except MlflowIstioError:
        return ()  # somebody put a route above meanwhile, of which the proof tells
    if path in (SCORING, None):
        return ()
    return (
        f"route '{endpoint.route}' hands requests on as {path}, which MLflow's model server answers with 404: give the route a "
        f"rewrite to {SCORING} before a deployment of endpoint '{endpoint.name}' gets traffic",
    )


def adopt_and_deploy(
    context: Context, request: DeployRequest, *, virtual_service: str, route: str, stable: str | None = None
) -> Outcome:
    """Adopt a route and bring a version up beside what it goes to; the route is given back if that fails.

    Raises:
        MlflowIstioError: As for ``adopt`` and ``deploy``.
    """
    name = request.endpoint or service_name(context.registry.resolve(parse_model_uri(request.model_uri)).model)
    adopted = adopt(
        context,
        name,
        virtual_service=virtual_service,
        route=route,
        stable=stable,
        settings=request.settings,
        gateways=request.gateways,
        pins=request.pins,
        reason=request.reason,
        timeout=request.timeout,
        take_over=request.take_over,
    )
    try:
        deployed = deploy(context, replace(request, endpoint=name))
    except MlflowIstioError:
        if adopted.changed and not deployments_of(context.cluster, name):
            _undo(context, name)
        raise
    return replace(
        deployed, changed=adopted.changed or deployed.changed, warnings=(*adopted.warnings, *deployed.warnings)
    )


def _undo(context: Context, name: str) -> None:
    try:
        delete_endpoint(context, name, force=True, reason="its first deployment did not come up")
    except MlflowIstioError as exc:
        emit_warnings(context, (f"endpoint '{name}' keeps its adopted route ({exc.message}): run delete-endpoint",))


def check_free(context: Context, name: str, virtual_service: str) -> Object:
    """The VirtualService to adopt a route of, if the endpoint is not somewhere else already.

    Raises:
        NotFound: There is none of that name.
        StateConflict: The endpoint exists elsewhere, or its name is taken by an object that is not ours.
    """
    carrier = find_virtual_service(context.cluster, name)
    if carrier is not None and name_of(carrier) != virtual_service:
        raise StateConflict(
            f"endpoint '{name}' exists already, in VirtualService '{name_of(carrier)}': leave 'virtual_service' and 'route' out, "
            "or use another endpoint name"
        )
    if carrier is not None:
        endpoint: Endpoint = read_endpoint(carrier, name)
        check_not_deleting(endpoint)
        if endpoint.adopted is None:
            raise StateConflict(
                f"endpoint '{name}' exists already, with routes of its own: leave 'virtual_service' and 'route' out, or use "
                "another endpoint name"
            )
        return carrier
    for kind in ("Service", "DestinationRule"):
        other = context.cluster.get(kind, name)
        if other is not None and not is_ours(other, name):
            raise StateConflict(
                f"{kind} '{name}' exists and is not ours, and the endpoint's own deployments need one of that name: use another "
                "endpoint name"
            )
    owners_object = context.cluster.get("VirtualService", virtual_service)
    if owners_object is None:
        known = [name_of(obj) for obj in context.cluster.list("VirtualService", {})]
        raise NotFound(
            f"there is no VirtualService '{virtual_service}' in {context.cluster.scope}: {nearest(virtual_service, known)}"
        )
    return owners_object
