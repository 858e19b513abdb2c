"""Which requests under a shared host belong to which endpoint, and the root's routes that say so.

Each claim stands in an annotation of the root, and as ``delegate`` routes in a block of their own: right above the first route that
takes every request, most specific first. Routes of others, and other endpoints' routes, stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.names import check_header_name
from mlflow_istio.core.basics.objects import Object, annotations_of, is_own_route, name_of, with_annotations
from mlflow_istio.core.basics.stored import from_json, parsed, stored, to_json
from mlflow_istio.core.endpoint.endpoint import annotation
from mlflow_istio.core.matching.coverage import arrivals, at_each_listener, is_catch_all, judged, route_words
from mlflow_istio.core.matching.pin_guard import KEY_HEADER
from mlflow_istio.core.matching.places import namespace_of, placed
from mlflow_istio.core.matching.probe import PIN_HEADER, PROBE_HEADER
from mlflow_istio.core.matching.requests import Request, conditions_of, described
from mlflow_istio.core.matching.shape import told_by_shape
from mlflow_istio.core.mesh.delegation import delegate_of, left_out
from mlflow_istio.core.mesh.virtual_service import routes_of
from mlflow_istio.errors import InvalidInput, StateConflict

_PATH = re.compile(r"(/[A-Za-z0-9._~%-]+)+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_TAKEN = frozenset({"cookie", "host", "uri", "scheme", "method", "authority", PIN_HEADER, PROBE_HEADER, KEY_HEADER})


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The requests of one endpoint under a shared host.

    Attributes:
        path: The path and everything below it; empty: any.
        header: Name (in lower case) and value of a header they carry, or None: any.

    Raises:
        InvalidInput: Neither is given, or one can't be matched.
    """

    path: str = field(default="", metadata=stored(needed=True))
    header: tuple[str, str] | None = field(default=None, metadata=stored(needed=True))

    def __post_init__(self) -> None:
        if not self.path and self.header is None:
            raise InvalidInput(
                "say which requests under the shared host are the endpoint's: give 'path' or 'match_header'"
            )
        if self.path and (not _PATH.fullmatch(self.path) or {".", ".."} & set(self.path.split("/"))):
            raise InvalidInput(f"path {self.path!r} is not valid: use one such as /api/v1/chat, without '/' at the end")
        if self.path == "/invocations":
            raise InvalidInput("path '/invocations' is where every model is scored: use another, such as /api/v1/chat")
        if self.header is not None:
            name, value = self.header
            check_header_name(name)
            if name != name.lower() or name in _TAKEN:
                raise InvalidInput(
                    f"header '{name}' can't choose an endpoint, it has a meaning of its own: use another"
                )
            if not _VALUE.fullmatch(value):
                raise InvalidInput(
                    f"value {value!r} of header '{name}' is not one that a header carries: use visible characters"
                )

    def __str__(self) -> str:
        parts = [self.path] if self.path else []
        return " with ".join([*parts, *([f"header {self.header[0]}: {self.header[1]}"] if self.header else [])])

    @property
    def rank(self) -> tuple[int, int, int, str, str]:
        """The smaller, the more specific: more path segments, a longer path, with a header; then by name."""
        name, value = self.header or ("", "")
        return (-self.path.count("/"), -len(self.path), 0 if self.header else 1, name, value)

    def as_text(self) -> str:
        """The claim as an annotation holds it."""
        return json.dumps(to_json(self), sort_keys=True)

    def routes(self, endpoint: str) -> list[Object]:
        """The root's routes: the path alone is scoring, what is below it keeps its own path."""
        headers: Object = {"headers": {self.header[0]: {"exact": self.header[1]}}} if self.header else {}
        delegate = {"delegate": {"name": endpoint}}
        if not self.path:
            return [{"match": [headers], **delegate}]
        return [
            {"match": [{"uri": {"exact": self.path}, **headers}], "rewrite": {"uri": "/invocations"}, **delegate},
            {"match": [{"uri": {"prefix": f"{self.path}/"}, **headers}], "rewrite": {"uri": "/"}, **delegate},
        ]

    def requests(self) -> list[Request]:
        """Requests that it means."""
        headers = dict([self.header]) if self.header else {}
        paths = [self.path, f"{self.path}/invocations"] if self.path else ["/invocations"]
        return [Request(path=path, method=method, headers=headers) for path in paths for method in ("GET", "POST")]


