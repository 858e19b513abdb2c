"""Two VirtualServices with the same host at the same gateway are refused. Pure.

Istio keeps the older one's routes, so the newer one would get no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.errors import StateConflict

_MESH = "mesh"
_DOMAIN = "svc.cluster.local"


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
    places = _places(wanted, namespace)
    for other in others:
        if name_of(other) == name_of(wanted):
            continue
        for host, gateway in sorted(places & _places(other, namespace)):
            raise StateConflict(
                f"host '{host}' at gateway '{gateway}' belongs to VirtualService '{name_of(other)}' already, and Istio would "
                f"keep sending its requests there: give endpoint '{name_of(wanted)}' another host, or take this one away from "
                f"'{name_of(other)}'"
            )


def _places(virtual_service: Mapping[str, Any], namespace: str) -> set[tuple[str, str]]:
    """Every (full host, full gateway) of a VirtualService."""
    spec = virtual_service.get("spec", {})
    gateways = [_full_gateway(gateway, namespace) for gateway in spec.get("gateways") or [_MESH]]
    return {(_full_host(host, namespace), gateway) for host in spec.get("hosts") or () for gateway in gateways}


def _full_host(host: str, namespace: str) -> str:
    """A short host means the Service of that name in the VirtualService's namespace."""
    return host if "." in host or host == "*" else f"{host}.{namespace}.{_DOMAIN}"


def _full_gateway(gateway: str, namespace: str) -> str:
    return gateway if gateway == _MESH or "/" in gateway else f"{namespace}/{gateway}"
