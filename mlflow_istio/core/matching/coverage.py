"""What a route takes of all that arrives: everything, in whichever words it says so, or certainly, perhaps or never one request.

istiod stops at the first route that takes everything (``IsCatchAllRoute`` in ``pilot/pkg/networking/core/route/route.go``): a match
of nothing, the prefix ``/``, the regex ``.*``. Other words for it (an empty prefix, ``/.*``, any method, the only host, all of the
gateways, pseudo headers that all requests have, or several matches that together leave nothing, such as http and https) hide what
stands below just the same.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route
from mlflow_istio.core.matching.places import MESH, asked_hosts, gateways_of, hosts_of
from mlflow_istio.core.matching.requests import PSEUDO_HEADERS, Request, conditions_of, described, evaluate

_ODD: Mapping[str, tuple[Request, ...]] = {
    "uri": (
        *(
            Request(path=path)
            for path in (
                *("/", "/invocations", "/zq-9/x.y", "/a%20b", "//", "/%C3%A9/"),
                *(f"/{character}" for character in string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@"),
                "/" + "long/" * 300,
            )
        ),
        Request(path="/a", query={"b": "c"}),
    ),
    "method": tuple(Request(method=method) for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")),
    "scheme": (Request(scheme="http"), Request(scheme="https")),
    "authority": tuple(
        Request(authority=host) for host in ("zq-9.example", "Q", "a.b_c:8080", "10.0.0.1", "[2001:db8::1]:443")
    ),
}
"""Requests so unlike each other that what takes all of them, by one field, leaves none: a regex has many words for everything."""
_UNCHECKED = ("name", "statPrefix", "ignoreUriCase", *_ODD, "headers", "withoutHeaders")
_OF_PLACES = ("gateways", "sourceLabels", "sourceNamespace")
_SCHEMES = ("http", "https")
SCHEME_HEADERS = (":scheme", "x-forwarded-proto")
"""Headers by which a match asks for the scheme."""
_BY_HEADERS = {**PSEUDO_HEADERS, "x-forwarded-proto": "scheme"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One way in which requests reach a VirtualService.

    Attributes:
        host: Host that they are sent to; None: not known.
        gateway: Full name of the gateway, ``mesh`` for sidecars; None: not known.
        scheme: ``http`` or ``https``.
        port: Port of the listener, 0: one that no match names; None: not known.
    """

    host: str | None = None
    gateway: str | None = None
    scheme: str = "http"
    port: int | None = None

    def of(self, request: Request) -> Request:
        """A request that arrives so."""
        return replace(request, authority=self.host, gateway=self.gateway, scheme=self.scheme, port=self.port)


def arrivals(virtual_service: Mapping[str, Any]) -> tuple[Arrival, ...]:
    """Every way in which requests reach a VirtualService, those from outside of the mesh first."""
    hosts = asked_hosts(virtual_service)
    if not hosts:
        return (Arrival(),)
    gateways = sorted(gateways_of(virtual_service), key=lambda gateway: gateway == MESH)
    return tuple(Arrival(host=host, gateway=gateway) for gateway in gateways for host in hosts)