def claims_in(root: Mapping[str, Any]) -> dict[str, Claim]:
    """Endpoint to its claim.

    Raises:
        InvalidInput: An annotation was damaged.
    """
    start = annotation("", "delegate")
    claims = {}
    for key, text in annotations_of(root).items():
        if key.startswith(start):
            claims[key.removeprefix(start)] = _from_text(text, key, name_of(root))
    return claims


def claimants(root: Mapping[str, Any]) -> list[str]:
    """Names of the endpoints that a VirtualService hands requests on to, in order, even where it can't be read which."""
    start = annotation("", "delegate")
    return sorted(key.removeprefix(start) for key in annotations_of(root) if key.startswith(start))


@told_by_shape
def claimed(root: Object, endpoint: str, claim: Claim) -> Object:
    """The root with an endpoint's claim; the same object when it is there.

    Raises:
        StateConflict: The requests belong to another endpoint or route already, or the root is itself a delegate.
    """
    where = f"VirtualService '{name_of(root)}'"
    if not root.get("spec", {}).get("hosts"):
        raise StateConflict(f"{where} has no hosts, so it is itself a delegate: use one with hosts")
    claims = claims_in(root)
    for other, neighbour in claims.items():
        if other != endpoint:
            _check_apart(claim, endpoint, neighbour, other, where)
    if endpoint in claims and claims[endpoint] != claim:
        raise StateConflict(
            f"{where}: endpoint '{endpoint}' has {claims[endpoint]} and can't have {claim}, too: delete it first"
        )
    if endpoint in claims and carries_out(root, endpoint):
        return root
    block, rest = [], []
    left: list[Object] = []
    every = {**claims, endpoint: claim}
    for route in routes_of(root):
        owner = _owner(route, root, every)
        if owner is None:
            rest.append(route)
        elif owner == endpoint:
            left.append(route)
        else:
            block.append((claims[owner], route))
    whole = placed({**root, "spec": {**root["spec"], "http": rest}})
    open_ones = [index for index, route in enumerate(routes_of(whole)) if is_catch_all(route, whole)]
    at = _above_own(rest, open_ones[0]) if open_ones else len(rest)
    _check_reached(whole, at, claim, where)
    block += [(claim, next((kept for kept in left if _same(kept, route)), route)) for route in claim.routes(endpoint)]
    block.sort(key=lambda pair: pair[0].rank)  # stable: the routes of one claim keep their order
    http = [*rest[:at], *(route for _, route in block), *rest[at:]]
    changed = {**root, "spec": {**root["spec"], "http": http}}
    return with_annotations(changed, {annotation(endpoint, "delegate"): claim.as_text()})


@told_by_shape
def released(root: Object, endpoint: str) -> Object:
    """The root without an endpoint's claim; the same object when it has none."""
    if endpoint not in claimants(root):
        return root
    claims: dict[str, Claim | None] = {endpoint: None}
    key = annotation(endpoint, "delegate")
    with contextlib.suppress(InvalidInput):  # one that can't be read any more has routes all the same
        claims = {endpoint: _from_text(annotations_of(root)[key], key, name_of(root))}
    http = [route for route in routes_of(root) if _owner(route, root, claims) is None]
    return with_annotations({**root, "spec": {**root["spec"], "http": http}}, {annotation(endpoint, "delegate"): None})


def carries_out(root: Mapping[str, Any], endpoint: str) -> bool:
    """Whether a root hands on to an endpoint all that it says is the endpoint's; False where it says nothing of it.

    Raises:
        InvalidInput: An annotation was damaged.
    """
    claims = claims_in(root)
    if endpoint not in claims:
        return False
    own = [route for route in routes_of(root) if _owner(route, root, claims) == endpoint]
    return all(any(_same(own_route, route) for own_route in own) for route in claims[endpoint].routes(endpoint))


def remembered(text: str | None) -> Claim | None:
    """The claim that an endpoint remembers in its settings; None where it remembers none that can be read."""
    with contextlib.suppress(InvalidInput):
        return from_json(Claim, parsed(text, "the claim")) if text else None
    return None


