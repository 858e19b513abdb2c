"""Routes that are none of an endpoint's and go to its deployments all the same: their owners' users would lose who answers them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route, name_of, prefix
from mlflow_istio.core.endpoint.endpoint import has_endpoint, route_name
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.matching.places import namespace_of, service_of
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignRoute:
    """A route that goes to an endpoint, and is not one of its own.

    Attributes:
        virtual_service: Its VirtualService.
        route: Its name, or where it stands (``http[2]``).
        copies: Whether it sends copies only, whose answers nobody gets.
    """

    virtual_service: str
    route: str
    copies: bool

    def __str__(self) -> str:
        return f"route '{self.route}' of VirtualService '{self.virtual_service}'"


def foreign_routes(
    virtual_services: Iterable[Object],
    endpoint: str,
    namespace: str,
    deployment: str | None = None,
    attached: Collection[str] = (),
) -> Iterator[ForeignRoute]:
    """Others' routes with weight to an endpoint; with a deployment, also the endpoint's own that somebody has bent to it.

    Args:
        virtual_services: All that there are.
        endpoint: The endpoint, whose Service has its name.
        namespace: Where it is.
        deployment: The only deployment meant; None: the whole endpoint.
        attached: Names of those deployments, of the ones meant, that lead to what somebody else runs, by Services of their own.
    """
    attached_hosts = {attached_host(name) for name in attached}

    def meant(destination: Mapping[str, Any], where: str) -> bool:
        host = service_of(str(destination["host"]), where)
        if where != namespace:
            return False
        return host in attached_hosts or (host == endpoint and deployment in (None, destination.get("subset")))

    for obj in virtual_services:
        try:
            virtual_service = readable(obj)
        except InvalidInput:
            continue  # proxies don't take it either
        where = namespace_of(virtual_service, namespace)
        carries = has_endpoint(virtual_service, endpoint)
        base = route_name(virtual_service, endpoint) if carries else None
        for kind in ("http", "tcp", "tls"):
            for index, route in enumerate(virtual_service.get("spec", {}).get(kind) or []):
                name = str(route.get("name") or f"{kind}[{index}]")
                own = carries and kind == "http" and (is_own_route(route, endpoint) or name == base)
                if own and (deployment is None or not name.startswith(_kept(endpoint))):
                    continue
                for live, destinations in ((True, _live(route)), (False, _copied(route))):
                    if any(meant(destination, where) for destination in destinations):
                        yield ForeignRoute(virtual_service=name_of(virtual_service), route=name, copies=not live)


def _kept(endpoint: str) -> tuple[str, ...]:
    """Beginnings of names of an endpoint's routes that stay as somebody bent them."""
    return tuple(f"{prefix(endpoint)}{part}" for part in ("answer", "rule.", "arm."))


def _live(route: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    entries = route.get("route") or []
    yield from (entry["destination"] for entry in entries if len(entries) == 1 or entry.get("weight"))


def _copied(route: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (route["mirror"],) if route.get("mirror") else ()
    yield from (mirror["destination"] for mirror in route.get("mirrors") or [])