def at_each_listener(virtual_service: Mapping[str, Any], arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Arrivals at each listener of their gateways that matters to some match."""
    every = listeners_of(virtual_service)
    return [
        replace(arrival, scheme=scheme, port=port) for arrival in arrivals for scheme, port in every(arrival.gateway)
    ]


def listeners_of(virtual_service: Mapping[str, Any]) -> Callable[[str | None], list[tuple[str, int]]]:
    """Scheme and port, 0 for all others, of a gateway's listeners that matter to some match; sidecars take plain HTTP alone."""
    http = virtual_service.get("spec", {}).get("http") or []
    conditions = [condition for route in http for condition in conditions_of(route)]
    ports = [0, *sorted({condition["port"] for condition in conditions if condition.get("port")})]
    asked = any(condition.get("scheme") or _names_scheme(condition) for condition in conditions)

    def every(gateway: str | None) -> list[tuple[str, int]]:
        schemes = _SCHEMES if asked and gateway != MESH else _SCHEMES[:1]
        return [(scheme, port) for scheme in schemes for port in ports]

    return every


def _names_scheme(condition: Mapping[str, Any]) -> bool:
    headers = (*(condition.get("headers") or {}), *(condition.get("withoutHeaders") or {}))
    return any(header.lower() in SCHEME_HEADERS for header in headers)


def is_catch_all(route: Mapping[str, Any], virtual_service: Mapping[str, Any]) -> bool:
    """Whether a route takes every request that arrives: it has no match, or its matches together leave none.

    Args:
        route: The route.
        virtual_service: What it stands in; both with full names (``places.placed``).
    """
    conditions = [condition for condition in conditions_of(route) if _asks_for_what_all_have(condition)]
    if not conditions:
        return False
    hosts, gateways = hosts_of(virtual_service), gateways_of(virtual_service)
    asked = {**_ODD, **({"authority": named} if (named := _named(hosts)) else {})}
    taken = [{_takers_of(conditions, field, request) for request in requests} for field, requests in asked.items()]
    taken.append({_takers_at(conditions, gateway) for gateway in gateways})
    return all(frozenset.intersection(*together) for together in itertools.product(*taken))


def judged(condition: Mapping[str, Any], request: Request) -> bool | None:
    """Whether a match takes a request; None: that can't be told here."""
    findings = [finding.holds for finding in evaluate(condition, request)]
    return False if False in findings else None if None in findings else True


@dataclass(frozen=True, kw_only=True, slots=True)
class Taker:
    """A route that takes a request.

    Attributes:
        route: What people call it: its name, or where it stands.
        condition: The match that does.
        surely: Whether it certainly does.
    """

    route: str
    condition: Mapping[str, Any]
    surely: bool

    def __str__(self) -> str:
        return f"route '{self.route}' ({described(self.condition)})"


def takers(virtual_service: Mapping[str, Any], before: int, request: Request) -> Iterator[Taker]:
    """Those of somebody else's routes, above a place, that take a request or may do so.

    Our own take only what is meant for them, and those that hand on to a delegate may get it back.

    Args:
        virtual_service: The object, with full names (``places.placed``).
        before: The place, counted from 0.
        request: The request.
    """
    for index, route in enumerate((virtual_service.get("spec", {}).get("http") or [])[:before]):
        if is_own_route(route) or route.get("delegate"):
            continue
        for condition in conditions_of(route):
            takes = judged(condition, request)
            if takes is not False:
                yield Taker(route=route_words(route, index), condition=condition, surely=bool(takes))


def route_words(route: Object, index: int) -> str:
    """What people call a route: its name, or where it stands."""
    return str(route.get("name") or f"spec.http[{index}]")


def _asks_for_what_all_have(condition: Mapping[str, Any]) -> bool:
    """Whether a match asks only for what all requests have, of whichever value."""
    headers = {*(condition.get("headers") or {}), *(condition.get("withoutHeaders") or {})}
    others = [name for name, value in condition.items() if value and name not in (*_UNCHECKED, *_OF_PLACES)]
    return not others and all(header.lower() in _BY_HEADERS for header in headers)


def _takers_of(conditions: Sequence[Mapping[str, Any]], field: str, request: Request) -> frozenset[int]:
    """Which matches take a request, as far as one field decides, in whichever words they ask for it."""
    return frozenset(index for index, condition in enumerate(conditions) if judged(_about(condition, field), request))


def _takers_at(conditions: Sequence[Mapping[str, Any]], gateway: str) -> frozenset[int]:
    """Which matches take requests of every caller at a gateway."""
    place = Request(gateway=gateway)
    return frozenset(
        index
        for index, condition in enumerate(conditions)
        if judged({name: condition[name] for name in _OF_PLACES if condition.get(name)}, place)
    )


def _about(condition: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """What a match says of one field, by the field itself or by headers."""
    by_headers = {
        name: {
            header: header_match
            for header, header_match in (condition.get(name) or {}).items()
            if _BY_HEADERS[header.lower()] == field
        }
        for name in ("headers", "withoutHeaders")
    }
    return {"ignoreUriCase": condition.get("ignoreUriCase"), field: condition.get(field), **by_headers}


def _named(hosts: Sequence[str]) -> tuple[Request, ...]:
    """A request to each host there; none where a wildcard stands for hosts that nobody can name, or where none is known."""
    return tuple(Request(authority=host) for host in hosts) if not any(map(_is_wild, hosts)) else ()


def _is_wild(host: str) -> bool:
    return host.startswith("*")
