"""What a request must look like to reach an endpoint's routes, worked out from the match they stand inside of.

An endpoint of our own takes every request at its hosts. An adopted route, and a delegate, take only some: proofs and callers need
a path, a method and headers that they take, and that no route above them takes first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict
from urllib.parse import parse_qsl, urlencode

from mlflow_istio.core.basics.objects import Object, is_own_route, name_of
from mlflow_istio.core.matching.coverage import (
    SCHEME_HEADERS,
    Arrival,
    Taker,
    arrivals,
    at_each_listener,
    judged,
    listeners_of,
    takers,
)
from mlflow_istio.core.matching.places import has_host, placed
from mlflow_istio.core.matching.probe import Listeners, Probe
from mlflow_istio.core.matching.re2 import read_regex
from mlflow_istio.core.matching.requests import PSEUDO_HEADERS, Request, conditions_of, evaluate
from mlflow_istio.core.matching.shape import told_by_shape
from mlflow_istio.errors import InvalidInput

SCORING = "/invocations"
_EVERYWHERE = (SCORING, "/", "/ping")
"""Paths that callers and probes of a route without a match use."""
_ELSEWHERE = "/mlflow-istio"
"""Where such a route may be reached when all of those are somebody else's."""
_OF_THE_PLACE = ("gateways", "authority", "headers[:authority]", "headers[host]")
"""Match fields that a request can't be made up for where nothing is known of the place at which it arrives."""
_PRESENT = "1"
"""A value where any will do."""
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BACKREFERENCE = re.compile(r"\\(\d)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrance:
    """How a request reaches an endpoint's routes.

    Attributes:
        virtual_service: VirtualService whose hosts and gateways it goes to.
        probe_path: Path that reaches them; None: any.
        scoring: Path, with its query, under which the model server gets ``/invocations``, if there is one.
        handed_on: Path that the model server gets then; None where that can't be told.
        method: Method that they take.
        headers: Headers that they need.
        gateways: Full names of the gateways at which it reaches them, ``mesh`` among them; None: at all of the VirtualService's.
        listeners: At which of their listeners it does; None: at all.
        key: Headers that a pinned request and a probe carry beside.
        rewritten: Whether the model server may get another path than the one asked for, and not know it.
    """

    virtual_service: str
    probe_path: str | None = None
    scoring: str = SCORING
    handed_on: str | None = SCORING
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] | None = None
    listeners: Listeners | None = None
    key: Mapping[str, str] = field(default_factory=dict, repr=False)
    rewritten: bool = False

    def through(self, probe: Probe) -> Probe:
        """The probe as it is sent through this entrance."""
        sent = replace(
            probe,
            virtual_service=self.virtual_service,
            headers={**self.headers, **self.key, **probe.headers},
            gateways=self.gateways,
            listeners=self.listeners,
        )
        if self.probe_path is None:
            return replace(sent, any_answer=self.rewritten)
        return replace(sent, path=self.probe_path, method=probe.method if probe.call else self.method, any_answer=True)


def entrance_at(virtual_service: Mapping[str, Any], route: Object) -> Entrance:
    """The entrance of one route of a VirtualService (a root with its delegates merged in, for a delegate).

    Routes above that can't be judged offline are taken not to catch a request, where there is none that they can't catch.

    Args:
        virtual_service: The object.
        route: One of its http routes.

    Raises:
        InvalidInput: No request that we could make up reaches the route; names the route above that takes them and what it matches
            on, or what the route's own match asks for.
    """
    spec = virtual_service.get("spec", {})
    above = list(itertools.takewhile(lambda other: other != route, spec.get("http") or []))
    if not route.get("match") and all(map(is_own_route, above)):
        return Entrance(
            virtual_service=name_of(virtual_service),
            handed_on=_rewritten(route, {}, SCORING),
            rewritten=bool(route.get("rewrite")),
        )
    return _entrance({**virtual_service, "spec": {**spec, "http": [*above, route]}}, len(above))


