"""Take over one route of a VirtualService that was there before us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.core.basics.names import check_endpoint_name, nearest, service_name
from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.endpoint.endpoint import Endpoint, Stamp, check_not_deleting, has_endpoint
from mlflow_istio.core.matching.entrance import SCORING
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves import adoption
from mlflow_istio.errors import MlflowIstioError, NotFound, StateConflict
from mlflow_istio.releases.context import Desk, Outcome, deployments_of, entrance_of, found_home, is_ours, warned
from mlflow_istio.releases.deploying.deployments import DeployRequest, deploy, last_sequence
from mlflow_istio.releases.deploying.removal import delete_endpoint
from mlflow_istio.releases.ledger import catch_up, run_for
from mlflow_istio.releases.moving.proof import prove_change
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT


def adopt(
    desk: Desk,
    name: str,
    *,
    virtual_service: str,
    route: str,
    stable: str | None = None,
    settings: Mapping[str, str] | None = None,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Make one route of somebody's VirtualService an endpoint, whose stable is what the route goes to now.

    Requests notice nothing. The VirtualService keeps its name, hosts and every other route; ``delete_endpoint`` gives the route
    back. Given again, it changes nothing.

    Args:
        desk: The ports.
        name: The endpoint.
        virtual_service: Name of the VirtualService, in the target's namespace.
        route: Name of one of its http routes.
        stable: Which of the route's destinations is stable, where several have weight.
        settings: Small settings of the endpoint, such as alias names.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.

    Raises:
        NotFound: There is no such VirtualService or route.
        StateConflict: The route can't be adopted, or the endpoint exists elsewhere.
        InvalidInput: It can't be told what is stable, or no request of ours could reach the route.
        NotRouted: A proxy did not take the change over in time.
    """
    check_endpoint_name(name)
    found = check_free(desk, name, virtual_service)
    again = has_endpoint(found, name)
    run, warnings = (None, ()) if again else run_for(desk, name, None)
    stamp = Stamp(
        id=desk.new_id(), time=desk.clock.now(), who=desk.who, action="adopt", reason=reason, run=run, versions={}
    )
    sequence = 0 if again else last_sequence(desk, name)

    def edit(obj: Object | None) -> Object:
        if obj is None:
            raise NotFound(f"there is no VirtualService '{virtual_service}' any more")
        return adoption.adopt(obj, name, route, stamp, stable=stable, settings=settings, sequence=sequence)

    adoption.adopt(found, name, route, stamp, stable=stable)  # refuse what can't be before anybody is told to change
    before, after = desk.cluster.edit("VirtualService", virtual_service, edit)
    endpoint = read_endpoint(after, name)
    proxies = prove_change(desk, endpoint, timeout)
    warnings += _unserved(desk, endpoint)
    warnings += catch_up(desk, name, objects={stamp.id: {"before": before or {}, "after": after}})
    return Outcome(endpoint=endpoint, changed=after != before, proxies=proxies, warnings=warned(desk, warnings))


def _unserved(desk: Desk, endpoint: Endpoint) -> tuple[str, ...]:
    """A warning where the route hands requests on under a path that MLflow's model server does not know."""
    path = entrance_of(desk.cluster, endpoint.name).handed_on
    if path in (SCORING, None):
        return ()
    return (
        f"route '{endpoint.route}' hands requests on as {path}, which MLflow's model server answers with 404: give the route a "
        f"rewrite to {SCORING} before a deployment of endpoint '{endpoint.name}' gets traffic",
    )


def adopt_and_deploy(
    desk: Desk, request: DeployRequest, *, virtual_service: str, route: str, stable: str | None = None
) -> Outcome:
    """Adopt a route and bring a version up beside what it goes to; the route is given back if that fails.

    Raises:
        MlflowIstioError: As for ``adopt`` and ``deploy``.
    """
    name = request.endpoint or service_name(desk.registry.resolve(parse_model_uri(request.model_uri)).model)
    adopted = adopt(
        desk,
        name,
        virtual_service=virtual_service,
        route=route,
        stable=stable,
        settings=request.settings,
        reason=request.reason,
        timeout=request.timeout,
    )
    try:
        deployed = deploy(desk, replace(request, endpoint=name))
    except MlflowIstioError:
        if adopted.changed and not deployments_of(desk.cluster, name):
            _undo(desk, name)
        raise
    return replace(
        deployed, changed=adopted.changed or deployed.changed, warnings=(*adopted.warnings, *deployed.warnings)
    )


def _undo(desk: Desk, name: str) -> None:
    try:
        delete_endpoint(desk, name, force=True, reason="its first deployment did not come up")
    except MlflowIstioError as exc:
        warned(desk, (f"endpoint '{name}' keeps its adopted route ({exc.message}): run delete-endpoint",))


def check_free(desk: Desk, name: str, virtual_service: str) -> Object:
    """The VirtualService to adopt a route of, if the endpoint is not somewhere else already.

    Raises:
        NotFound: There is none of that name.
        StateConflict: The endpoint exists elsewhere, or its name is taken by an object that is not ours.
    """
    home = found_home(desk.cluster, name)
    if home is not None and name_of(home) != virtual_service:
        raise StateConflict(
            f"endpoint '{name}' exists already, in VirtualService '{name_of(home)}': use another endpoint name"
        )
    if home is not None:
        endpoint: Endpoint = read_endpoint(home, name)
        check_not_deleting(endpoint)
        if endpoint.adopted is None:
            raise StateConflict(f"endpoint '{name}' exists already, with routes of its own: use another endpoint name")
        return home
    for kind in ("Service", "DestinationRule"):
        other = desk.cluster.get(kind, name)
        if other is not None and not is_ours(other, name):
            raise StateConflict(
                f"{kind} '{name}' exists and is not ours, and the endpoint's own deployments need one of that name: use another "
                "endpoint name"
            )
    found = desk.cluster.get("VirtualService", virtual_service)
    if found is None:
        known = [name_of(obj) for obj in desk.cluster.list("VirtualService", {})]
        raise NotFound(
            f"there is no VirtualService '{virtual_service}' in {desk.cluster.scope}: {nearest(virtual_service, known)}"
        )
    return found
