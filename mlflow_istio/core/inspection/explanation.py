"""Why a request gets the answer it gets: the route that takes it, what that route does, and why none above it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.basics.stored import from_json
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.matching.places import (
    bound_to,
    full_gateway,
    gateways_of,
    has_host,
    host_at,
    hosts_of,
    namespace_of,
    placed,
)
from mlflow_istio.core.matching.requests import Finding, Request, conditions_of, evaluate
from mlflow_istio.core.matching.shape import readable
from mlflow_istio.core.mesh.delegation import carried, delegates_of, is_delegate, takes_over
from mlflow_istio.core.mesh.virtual_service import read_mirror, routes_of
from mlflow_istio.errors import InvalidInput

Delegates = Mapping[tuple[str, str], Object | None]
"""(namespace, name) to a VirtualService that others may hand requests on to; the namespace is empty for their own.

None in place of one: it is known not to be there.
"""
_MOST = 2**31 - 1
"""The largest weight there is: Istio's are int32, and its validation refuses negative ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One route of a VirtualService, or of one that it hands requests on to.

    Attributes:
        virtual_service: Name of the VirtualService that holds the route.
        index: Its position there, from 0.
        route: The route, with what it has from the one that hands on to it.
        conditions: Its matches inside those of the route that hands on to it; one must take the request.
        missing: The VirtualService that it hands requests on to and that proxies don't find; nothing stands in its place then.
    """

    virtual_service: str
    index: int
    route: Object
    conditions: tuple[Object, ...]
    missing: str = ""

    @property
    def name(self) -> str:
        """What people call it: its name, or where it stands."""
        return str(self.route.get("name") or f"spec.http[{self.index}] of VirtualService {self.virtual_service}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A route that did not take the request, or may not have.

    Attributes:
        place: The route.
        because: The first field of each of its matches that did not hold; of one that may take it: what can't be told.
    """

    place: Place
    because: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweringShare:
    """A destination and its percent of the requests that its route takes."""

    destination: Destination
    percent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Who answers a request.

    Attributes:
        request: The request.
        place: The route that takes it; None: none does, and the proxy answers 404.
        why: What held, for the first of its matches that takes the request.
        above: Routes above it that did not take it, in order.
        perhaps: Routes above it that would take it, if what can't be told here holds.
        shares: Who answers with what probability; empty for a redirect or a direct response.
        mirrors: Who gets copies, with the percentage copied.
        nobody: Why nobody answers, where that isn't because no route takes it.
        gateways: Full names of the gateways, ``mesh`` for sidecars, at which the request may arrive so; empty: not known.
        provided: On what all of this depends that can't be told here, one line each.
    """

    request: Request
    place: Place | None
    why: tuple[Finding, ...] = ()
    above: tuple[Passed, ...] = ()
    perhaps: tuple[Passed, ...] = ()
    shares: tuple[AnsweringShare, ...] = ()
    mirrors: tuple[AnsweringShare, ...] = ()
    nobody: str = ""
    gateways: tuple[str, ...] = ()
    provided: tuple[str, ...] = ()


def explain(
    virtual_service: Mapping[str, Any],
    request: Request,
    delegates: Delegates | None = None,
    *,
    address: str | None = None,
) -> Explanation:
    """Find the route that takes a request, as Istio and Envoy do: the first that matches.

    Args:
        virtual_service: The object.
        request: The request.
        delegates: VirtualServices that routes with ``delegate`` may hand on to; one that is not here stays a ``delegate``.
        address: Host by which the object's proxies are asked from here, whatever its hosts are.

    Raises:
        InvalidInput: The object, or a delegate that is asked, has a field of another type than Istio's, or the route that takes the
            request a weight that is none; names its path.
    """
    virtual_service = placed(readable(virtual_service))
    if request.gateway is not None:
        request = replace(request, gateway=full_gateway(request.gateway, namespace_of(virtual_service)))
    whatever = request.authority in (None, address)
    doors = {} if is_delegate(virtual_service) else _doors(virtual_service, request, whatever=whatever)
    open_doors = tuple(gateway for gateway, takes in doors.items() if takes is not False)
    if len(open_doors) == 1:
        request = replace(request, gateway=open_doors[0])
    nobody = _asked_for_nothing(virtual_service, request, doors)
    if nobody:
        return Explanation(request=request, place=None, nobody=nobody)
    unsaid = open_doors and not any(doors.values())
    provided = (_unsaid_namespace(virtual_service, request),) if unsaid else ()
    explanation = _explained(virtual_service, request, delegates or {})
    return replace(explanation, gateways=open_doors, provided=provided)


def _explained(virtual_service: Object, request: Request, delegates: Delegates) -> Explanation:
    """The first route that takes a request which arrives at the VirtualService."""
    above: list[Passed] = []
    perhaps: list[Passed] = []
    for place in places(virtual_service, delegates):
        if place.missing:
            missing = Finding(field="delegate", wanted=f"VirtualService '{place.missing}'", actual=None, holds=False)
            above.append(Passed(place=place, because=(missing,)))
            continue
        conditions = [tuple(evaluate(match, request)) for match in place.conditions]
        missed = [next((finding for finding in findings if finding.holds is False), None) for findings in conditions]
        taking = [findings for findings, miss in zip(conditions, missed, strict=True) if miss is None]
        sure = [findings for findings in taking if all(finding.holds for finding in findings)]
        if sure:
            shares = _shares(place)
            return Explanation(
                request=request,
                place=place,
                why=sure[0],
                above=tuple(above),
                perhaps=tuple(perhaps),
                shares=shares,
                mirrors=_mirrors(place.route),
                nobody="" if shares else _without_shares(place.route),
            )
        if taking:
            pending_notification = tuple(finding for finding in taking[0] if finding.holds is None)
            perhaps.append(Passed(place=place, because=pending_notification))
        else:
            above.append(Passed(place=place, because=tuple(finding for finding in missed if finding is not None)))
    return Explanation(request=request, place=None, above=tuple(above), perhaps=tuple(perhaps))


def _doors(virtual_service: Object, request: Request, *, whatever: bool) -> dict[str, bool | None]:
    """At which gateways a request is the VirtualService's; None: that depends on its namespace, which it does not say.

    Args:
        virtual_service: The object, with full names.
        request: The request.
        whatever: Whether it is for one of its hosts, whichever.
    """
    asked = gateways_of(virtual_service)
    if request.gateway is not None:
        bound = bound_to(virtual_service, request.gateway)
        if not bound:
            return {request.gateway: bound}
        asked = (request.gateway,)
    hosts = (
        {} if whatever else {gateway: host_at(virtual_service, str(request.authority), gateway) for gateway in asked}
    )
    return {gateway: hosts.get(gateway, True) for gateway in asked}


def _asked_for_nothing(virtual_service: Mapping[str, Any], request: Request, doors: Mapping[str, bool | None]) -> str:
    """Why none of the routes is asked at all; empty: they are."""
    where = f"VirtualService '{name_of(virtual_service)}'"
    if doors and all(takes is False for takes in doors.values()):
        if request.gateway is not None and bound_to(virtual_service, request.gateway) is False:
            bound = " and ".join(gateways_of(virtual_service))
            return f"{where} is bound to {bound}, not to {request.gateway}: its routes are not asked there"
        hosts = ", ".join(hosts_of(virtual_service))
        elsewhere = request.gateway is not None and has_host(virtual_service, str(request.authority))
        there = f" at {request.gateway}" if elsewhere else ""
        return f"{request.authority} is not a host of {where}{there}, which has {hosts}: its routes are not asked"
    if not routes_of(virtual_service):
        others = [kind for kind in ("tls", "tcp") if virtual_service.get("spec", {}).get(kind)]
        return f"{where} has no http routes" + (
            f", but {' and '.join(others)}, which carry no HTTP requests" if others else ""
        )
    return ""


def _unsaid_namespace(virtual_service: Mapping[str, Any], request: Request) -> str:
    short = "gateways" if request.gateway is not None and not bound_to(virtual_service, request.gateway) else "hosts"
    names = [str(name).removeprefix("/") for name in virtual_service["spec"].get(short) or []]
    asked = request.gateway if short == "gateways" else request.authority
    return (
        f"VirtualService '{name_of(virtual_service)}' stands in the namespace that {asked} means: it does not say which, and its "
        f"{short} ({', '.join(names)}) are names there"
    )


def known_delegates(virtual_services: Sequence[Object], root: Mapping[str, Any], *, whole: bool) -> Delegates:
    """Those that a root may hand on to.

    Args:
        virtual_services: What there is.
        root: The root.
        whole: Whether this is all that stands in its namespace, so that one that is not among them is not there.
    """
    beside = namespace_of(root)
    delegates: dict[tuple[str, str], Object | None] = {("", name): None for name in delegates_of(root)} if whole else {}
    for obj in virtual_services:
        namespace = namespace_of(obj, beside)
        delegates[(namespace, name_of(obj))] = obj
        if beside in ("", namespace):
            delegates[("", name_of(obj))] = obj
    return delegates


def places(virtual_service: Mapping[str, Any], delegates: Delegates) -> Iterator[Place]:
    """All routes in order, with those of delegates in the place of the route that hands on to them."""
    name, namespace = name_of(virtual_service), namespace_of(virtual_service)
    for index, route in enumerate(routes_of(virtual_service)):
        delegate = route.get("delegate")
        key = _key(delegate, namespace) if delegate else None
        if key is None or key not in delegates:
            yield Place(virtual_service=name, index=index, route=dict(route), conditions=tuple(conditions_of(route)))
            continue
        target = delegates[key]
        target = readable(target) if target is not None else None
        if target is None or not takes_over(target, namespace):
            yield Place(virtual_service=name, index=index, route=dict(route), conditions=(), missing=key[1])
            continue
        for inner, below in enumerate(routes_of(target)):
            both = carried(route, below)
            if both is not None:
                own = {**both, "name": below.get("name", "")}
                yield Place(virtual_service=key[1], index=inner, route=own, conditions=tuple(conditions_of(both)))


def _key(delegate: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    elsewhere = str(delegate.get("namespace") or "")
    return ("" if elsewhere == namespace else elsewhere, str(delegate["name"]))


def _without_shares(route: Mapping[str, Any]) -> str:
    """Why no destination of a route answers; empty: it answers by itself, or hands on."""
    if any(route.get(action) is not None for action in ("redirect", "directResponse", "delegate")):
        return ""
    return "none of its destinations has any weight" if route.get("route") else "it has no destination"


def _shares(place: Place) -> tuple[AnsweringShare, ...]:
    """Destinations that can answer; weights count in relation to their sum, and an only destination gets all.

    Raises:
        InvalidInput: A weight is one that Istio refuses; names its path.
    """
    entries: Sequence[Mapping[str, Any]] = place.route.get("route") or []
    for number, entry in enumerate(entries):
        if not 0 <= (entry.get("weight") or 0) <= _MOST:
            raise InvalidInput(
                f"VirtualService '{place.virtual_service}': spec.http[{place.index}].route[{number}].weight must be a whole number "
                f"from 0 to {_MOST}"
            )
    weights = [1] if len(entries) == 1 else [entry.get("weight") or 0 for entry in entries]
    total = sum(weights)
    return tuple(
        AnsweringShare(
            destination=from_json(Destination, entry["destination"]), percent=round(100.0 * weight / total, 4)
        )
        for entry, weight in zip(entries, weights, strict=True)
        if weight > 0
    )


def _mirrors(route: Mapping[str, Any]) -> tuple[AnsweringShare, ...]:
    """Who gets copies; of ``mirror`` the percentage counts before the older ``mirrorPercent`` (route.go, ``MirrorPercent``)."""
    entries = list(route.get("mirrors") or [])
    if route.get("mirror"):
        percent = route.get("mirrorPercentage")
        if percent is None:
            percent = {"value": 100.0 if route.get("mirrorPercent") is None else float(route["mirrorPercent"])}
        entries.insert(0, {"destination": route["mirror"], "percentage": percent})
    mirrors = [read_mirror(entry) for entry in entries]
    return tuple(
        AnsweringShare(destination=mirror.destination, percent=mirror.percentage)
        for mirror in mirrors
        if mirror.percentage > 0
    )
