"""Finds the proxies that can be asked from here: the gateway's, each by itself where that is possible, and our own sidecar."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cachetools import TTLCache

from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.adapters.kubernetes.exposure import Exposure, Front, fronts, listened_port, served_host
from mlflow_istio.adapters.kubernetes.resources import GATEWAY, SERVICE, Resource
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.matching.places import full_gateway
from mlflow_istio.errors import ClusterError, Forbidden, InvalidInput, NotFound
from mlflow_istio.ports.cluster import Address

_USUAL = ("istio-system", "istio-ingress")
"""Namespaces where Istio's own charts put a gateway's Service; a Gateway may select proxies of any namespace."""

_SIDECAR = "http://127.0.0.1:15021/healthz/ready"
_TRY_SECONDS = 1.0
_REMEMBERED_SECONDS = 5.0
"""For so long holds what may change at any time, whether an address takes connections and that a gateway is absent: a list of a
thousand endpoints asks it once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """One proxy, or several behind one address.

    Attributes:
        name: For people.
        address: How to ask it about an endpoint.
        port: Port that matches ask for, of the listener behind the address; None: not known.
        several: Whether others of the same gateway may answer at the address, too.
    """

    name: str
    address: Address
    port: int | None = 80
    several: bool = True

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, as matches ask for it."""
        return urlsplit(self.address.url).scheme


class Proxies:
    """What a cluster's proxies are, as far as we may see and reach them. Found addresses are remembered.

    Args:
        caller: Asks the API server.
        gateway: NAMESPACE/NAME of the gateway to use where an endpoint has several.
        url: Where it can be reached from here, if it can't be found out.
        sidecar: Address at which a sidecar says that it is ready.
    """

    def __init__(self, caller: Caller, gateway: str | None, url: str | None, sidecar: str = _SIDECAR) -> None:
        self._caller = caller
        self._url = url
        self._namespace = caller.connection.namespace
        self._preferred = full_gateway(gateway, self._namespace) if gateway else None
        self._sidecar = sidecar
        self._gateways: dict[str, Object] = {}
        self._absent: TTLCache[str, None] = TTLCache(maxsize=1024, ttl=_REMEMBERED_SECONDS)
        self._known: dict[str, tuple[str, ...]] = {}
        self._opened: TTLCache[str, bool] = TTLCache(maxsize=1024, ttl=_REMEMBERED_SECONDS)

    def check(self, gateway: str) -> None:
        """Refuse a gateway that does not exist.

        Raises:
            NotFound: There is none; names those of its namespace.
            InvalidInput: It is not written as NAMESPACE/NAME.
        """
        namespace, _, name = full_gateway(gateway, self._namespace).partition("/")
        if not namespace or not name or "/" in name:
            raise InvalidInput(f"gateway {gateway!r} can't be read: write NAMESPACE/NAME")
        try:
            gateway_object = self._caller.ask(Call(verb="get", resource=GATEWAY, namespace=namespace, name=name))
            if gateway_object is not None:
                return
            listed = self._caller.ask(Call(verb="list", resource=GATEWAY, namespace=namespace))
        except Forbidden:
            return  # who may not look can't tell; the proof of routing will
        known = [f"{namespace}/{name_of(obj)}" for obj in listed["items"]]
        raise NotFound(f"there is no Gateway '{namespace}/{name}': {nearest(f'{namespace}/{name}', known)}")

    def reachable(self, exposure: Exposure) -> list[Proxy]:
        """The proxies that have an endpoint's routes and take connections from here, one for each gateway."""
        proxies = []
        for gateway in self._in_order(exposure):
            open_ones = (
                proxy for proxy in self._at_gateway(exposure, gateway) if _takes_connections(proxy.address.url)
            )
            proxies += list(itertools.islice(open_ones, 1))
        if exposure.in_mesh and self._has_sidecar():
            inside = Address(url=f"http://{exposure.inside}")
            proxies.append(Proxy(name="the sidecar of this pod", address=inside, several=False))
        return proxies

    def address(self, exposure: Exposure) -> Address:
        """How to reach an endpoint: through a gateway, best one that takes connections from here; else inside the mesh."""
        known = [proxy.address for gateway in self._in_order(exposure) for proxy in self._at_gateway(exposure, gateway)]
        for address in known:
            opened = self._opened.get(address.url)
            if opened is None:
                opened = self._opened[address.url] = _takes_connections(address.url)
            if opened:
                return address
        return known[0] if known else Address(url=f"http://{exposure.inside}")

    def _in_order(self, exposure: Exposure) -> list[str]:
        return sorted(exposure.gateways, key=lambda gateway: gateway != self._preferred)

    def _at_gateway(self, exposure: Exposure, gateway: str) -> list[Proxy]:
        """A gateway's proxies under all their addresses, whether or not they take connections."""
        gateway_object = self._gateway(gateway)
        host = served_host(exposure, gateway_object)
        if host is None and self._url is None:
            return []
        headers = {"Host": host or exposure.hosts[0]}
        return [
            Proxy(
                name=f"gateway {gateway} at {url}",
                address=Address(url=url, headers=headers),
                port=listened_port(url, gateway_object),
            )
            for url in self._addresses(gateway, gateway_object)
        ]

    def _addresses(self, gateway: str, gateway_object: Object | None) -> tuple[str, ...]:
        if self._url is not None and self._preferred in (None, gateway):
            return (self._url.rstrip("/"),)
        services = f"services of {gateway}"
        if gateway not in self._known and services not in self._absent:
            namespace = gateway.partition("/")[0]
            listed = tuple(
                _url(address, front.port)
                for place in dict.fromkeys((namespace, *_USUAL))
                for front in (fronts(gateway_object, self._listed(SERVICE, place)) if gateway_object else ())
                for address in front.addresses
            )
            if listed:
                self._known[gateway] = listed
            else:
                self._absent[services] = None
        return self._known.get(gateway, ())

    def _gateway(self, gateway: str) -> Object | None:
        """The Gateway object, None where there is none or we may not look; read once."""
        if gateway not in self._gateways and gateway not in self._absent:
            namespace, _, name = gateway.partition("/")
            call = Call(verb="get", resource=GATEWAY, namespace=namespace, name=name)
            try:
                gateway_object = self._caller.ask(call)
            except ClusterError:
                gateway_object = None
            if gateway_object is None:
                self._absent[gateway] = None
            else:
                self._gateways[gateway] = gateway_object
        return self._gateways.get(gateway)

    def _listed(self, resource: Resource, namespace: str, query: Mapping[str, Any] | None = None) -> list[Object]:
        """A list in another namespace; empty where we may not look."""
        call = Call(verb="list", resource=resource, namespace=namespace, query=query or {})
        try:
            return list(self._caller.ask(call)["items"])
        except (ClusterError, NotFound):
            return []

    def _has_sidecar(self) -> bool:
        if not self._caller.connection.inside:
            return False
        import requests

        try:
            return bool(requests.get(self._sidecar, timeout=_TRY_SECONDS, proxies=proxies_for(self._sidecar)).ok)
        except requests.RequestException:
            return False


def _url(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"


def _takes_connections(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((str(parts.hostname), port), timeout=_TRY_SECONDS):
            return True
    except OSError:
        return False


__all__ = ["Front", "Proxies", "Proxy"]