@told_by_shape
def _entrance(virtual_service: Mapping[str, Any], at: int) -> Entrance:
    whole = placed(virtual_service)
    own = whole["spec"]["http"][at]
    conditions = own.get("match") or [{}]
    ways = [way for condition in conditions for way in _ways(whole, at, condition, _requests(condition))]
    if all(way.taker is not None for way in ways):
        ways += [way for condition in conditions for way in _ways(whole, at, condition, _varied(condition, whole, at))]
    open_ways = [way for way in ways if way.taker is None] or [
        way for way in ways if way.taker and not way.taker.surely
    ]
    if open_ways:
        if not own.get("match") and (anywhere := _anywhere(open_ways)):
            arrival, same = anywhere
            return Entrance(
                virtual_service=name_of(virtual_service),
                handed_on=_rewritten(own, {}, SCORING),
                headers=_host(whole, arrival, {}),
                **_doors(whole, arrival, same),
                rewritten=bool(own.get("rewrite")),
            )
        way = min(
            open_ways,
            key=lambda clear_way: _rewritten(own, clear_way.condition, clear_way.request.path) not in (SCORING, None),
        )
        return Entrance(
            virtual_service=name_of(virtual_service),
            probe_path=_with_query(way.request),
            scoring=_with_query(way.request),
            handed_on=_rewritten(own, way.condition, way.request.path),
            method=way.request.method,
            headers={**way.request.headers, **_host(whole, way.arrival, way.condition)},
            **_doors(whole, way.arrival, [open_way.arrival for open_way in open_ways if open_way.asks_the_same(way)]),
        )
    taken = next((way.taker for way in ways if way.taker is not None), None)
    raise InvalidInput(
        f"VirtualService '{name_of(virtual_service)}': no request could be made up that reaches route '{own.get('name')}' "
        f"({_why(conditions)}), so no change of its traffic could be proved: "
        + (
            f"{taken} above it takes them: put it below, or let it match less"
            if taken
            else "match on uri, method or headers with exact or prefix"
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One request that a match of the route takes, arriving in one way, and who takes it before."""

    condition: Mapping[str, Any]
    request: Request
    arrival: Arrival
    taker: Taker | None

    def asks_the_same(self, other: _Way) -> bool:
        return Arrival(host=self.arrival.host).of(self.request) == Arrival(host=other.arrival.host).of(other.request)


def _ways(
    virtual_service: Mapping[str, Any], at: int, condition: Mapping[str, Any], requests: Iterable[Request]
) -> Iterator[_Way]:
    for request in requests:
        for arrival in _arrivals(virtual_service, condition):
            arriving = arrival.of(request)
            findings = list(evaluate(condition, arriving))
            if any(
                finding.holds is False or (finding.holds is None and finding.field not in _OF_THE_PLACE)
                for finding in findings
            ):
                continue
            before = list(takers(virtual_service, at, arriving))
            taker = next((way for way in before if way.surely), next(iter(before), None))
            yield _Way(condition=condition, request=arriving, arrival=arrival, taker=taker)


def _arrivals(virtual_service: Mapping[str, Any], condition: Mapping[str, Any]) -> list[Arrival]:
    """Where requests arrive, at a host that the match asks for where a wildcard, or nothing, says which hosts there are."""
    ways = list(arrivals(virtual_service))
    authority = _asked(condition).get("authority")
    guess = _value(authority) if authority else None
    if guess and (ways == [Arrival()] or has_host(virtual_service, guess)):
        known = dict.fromkeys(arrival.gateway for arrival in ways)
        ways = [*(Arrival(host=guess, gateway=gateway) for gateway in known), *ways]
    return at_each_listener(virtual_service, ways)


def _anywhere(ways: Sequence[_Way]) -> tuple[Arrival, list[Arrival]] | None:
    """Where a route without a match takes whatever callers and probes ask for; None: some of it is somebody else's everywhere."""
    open_paths: dict[Arrival, set[str]] = {}
    for way in ways:
        if (way.request.method, way.request.headers) != ("GET", {}):
            continue
        open_paths.setdefault(way.arrival, set()).add(way.request.path)
    whole = [arrival for arrival, paths in open_paths.items() if paths >= set(_EVERYWHERE)]
    return (whole[0], [arrival for arrival in whole if arrival.host == whole[0].host]) if whole else None


class _Doors(TypedDict):
    gateways: tuple[str, ...] | None
    listeners: Listeners | None


def _doors(virtual_service: Mapping[str, Any], chosen: Arrival, same: Sequence[Arrival]) -> _Doors:
    """The gateways at which one request leads in, and at which of their listeners; None where that is all there are."""
    every = listeners_of(virtual_service)
    taking = {
        gateway: {
            (same_arrival.scheme, same_arrival.port or 0) for same_arrival in same if same_arrival.gateway == gateway
        }
        for gateway in _at(same)
    }
    mine = [listener for listener in every(chosen.gateway) if listener in taking[chosen.gateway]]
    whole = mine == every(chosen.gateway)
    doors = [gateway for gateway, open_ones in taking.items() if open_ones >= set(every(gateway) if whole else mine)]
    everywhere = {arrival.gateway for arrival in arrivals(virtual_service)}
    named = tuple(dict.fromkeys(port for _, port in every(chosen.gateway) if port))
    return {
        "gateways": None if everywhere <= {*doors, None} else tuple(door for door in doors if door is not None),
        "listeners": None if whole else Listeners(named=named, taking=tuple(mine)),
    }


def _at(same: Sequence[Arrival]) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys(arrival.gateway for arrival in same))


def _host(virtual_service: Mapping[str, Any], arrival: Arrival, condition: Mapping[str, Any]) -> dict[str, str]:
    """The Host header, where it has to be another than the VirtualService's first."""
    usual = arrivals(virtual_service)[0].host
    asked = _asked(condition).get("authority") or arrival.host != usual
    return {"Host": arrival.host} if arrival.host and asked else {}


def _asked(condition: Mapping[str, Any]) -> Object:
    """A match with what it asks for by pseudo headers as the fields that mean the same; either may be asked for twice."""
    headers = condition.get("headers") or {}
    by_headers = {
        field: headers[name] or {} for name in headers if (field := PSEUDO_HEADERS.get(name.lower())) is not None
    }
    others = {
        name: wanted for name, wanted in headers.items() if name.lower() not in (*PSEUDO_HEADERS, *SCHEME_HEADERS)
    }
    fields = {name: value for name, value in condition.items() if value}
    return {**by_headers, **fields, "headers": others}


def _requests(condition: Mapping[str, Any]) -> Iterator[Request]:
    """Requests that may satisfy a match, the likeliest first."""
    asked = _asked(condition)
    headers = {name.lower(): _value(wanted or {}) for name, wanted in asked["headers"].items()}
    query = {name: _value(wanted or {}) for name, wanted in (condition.get("queryParams") or {}).items()}
    method = _value(asked.get("method") or {}, _METHODS)
    if method is None or None in headers.values() or None in query.values() or any(map(_is_pseudo, headers)):
        return
    for path in _paths(asked.get("uri")):
        bare, _, text = path.partition("?")
        yield Request(
            path=bare,
            method=method,
            headers={name: value for name, value in headers.items() if value is not None},
            query={**dict(parse_qsl(text)), **{name: value for name, value in query.items() if value is not None}},
        )


def _is_pseudo(header: str) -> bool:
    return header.startswith(":")


def _varied(condition: Mapping[str, Any], virtual_service: Mapping[str, Any], at: int) -> Iterator[Request]:
    """The same requests as scoring sends them, and with headers for whose absence routes above ask."""
    above = (virtual_service.get("spec", {}).get("http") or [])[:at]
    unwanted = {
        name.lower(): value
        for route in above
        for condition in conditions_of(route)
        for name, wanted in (condition.get("withoutHeaders") or {}).items()
        if name.lower() not in (*PSEUDO_HEADERS, *SCHEME_HEADERS) and (value := _value(wanted or {})) is not None
    }
    for request in _requests(condition):
        more = {**unwanted, **request.headers}
        posted = request.method if _asked(condition).get("method") else "POST"
        for headers, method in ((request.headers, posted), (more, request.method), (more, posted)):
            if (headers, method) != (request.headers, request.method):
                yield replace(request, headers=headers, method=method)


def _paths(uri: Mapping[str, str] | None) -> Sequence[str]:
    if not uri:
        return (*_EVERYWHERE, _ELSEWHERE)
    if "regex" in uri:
        guess = _value(uri, ())
        return (SCORING, *([guess, guess + SCORING] if guess else ()), "/")
    if "exact" in uri:
        return (uri["exact"],)
    prefix = uri.get("prefix", "/")
    return (SCORING, prefix.rstrip("/") + SCORING, prefix or "/")


def _value(wanted: Mapping[str, str], usual: Sequence[str] = (_PRESENT,)) -> str | None:
    """A text that satisfies a string match: a usual one, or what it says; of a regex only where its plain letters do."""
    if "exact" in wanted:
        return wanted["exact"]
    sample = wanted.get("prefix")
    if "regex" in wanted:
        sample = re.sub(r"\.[*+]\??|[\^$()?\\]", "", wanted["regex"].partition("|")[0])
    condition = {"queryParams": {"": wanted}}
    return next((text for text in (*usual, sample) if text and judged(condition, Request(query={"": text}))), None)


def _rewritten(route: Mapping[str, Any], condition: Mapping[str, Any], path: str) -> str | None:
    """The path that the model server sees, as Envoy rewrites it; None where that can't be said."""
    rewrite = route.get("rewrite") or {}
    pattern = rewrite.get("uriRegexRewrite")
    if pattern:
        try:
            expression = read_regex(pattern["match"])
            if not expression.is_quick(path):
                return None
            replaced = re.sub(expression.python, _BACKREFERENCE.sub(r"\\g<\1>", pattern["rewrite"]), path)
        except (InvalidInput, re.error, KeyError):
            return None
        return replaced if expression.exact else None
    if "uri" not in rewrite:
        return path
    uri = condition.get("uri") or {"prefix": "/"}
    if "prefix" not in uri:
        return str(rewrite["uri"])
    prefix = uri["prefix"]
    if prefix.endswith("/") and prefix != "/" and rewrite["uri"] == "/":
        return "/" + path[len(prefix) :]
    return str(rewrite["uri"]) + path[len(prefix) :]


def _with_query(request: Request) -> str:
    return f"{request.path}?{urlencode(request.query)}" if request.query else request.path


def _why(conditions: Sequence[Mapping[str, Any]]) -> str:
    fields = sorted({key for condition in conditions for key in condition if key not in ("name",)})
    return f"it matches on {', '.join(fields) or 'nothing'}"
