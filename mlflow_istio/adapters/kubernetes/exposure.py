"""Which hosts and gateways a VirtualService has, and which Service stands before a Gateway. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.matching.places import DOMAIN, MESH, asked_hosts, gateways_of

_PLAIN = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB")
"""What istiod makes a listener for HTTP of (``protocol.Instance.IsHTTP``), which takes HTTP/1.1 and HTTP/2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """Where an endpoint is exposed.

    Attributes:
        endpoint: Name of the VirtualService.
        inside: Its host inside the mesh, fully qualified.
        hosts: Full names under which proxies know it, public ones first; a wildcard stands for one name it covers.
        gateways: NAMESPACE/NAME of its gateways.
        in_mesh: Whether sidecars have its routes.
    """

    endpoint: str
    inside: str
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    in_mesh: bool

    def at(self, gateways: Collection[str] | None) -> Exposure:
        """The exposure at some of its gateways, ``mesh`` among them; None: at all."""
        if gateways is None:
            return self
        some = tuple(gateway for gateway in self.gateways if gateway in gateways)
        return replace(self, gateways=some, in_mesh=self.in_mesh and MESH in gateways)


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """A Service before a gateway's proxies.

    Attributes:
        service: Its name.
        namespace: Its namespace.
        addresses: Hosts or IPs to try, the ones meant for the outside first.
        port: Port for plain HTTP.
    """

    service: str
    namespace: str
    addresses: tuple[str, ...]
    port: int


def exposure_of(virtual_service: Mapping[str, Any]) -> Exposure:
    """Read a VirtualService. A short host means the Service of that name beside it, for sidecars and gateways alike."""
    name, namespace = name_of(virtual_service), str(virtual_service["metadata"].get("namespace", "default"))
    named = asked_hosts(virtual_service, namespace)
    own = f"{name}.{namespace}.{DOMAIN}"
    # A VirtualService that was there before us may be called otherwise than its Service.
    inside = own if own in named else next((host for host in named if host.endswith(DOMAIN)), own)
    gateways = gateways_of(virtual_service, namespace)
    return Exposure(
        endpoint=name,
        inside=inside,
        hosts=named or (inside,),
        gateways=tuple(gateway for gateway in gateways if gateway != MESH),
        in_mesh=MESH in gateways,
    )


def served_host(exposure: Exposure, gateway: Mapping[str, Any] | None) -> str | None:
    """The first of an endpoint's hosts that a Gateway serves in plain HTTP; its first when the Gateway is not known."""
    if gateway is None:
        return exposure.hosts[0]
    for host in exposure.hosts:
        for server in gateway.get("spec", {}).get("servers") or ():
            if server["port"].get("protocol") in _PLAIN and any(
                _covers(pattern, host) for pattern in server.get("hosts") or ()
            ):
                return host
    return None


def fronts(gateway: Mapping[str, Any], services: Sequence[Object]) -> list[Front]:
    """The Services that select the proxies which a Gateway selects, with the port of one of its plain HTTP servers."""
    spec = gateway.get("spec", {})
    selector = (spec.get("selector") or {}).items()
    ports = [
        server["port"]["number"] for server in spec.get("servers") or () if server["port"].get("protocol") in _PLAIN
    ]
    fronting = []
    for service in services:
        service_spec = service.get("spec", {})
        open_ports = {port["port"] for port in service_spec.get("ports") or ()}
        port = next((port for port in ports if port in open_ports), None)
        if port is None or not selector or not selector <= (service_spec.get("selector") or {}).items():
            continue
        balanced = service.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
        addresses = [entry.get("ip") or entry.get("hostname") for entry in balanced]
        addresses += service_spec.get("externalIPs") or ()
        addresses += [service_spec["clusterIP"]] if service_spec.get("clusterIP", "None") != "None" else []
        metadata = service["metadata"]
        fronting.append(
            Front(
                service=name_of(service),
                namespace=str(metadata["namespace"]),
                addresses=tuple(str(address) for address in addresses if address),
                port=int(port),
            )
        )
    return fronting


def listened_port(url: str, gateway: Mapping[str, Any] | None) -> int | None:
    """The port that matches ask for, of the Gateway's server that is behind an address; None: it can't be told which.

    Where the Gateway is not known, or has no such server, the address's own port stands for it. A load balancer or a forwarded
    port may have another number than the server behind it.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    own = parts.port or (443 if secure else 80)
    servers = (gateway or {}).get("spec", {}).get("servers") or ()
    ports = {
        int(server["port"]["number"]) for server in servers if (server["port"].get("protocol") not in _PLAIN) == secure
    }
    if not ports or own in ports:
        return own
    return ports.pop() if len(ports) == 1 else None


def _covers(pattern: str, host: str) -> bool:
    """Whether a Gateway server's host, such as ``ns/*.example.com``, covers a name."""
    pattern = pattern.rsplit("/", 1)[-1]
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
