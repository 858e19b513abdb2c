"""What a request must look like to reach an endpoint's routes, worked out from the match they stand inside of.

An endpoint of our own takes every request at its hosts. An adopted route, and a delegate, take only some: proofs and callers need
a path, a method and headers that they take, and that no route above them takes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from mlflow_istio.core.basics.objects import Object, is_own_route, name_of
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.core.matching.re2 import read_regex
from mlflow_istio.core.matching.requests import Request, matches
from mlflow_istio.errors import InvalidInput, Unsupported

SCORING = "/invocations"
_OUTSIDE = frozenset({"name", "gateways", "port", "scheme", "authority", "statPrefix"})
"""Match fields that say nothing about path, method, headers and query."""
_CALLER = ("sourceLabels", "sourceNamespace")
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
        rewritten: Whether the model server may get another path than the one asked for, and not know it.
    """

    virtual_service: str
    probe_path: str | None = None
    scoring: str = SCORING
    handed_on: str | None = SCORING
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    rewritten: bool = False

    def through(self, probe: Probe) -> Probe:
        """The probe as it is sent through this entrance."""
        if self.probe_path is None:
            return replace(probe, virtual_service=self.virtual_service, any_answer=self.rewritten)
        return replace(
            probe,
            virtual_service=self.virtual_service,
            path=self.probe_path,
            method=self.method,
            headers={**self.headers, **probe.headers},
            any_answer=True,
        )


def entrance_at(virtual_service: Mapping[str, Any], route: Object) -> Entrance:
    """The entrance of one route of a VirtualService (a root with its delegates merged in, for a delegate).

    Args:
        virtual_service: The object.
        route: One of its http routes.

    Raises:
        InvalidInput: No request that we could make up reaches the route; says what its match asks for.
    """
    name = name_of(virtual_service)
    conditions = route.get("match") or []
    if not conditions:
        return Entrance(
            virtual_service=name, handed_on=_rewritten(route, {}, SCORING), rewritten=bool(route.get("rewrite"))
        )
    found = [
        Entrance(
            virtual_service=name,
            probe_path=_with_query(request),
            scoring=_with_query(request),
            handed_on=_rewritten(route, condition, request.path),
            method=request.method,
            headers={**request.headers, **_host(condition)},
        )
        for condition in conditions
        for request in _requests(condition)
        if _reaches(virtual_service, route, request)
    ]
    if found:
        return min(found, key=lambda one: one.handed_on not in (SCORING, None))
    raise InvalidInput(
        f"VirtualService '{name}': no request could be made up that reaches route '{route.get('name')}' ({_why(conditions)}), so "
        "no change of its traffic could be proved: match on uri, method or headers with exact or prefix, and below no route that "
        "takes the same requests"
    )


def _requests(condition: Mapping[str, Any]) -> Iterator[Request]:
    """Requests that may satisfy a match, the likeliest first."""
    if any(field in condition for field in _CALLER):
        return
    headers = {name.lower(): _value(wanted) for name, wanted in (condition.get("headers") or {}).items()}
    query = {name: _value(wanted) for name, wanted in (condition.get("queryParams") or {}).items()}
    method = _value(condition["method"]) if "method" in condition else "GET"
    if method is None or None in headers.values() or None in query.values():
        return
    for path in _paths(condition.get("uri")):
        yield Request(
            path=path,
            method=method,
            headers={name: value for name, value in headers.items() if value is not None},
            query={name: value for name, value in query.items() if value is not None},
        )


def _paths(uri: Mapping[str, str] | None) -> Sequence[str]:
    if uri is None or "regex" in uri:
        guess = _value(uri) if uri else None
        return (SCORING, *([guess, guess + SCORING] if guess else ()), "/")
    if "exact" in uri:
        return (uri["exact"],)
    prefix = uri.get("prefix", "/")
    return (SCORING, prefix.rstrip("/") + SCORING, prefix)


def _value(wanted: Mapping[str, str]) -> str | None:
    """A text that satisfies a string match; of a regex only where its plain letters do."""
    if not wanted:
        return "1"
    if "regex" not in wanted:
        return wanted.get("exact", wanted.get("prefix"))
    guess = re.sub(r"\.[*+]\??|[\^$()?\\]", "", wanted["regex"].partition("|")[0])
    try:
        return guess if read_regex(wanted["regex"]).matches(guess) else None
    except InvalidInput:
        return None


def _reaches(virtual_service: Mapping[str, Any], route: Object, request: Request) -> bool:
    """Whether a request gets to the route; routes above that can't be judged offline are taken not to catch it."""
    for other in virtual_service.get("spec", {}).get("http") or []:
        conditions = other.get("match") or []
        taken = not conditions or any(takes(condition, request) for condition in conditions)
        if other == route:
            return taken
        if taken and not is_own_route(other):
            return False
    return False


def takes(condition: Mapping[str, Any], request: Request) -> bool:
    """Whether one match takes a request, as far as that can be told offline."""
    try:
        return matches({key: value for key, value in condition.items() if key not in _OUTSIDE}, request)
    except Unsupported:
        return False


def _rewritten(route: Mapping[str, Any], condition: Mapping[str, Any], path: str) -> str | None:
    """The path that the model server sees, as Envoy rewrites it; None where that can't be said."""
    rewrite = route.get("rewrite") or {}
    pattern = rewrite.get("uriRegexRewrite")
    if pattern:
        try:
            expression = read_regex(pattern["match"])
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


def _host(condition: Mapping[str, Any]) -> dict[str, str]:
    value = _value(condition["authority"]) if condition.get("authority") else None
    return {"Host": value} if value else {}


def _with_query(request: Request) -> str:
    return f"{request.path}?{urlencode(request.query)}" if request.query else request.path


def _why(conditions: Sequence[Mapping[str, Any]]) -> str:
    fields = sorted({key for condition in conditions for key in condition if key not in ("name",)})
    return f"it matches on {', '.join(fields) or 'nothing'}"
