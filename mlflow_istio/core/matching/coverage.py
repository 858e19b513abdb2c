"""What a route takes of all that arrives: everything, in whichever words it says so, or certainly, perhaps or never one request.

istiod stops at the first route that takes everything (``IsCatchAllRoute`` in ``pilot/pkg/networking/core/route/route.go``): a match
of nothing, the prefix ``/``, the regex ``.*``. Other words for it (an empty prefix, ``/.*``, any method, the only host, all of the
gateways) hide what stands below just the same.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route
from mlflow_istio.core.matching.places import MESH, asked_hosts, gateways_of, hosts_of
from mlflow_istio.core.matching.requests import Request, conditions_of, described, evaluate

_ALWAYS_THERE = ("method", "scheme", "authority")
_ODD: Mapping[str, tuple[Request, ...]] = {
    "uri": tuple(
        Request(path=path)
        for path in (
            *("/", "/invocations", "/zq-9/x.y", "/a%20b", "//", "/%C3%A9/"),
            *(f"/{one}" for one in string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@"),
            "/" + "long/" * 300,
        )
    ),
    "method": tuple(Request(method=method) for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")),
    "scheme": (Request(scheme="http"), Request(scheme="https")),
    "authority": tuple(
        Request(authority=host) for host in ("zq-9.example", "Q", "a.b_c:8080", "10.0.0.1", "[2001:db8::1]:443")
    ),
}
"""Requests so unlike each other that what takes all of them, by one field, leaves none: a regex has many words for everything."""
_UNCHECKED = (
    "name",
    "statPrefix",
    "ignoreUriCase",
    "uri",
    *_ALWAYS_THERE,
    "gateways",
    "sourceLabels",
    "sourceNamespace",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One way in which requests reach a VirtualService.

    Attributes:
        host: Host that they are sent to; None: not known.
        gateway: Full name of the gateway, ``mesh`` for sidecars; None: not known.
    """

    host: str | None = None
    gateway: str | None = None

    def of(self, request: Request) -> Request:
        """A request that arrives so."""
        return replace(request, authority=self.host, gateway=self.gateway)


def arrivals(virtual_service: Mapping[str, Any]) -> tuple[Arrival, ...]:
    """Every way in which requests reach a VirtualService, those from outside of the mesh first."""
    hosts = asked_hosts(virtual_service)
    if not hosts:
        return (Arrival(),)
    gateways = sorted(gateways_of(virtual_service), key=lambda gateway: gateway == MESH)
    return tuple(Arrival(host=host, gateway=gateway) for gateway in gateways for host in hosts)


def is_catch_all(route: Mapping[str, Any], virtual_service: Mapping[str, Any]) -> bool:
    """Whether a route takes every request that arrives: it has no match, or one of its matches asks for nothing.

    Args:
        route: The route.
        virtual_service: What it stands in; both with full names (``places.placed``).
    """
    hosts, gateways = hosts_of(virtual_service), gateways_of(virtual_service)
    return any(_asks_for_nothing(condition, hosts, gateways) for condition in conditions_of(route))


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


def _asks_for_nothing(condition: Mapping[str, Any], hosts: Sequence[str], gateways: Sequence[str]) -> bool:
    if any(value for name, value in condition.items() if name not in _UNCHECKED):
        return False
    if not _any_value("uri", condition):
        return False
    if condition.get("gateways"):
        if not set(gateways) <= set(condition["gateways"]):
            return False
    elif condition.get("sourceLabels") or condition.get("sourceNamespace"):
        return False
    open_fields = [name for name in _ALWAYS_THERE if not _any_value(name, condition)]
    return open_fields in ([], ["authority"]) and (not open_fields or _all_hosts(condition["authority"], hosts))


def _any_value(name: str, condition: Mapping[str, Any]) -> bool:
    """Whether every value of a field that all requests have satisfies a match."""
    alone = {name: condition.get(name)}
    return all(judged(alone, request) for request in _ODD[name])


def _all_hosts(authority: Mapping[str, str], hosts: Sequence[str]) -> bool:
    """Whether all hosts there are satisfy it; a wildcard stands for hosts that nobody can name."""
    condition = {"authority": authority}
    named = [host for host in hosts if not host.startswith("*")]
    return bool(hosts) and named == list(hosts) and all(judged(condition, Request(authority=host)) for host in named)
