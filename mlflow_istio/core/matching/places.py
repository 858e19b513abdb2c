"""Where a VirtualService takes requests: each host and gateway under the one name that istiod makes of all its spellings.

Follows istiod: ``pilot/pkg/model/config.go`` (``ResolveShortnameToFQDN``, ``resolveGatewayName``) for names, ``pkg/config/host``
for wildcards, and in ``pilot/pkg/networking/core`` ``gateway.go`` (hosts in lower case, the port of a Host header ignored) and
``httproute.go`` (``generateAltVirtualHostsForKubernetesService``: by which shorter names a sidecar knows a Service).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput

MESH = "mesh"
"""The gateway that stands for all sidecars."""
DOMAIN = "svc.cluster.local"


def namespace_of(virtual_service: Mapping[str, Any], unsaid: str = "") -> str:
    """Namespace of a VirtualService; what is given where it does not say it."""
    return str(virtual_service.get("metadata", {}).get("namespace") or unsaid)


def full_gateway(gateway: str, namespace: str) -> str:
    """``NAMESPACE/NAME`` of a gateway; ``mesh`` as it is.

    Args:
        gateway: As a VirtualService writes it: ``NAME``, ``NAMESPACE/NAME``, ``./NAME``, ``NAME.NAMESPACE``, a Service's full name.
        namespace: The VirtualService's.
    """
    if gateway == MESH:
        return gateway
    if "/" in gateway:
        before, _, name = gateway.partition("/")
        return f"{namespace}/{name}" if before == "." else gateway
    if "." in gateway:
        name, within = gateway.split(".")[:2]
        return f"{within}/{name}"
    return f"{namespace}/{gateway}"


def full_host(host: str, namespace: str) -> str:
    """A host as proxies know it: a short one means the Service of that name in the namespace, where that is known."""
    host = host.lower()
    return host if "." in host or ":" in host or host == "*" or not namespace else f"{host}.{namespace}.{DOMAIN}"


def inside_host(host: str, namespace: str) -> str:
    """The same for sidecars, which know a Service under shorter names, too: ``NAME.NAMESPACE`` and ``NAME.NAMESPACE.svc``."""
    full = full_host(host, namespace).removesuffix(".")
    parts = full.split(".")
    of_a_service = len(parts) == 2 or (len(parts) == 3 and parts[2] == "svc")
    return f"{parts[0]}.{parts[1]}.{DOMAIN}" if of_a_service and "*" not in full else full


def service_of(host: str, namespace: str) -> str | None:
    """The Service of a namespace that a destination's host means; None where it is another namespace's, or outside."""
    name, _, rest = inside_host(host, namespace).partition(".")
    return name if rest in ("", f"{namespace}.{DOMAIN}") else None


def foreign_namespace(host: str, namespace: str) -> str | None:
    """The other namespace whose Services a host means to sidecars, ``*`` for those of all; None where it is none.

    A name of two parts is taken for a DNS name (``example.com``), though sidecars know Services by such, too.
    """
    labels = host.lower().removesuffix(".").split(".")
    if labels[0] == "*":
        rest = labels[1:]
        if rest in (DOMAIN.split(".")[1:], DOMAIN.split(".")[2:]) or rest[0] == "svc":
            return "*"
        labels = ["*", *rest]
    if len(labels) < 3 or labels[2] != "svc" or labels[1] == namespace:
        return None
    return labels[1]


def check_own_hosts(hosts: Sequence[str], namespace: str) -> None:
    """Refuse hosts of other namespaces: sidecars everywhere would send their requests to a model here.

    Raises:
        InvalidInput: Names the first.
    """
    for host in hosts:
        other = foreign_namespace(host, namespace)
        if other is not None:
            whose = "Services of every namespace" if other == "*" else f"a Service of namespace '{other}'"
            raise InvalidInput(
                f"host '{host}' is that of {whose}, whose callers would get answers of this endpoint: leave it out, or say "
                "foreign_host=true if that is meant"
            )


def gateways_of(virtual_service: Mapping[str, Any], unsaid: str = "") -> tuple[str, ...]:
    """The gateways that have a VirtualService's routes, each under its full name; ``mesh`` where none is named.

    Args:
        virtual_service: The object.
        unsaid: Its namespace, where it does not say it.
    """
    named = virtual_service.get("spec", {}).get("gateways") or [MESH]
    return tuple(dict.fromkeys(full_gateway(str(gateway), namespace_of(virtual_service, unsaid)) for gateway in named))


def hosts_of(virtual_service: Mapping[str, Any], unsaid: str = "") -> tuple[str, ...]:
    """The hosts of a VirtualService, each under its full name; none for a delegate."""
    hosts = virtual_service.get("spec", {}).get("hosts") or ()
    return tuple(full_host(str(host), namespace_of(virtual_service, unsaid)) for host in hosts)


def asked_hosts(virtual_service: Mapping[str, Any], unsaid: str = "") -> tuple[str, ...]:
    """A name to ask each of a VirtualService's hosts by, those from outside first; for a wildcard, one that it covers."""
    name, namespace = str(virtual_service["metadata"]["name"]), namespace_of(virtual_service, unsaid)
    hosts = (
        full_host(name, namespace) if host == "*" else f"{name}{host[1:]}" if host.startswith("*.") else host
        for host in hosts_of(virtual_service, unsaid)
    )
    return tuple(sorted(dict.fromkeys(hosts), key=lambda host: host.endswith(DOMAIN)))