def check_carried(root: Mapping[str, Any], before: Object, after: Object, endpoint: str) -> None:
    """Refuse a change of a delegate that would leave one of its new routes without effect, as Istio does without a word.

    Args:
        root: What hands requests on to it.
        before: The delegate.
        after: The delegate with the change.
        endpoint: The endpoint that it carries.

    Raises:
        InvalidInput: A route that was not lost before would be; names it and what it matches on.
    """
    known = [route.get("name") for route in left_out(root, before)]
    lost = [route for route in left_out(root, after) if route.get("name") not in known]
    if not lost:
        return
    fields = sorted({field for match in lost[0].get("match") or [] for field in match})
    claim = claims_in(root).get(endpoint)
    raise InvalidInput(
        f"route '{lost[0].get('name')}' matches on {', '.join(fields)} outside of what '{name_of(root)}' hands on to endpoint "
        f"'{endpoint}'{f' ({claim})' if claim else ''}, so no request would reach it: match inside that, with exact or prefix, one "
        "path for each route, or on other fields"
    )


def _check_apart(claim: Claim, endpoint: str, neighbour: Claim, other: str, where: str) -> None:
    """Whichever stands first must leave the other its scoring requests.

    Raises:
        StateConflict: It would not; names both endpoints.
    """
    cant = f"{where}: endpoint '{endpoint}' can't have {claim}"
    if neighbour == claim:
        raise StateConflict(f"{cant}, which belongs to endpoint '{other}': choose another path or header")
    first, second = sorted((claim, neighbour), key=lambda either: either.rank)
    taken = any(
        judged(match, request)
        for route in first.routes("")
        for match in route["match"]
        for request in second.requests()
    )
    if taken:
        raise StateConflict(
            f"{cant} beside endpoint '{other}', which has {neighbour}: {first} takes scoring requests of {second}: choose another "
            "path or header"
        )


def _check_reached(root: Mapping[str, Any], at: int, claim: Claim, where: str) -> None:
    """Refuse a claim whose requests the owner's routes above its place take, at each host, gateway and listener of the root.

    Raises:
        StateConflict: They do; names the route and what it matches on.
    """
    everywhere = at_each_listener(root, arrivals(root))
    taken = [_first_taker(root, at, [arrival.of(request) for request in claim.requests()]) for arrival in everywhere]
    if all(taken):
        raise StateConflict(
            f"{where}: {taken[0]} takes {claim} already: choose another path or header, or let that route match less"
        )


def _first_taker(root: Mapping[str, Any], at: int, requests: Sequence[Request]) -> str:
    """The route above a place that surely takes one of these requests; empty: none does."""
    for index, route in enumerate(routes_of(root)[:at]):
        for condition in conditions_of(route):
            if not is_own_route(route) and any(judged(condition, request) for request in requests):
                return f"route '{route_words(route, index)}' ({described(condition)})"
    return ""


def _above_own(routes: Sequence[Object], index: int) -> int:
    """Where an endpoint's own routes (proof, pins, arms) stand right above its split, the place above all of them."""
    while index > 0 and is_own_route(routes[index - 1]):
        index -= 1
    return index


def _owner(route: Mapping[str, Any], root: Mapping[str, Any], claims: Mapping[str, Claim | None]) -> str | None:
    """The endpoint whose claim a route carries out; None: it is the root's owner's, even where it hands on to an endpoint of ours.

    A delegate is a name and a namespace. Ours ask for what the claim asks for, and rewrite it so; the owner may have given them
    names or timeouts. One without a name that asks for something else is the owner's, who may hand on more than the claim.
    """
    endpoint = delegate_of(route, namespace_of(root))
    if endpoint is None or endpoint not in claims:
        return None
    claim = claims[endpoint] or _told_by(route)
    own = claim.routes(endpoint) if claim is not None else []
    return endpoint if any(_same(route, own_route) for own_route in own) else None


def _same(route: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a route asks for what one of a claim's asks for, and rewrites it so, whatever else its owner has given it."""
    return all(route.get(key) == own.get(key) for key in ("match", "rewrite"))


def _told_by(route: Mapping[str, Any]) -> Claim | None:
    """The claim that a route would carry out if it were ours, where its annotation can't be read; None: none writes such."""
    (match,) = route["match"] if len(route.get("match") or []) == 1 else ({},)
    uri, headers = match.get("uri") or {}, match.get("headers") or {}
    header = next(((name, str((value or {}).get("exact", ""))) for name, value in headers.items()), None)
    with contextlib.suppress(InvalidInput):
        return Claim(path=str(uri.get("exact") or uri.get("prefix", "").removesuffix("/")), header=header)
    return None


def _from_text(text: str, key: str, root: str) -> Claim:
    try:
        return from_json(Claim, parsed(text, "the claim"))
    except InvalidInput as exc:
        raise InvalidInput(f"VirtualService '{root}': annotation {key} is damaged: restore it from a backup") from exc
