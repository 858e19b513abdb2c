"""Two VirtualServices with the same host at the same gateway are refused. Pure.

Istio keeps the older one's routes, so the newer one would get no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.matching.places import MESH, gateways_of, hosts_of, inside_host
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.errors import InvalidInput, StateConflict


def check_hosts(wanted: Mapping[str, Any], others: Iterable[Object], namespace: str) -> None:
    """Refuse a VirtualService whose host another one of its namespace already has at a common gateway.

    A VirtualService without hosts is a delegate, which has its requests from its root and so can't be in the way.

    Args:
        wanted: The VirtualService as it would be created.
        others: Those that are there; one of the same name is the object itself.
        namespace: Where all of them are.

    Raises:
        StateConflict: Names the host, the gateway and the other VirtualService.
    """
    places = _places(readable(wanted), namespace)
    for other in others:
        if name_of(other) == name_of(wanted):
            continue
        try:
            other = readable(other)
        except InvalidInput:
            continue  # proxies don't take it either
        for host, gateway in sorted(places & _places(other, namespace)):
            raise StateConflict(
                f"host '{host}' at gateway '{gateway}' belongs to VirtualService '{name_of(other)}' already, and Istio would "
                f"keep sending its requests there: give endpoint '{name_of(wanted)}' another host, or take this one away from "
                f"'{name_of(other)}'"
            )


def _places(virtual_service: Mapping[str, Any], namespace: str) -> set[tuple[str, str]]:
    """Every (full host, full gateway) of a VirtualService."""
    return {
        (inside_host(host, namespace) if gateway == MESH else host, gateway)
        for host in hosts_of(virtual_service, namespace)
        for gateway in gateways_of(virtual_service, namespace)
    }