def has_host(virtual_service: Mapping[str, Any], authority: str) -> bool:
    """Whether requests for a host are a VirtualService's at one of its gateways, as far as that can be told."""
    return any(host_at(virtual_service, authority, gateway) for gateway in gateways_of(virtual_service))


def host_at(virtual_service: Mapping[str, Any], authority: str, gateway: str) -> bool | None:
    """Whether requests for a host are a VirtualService's at a gateway: there by its full name, at sidecars by shorter ones, too.

    None: it depends on the namespace of the VirtualService, which it does not say, for a short host means a Service there.

    Args:
        virtual_service: The object.
        authority: The host that is asked for.
        gateway: Full name of one of its gateways, ``mesh`` for sidecars.
    """
    namespace = namespace_of(virtual_service)
    asked = without_port(authority.lower()).removesuffix("." if gateway == MESH else "")
    answer: bool | None = False
    for host in hosts_of(virtual_service):
        if host == "*" or asked == host or (host.startswith("*") and asked.endswith(host[1:])):
            return True
        if gateway == MESH and inside_host(asked, namespace) == inside_host(host, namespace):
            return True
        if not namespace and _one_service(*((asked, host) if gateway != MESH else _inside(asked, host))):
            answer = None
    return answer


def _inside(*hosts: str) -> list[str]:
    return [inside_host(host, "") for host in hosts]


def _one_service(asked: str, host: str) -> bool:
    """Whether a short host, in some namespace, is the Service that another one names in full."""
    short, full = sorted((asked, host), key=len)
    return "." not in short and full.startswith(f"{short}.") and full.endswith(f".{DOMAIN}")


def bound_to(virtual_service: Mapping[str, Any], gateway: str) -> bool | None:
    """Whether a VirtualService has its routes at a gateway; None: it depends on its namespace, which it does not say.

    Args:
        virtual_service: The object.
        gateway: Full name of the gateway.
    """
    bound = gateways_of(virtual_service)
    if gateway in bound:
        return True
    name = gateway.rpartition("/")[2]
    return None if not namespace_of(virtual_service) and f"/{name}" in bound else False


def without_port(authority: str) -> str:
    """The host of a Host header."""
    host, separator, port = authority.rpartition(":")
    return host if separator and port.isdigit() and (":" not in host or host.endswith("]")) else authority


def placed(virtual_service: Mapping[str, Any]) -> Object:
    """The object with the full names of gateways in its spec and in the matches of its routes; itself where nothing names one."""
    spec = virtual_service.get("spec", {})
    namespace = namespace_of(virtual_service)

    def named(part: Mapping[str, Any]) -> Object:
        return {**part, "gateways": [full_gateway(str(gateway), namespace) for gateway in part["gateways"]]}

    def route_with_names(route: Object) -> Object:
        match = route.get("match") or []
        if not any(condition.get("gateways") for condition in match):
            return route
        return {**route, "match": [named(condition) if condition.get("gateways") else condition for condition in match]}

    http = [route_with_names(route) for route in spec.get("http") or []]
    with_names = named(spec) if spec.get("gateways") else dict(spec)
    return {**virtual_service, "spec": {**with_names, "http": http}} if "http" in spec else dict(virtual_service)
