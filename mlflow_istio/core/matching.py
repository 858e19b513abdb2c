"""Which route of a VirtualService answers a request, evaluated offline.

Covers what our own verbs write and the usual matches of users: method, uri, headers, queryParams and withoutHeaders with exact,
prefix and regex; AND inside a match, OR between matches; the first route that matches wins (Istio API, HTTPMatchRequest).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.objects import Object
from mlflow_istio.errors import Unsupported

_KNOWN = frozenset({"name", "uri", "method", "headers", "withoutHeaders", "queryParams", "ignoreUriCase"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request as the routes see it.

    Attributes:
        path: Path without the query.
        method: HTTP method.
        headers: Headers; names in lower case.
        query: Query parameters.
    """

    path: str = "/invocations"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


def answering_route(virtual_service: Mapping[str, Any], request: Request) -> Object | None:
    """The first http route that matches, or None.

    Raises:
        Unsupported: A match before it has a field that can't be evaluated offline; names it.
    """
    for route in virtual_service.get("spec", {}).get("http") or []:
        conditions = route.get("match")
        if not conditions or any(matches(match, request) for match in conditions):
            return dict(route)
    return None


def matches(match: Mapping[str, Any], request: Request) -> bool:
    """Whether one match takes a request: all its fields do.

    Raises:
        Unsupported: It has a field that can't be evaluated offline; names it.
    """
    unknown = sorted(set(match) - _KNOWN)
    if unknown:
        raise Unsupported(f"match field '{unknown[0]}' can't be evaluated offline: ask the gateway itself")
    uri = match.get("uri")
    if uri is not None and not _string(uri, request.path, ignore_case=bool(match.get("ignoreUriCase"))):
        return False
    if "method" in match and not _string(match["method"], request.method):
        return False
    for name, wanted in (match.get("headers") or {}).items():
        if not _present(wanted, request.headers.get(name.lower())):
            return False
    for name, unwanted in (match.get("withoutHeaders") or {}).items():
        if _present(unwanted, request.headers.get(name.lower())):
            return False
    return all(_present(wanted, request.query.get(name)) for name, wanted in (match.get("queryParams") or {}).items())


def _present(wanted: Mapping[str, str], value: str | None) -> bool:
    return value is not None and (not wanted or _string(wanted, value))


def _string(wanted: Mapping[str, str], value: str, *, ignore_case: bool = False) -> bool:
    if ignore_case and "regex" not in wanted:
        value = value.lower()
        wanted = {key: text.lower() for key, text in wanted.items()}
    if "exact" in wanted:
        return value == wanted["exact"]
    if "prefix" in wanted:
        return value.startswith(wanted["prefix"])
    if "regex" in wanted:
        return re.fullmatch(wanted["regex"], value) is not None
    raise Unsupported(f"match {wanted} can't be evaluated offline: only exact, prefix and regex can")
