"""Which route of a VirtualService answers a request, evaluated offline.

Every field of ``HTTPMatchRequest`` that a request itself decides: uri, method, scheme, authority, port, headers, withoutHeaders
and queryParams with exact, prefix, regex and presence; AND inside a match, OR between matches; the first route that matches wins.
Which gateway it arrives at may be known; what the caller's pod decides (sourceLabels, sourceNamespace) can't be told, and is said,
never guessed. Follows istiod, ``pilot/pkg/networking/core/route/route.go``: ``sourceMatchHTTP`` (gateways in a match switch its
source conditions off), ``TranslateRouteMatch`` and ``canBeConvertedToPresentMatch`` (nothing, or the regex ``*``, means presence).
Header matches know what Envoy keeps as headers, too: ``:method``, ``:scheme``, ``:authority`` (to Envoy the same as ``host``),
``:path`` with its query, and ``x-forwarded-proto``, ``x-request-id`` and, at a gateway, ``x-forwarded-for``, which a proxy writes
before it looks for a route (``ConnectionManagerUtility::mutateRequestHeaders``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.places import MESH
from mlflow_istio.core.matching.re2 import read_regex
from mlflow_istio.errors import InvalidInput, Unsupported, masked

_SOME = "?"
"""What stands for a value that every request has, whichever."""

_LABELS = frozenset({"name", "statPrefix", "ignoreUriCase"})
"""Members of a match that ask for nothing."""

_TOLD = _LABELS | {
    "uri",
    "method",
    "scheme",
    "authority",
    "headers",
    "withoutHeaders",
    "queryParams",
    "port",
    "gateways",
}

PSEUDO_HEADERS: Mapping[str, str] = {
    ":method": "method",
    ":scheme": "scheme",
    ":authority": "authority",
    "host": "authority",
    ":path": "uri",
}
"""Header names under which a match may ask for what has a field of its own, and that field."""

_OF_CALLERS: Mapping[str, str] = {
    "sourceLabels": "it depends on the labels of the caller's pod",
    "sourceNamespace": "it depends on the namespace of the caller's pod",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request as the routes see it.

    Attributes:
        path: Path without the query.
        method: HTTP method.
        headers: Headers; names in lower case.
        query: Query parameters; the first of each name counts.
        authority: Host it is sent to; None: not known.
        port: Port of the gateway's or proxy's listener; None: not known.
        scheme: ``http`` or ``https``, as the proxy gets it.
        gateway: Full name of the gateway it arrives at, ``mesh`` for a sidecar; None: not known.
    """

    path: str = "/invocations"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    authority: str | None = None
    port: int | None = None
    scheme: str = "http"
    gateway: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One field of a match, held against a request.

    Attributes:
        field: Path of the field inside the match, such as ``headers[x-arm]``.
        wanted: What it asks for, such as ``exact 'blue'``.
        actual: What the request has; None: nothing.
        holds: Whether the request has it; None: that can't be told offline.
        reason: Why it can't be told; empty otherwise.
    """

    field: str
    wanted: str
    actual: str | None
    holds: bool | None
    reason: str = ""

    def __str__(self) -> str:
        if self.holds is None:
            return f"{self.field} ({self.wanted}) can't be evaluated offline: {self.reason}"
        has = "is not there" if self.actual is None else f"is {self.actual!r}"
        return f"{self.field} {has}, wanted: {self.wanted}"


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
        Unsupported: That rests on a field that can't be evaluated offline; names it.
    """
    findings = list(evaluate(match, request))
    if any(finding.holds is False for finding in findings):
        return False
    for finding in findings:
        if finding.holds is None:
            raise Unsupported(f"match field {finding}")
    return True


def evaluate(match: Mapping[str, Any], request: Request) -> Iterator[Finding]:
    """Hold every field of one match against a request, in a fixed order: path first, what can't be told last.

    Args:
        match: The match, its gateways by their full names (``places.placed``).
        request: The request.
    """
    if match.get("uri"):
        yield _uri(match, request.path)
    for name, value in (("method", request.method), ("scheme", request.scheme)):
        if match.get(name):
            yield _checked(name, match[name], value)
    if match.get("authority"):
        yield _asked_for("authority", match["authority"], request.authority, "say which host with authority")
    for name, wanted in (match.get("headers") or {}).items():
        yield _header(name, wanted or {}, request)
    for name, unwanted in (match.get("withoutHeaders") or {}).items():
        yield _without(name, unwanted or {}, request)
    for name, wanted in (match.get("queryParams") or {}).items():
        yield _checked(f"queryParams[{name}]", wanted or {}, request.query.get(name))
    if match.get("port"):
        yield _port(match["port"], request.port)
    if match.get("gateways"):
        yield _gateway(match["gateways"], request.gateway)
    unsure = set(match) - _TOLD - (set(_OF_CALLERS) if match.get("gateways") else set())
    for name in sorted(name for name in unsure if match[name]):
        reason = _OF_CALLERS.get(name, "this version does not know it; ask the gateway itself")
        yield Finding(field=name, wanted=str(match[name]), actual=None, holds=None, reason=reason)


def normalized(path: str) -> str:
    """A path as the routes see it: ``.`` and ``..`` are resolved (RFC 3986, 5.2.4), doubled and encoded slashes stay."""
    result: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == "..":
            del result[-1:]
        if segment in (".", ".."):
            if last:
                result.append("")
            continue
        result.append(segment)
    return "/" + "/".join(result)


def conditions_of(route: Mapping[str, Any]) -> Sequence[Object]:
    """The matches of a route; one that asks for nothing where it has none."""
    return route.get("match") or [{}]


def _uri(match: Mapping[str, Any], path: str) -> Finding:
    wanted = match["uri"]
    if match.get("ignoreUriCase") and "regex" not in wanted:
        check = _checked("uri", {key: text.lower() for key, text in wanted.items()}, path.lower())
        words = f"{_said(wanted)}, ignoring case"
        return Finding(field="uri", wanted=words, actual=path, holds=check.holds, reason=check.reason)
    if wanted.get("regex") == "*":  # no proxy takes it: presence is asked for of what may be absent
        return Finding(field="uri", wanted="regex '*'", actual=path, holds=None, reason=_regex("*", path)[1])
    return _checked("uri", wanted, path)


def _header(name: str, wanted: Mapping[str, str], request: Request) -> Finding:
    where = f"headers[{name}]"
    values, reason = _header_values(name, request)
    if reason and not (values and asks_for_presence(wanted)):
        return Finding(field=where, wanted=_said(wanted), actual=None, holds=None, reason=reason)
    checks = [_checked(where, wanted, value) for value in values or (None,)]
    return _agreed(checks)


def _without(name: str, unwanted: Mapping[str, str], request: Request) -> Finding:
    """A header that must not be so; to Envoy one that is not there is empty, unless its mere presence is unwanted."""
    where = f"withoutHeaders[{name}]"
    values, reason = _header_values(name, request)
    if reason and not (values and asks_for_presence(unwanted)):
        return Finding(field=where, wanted=f"not {_said(unwanted)}", actual=None, holds=None, reason=reason)
    absent = None if asks_for_presence(unwanted) else ""
    check = _agreed([_checked(where, unwanted, value) for value in values or (absent,)])
    holds = None if check.holds is None else not check.holds
    has = values[0] if values else None
    return Finding(field=where, wanted=f"not {_said(unwanted)}", actual=has, holds=holds, reason=check.reason)


def _header_values(name: str, request: Request) -> tuple[tuple[str, ...], str]:
    """What a request has under a header's name, in each way in which it may be written; why that can't be told, if it can't.

    A value beside a reason: there is one, whichever.
    """
    lower = name.lower()
    if name.startswith("@"):
        return (), "it depends on a verified token"
    field = PSEUDO_HEADERS.get(lower)
    if field == "authority":
        known = request.authority is not None
        return (request.authority or _SOME,), "" if known else "say which host with authority"
    if field == "uri":
        return _written_paths(request), ""
    if field is not None:
        return (request.method if field == "method" else request.scheme,), ""
    value = request.headers.get(lower)
    if value is not None:
        return (value,), ""
    if lower == "x-forwarded-proto":
        return (request.scheme,), ""
    if lower == "x-request-id":
        return (_SOME,), "a proxy gives every request one of its own"
    if lower == "x-forwarded-for" and request.gateway != MESH:
        return ((_SOME,) if request.gateway else ()), "a gateway writes the caller's address there"
    return (), ""


def _written_paths(request: Request) -> tuple[str, ...]:
    """The path as Envoy has it, with its query, in each way in which that may be written."""
    if not request.query:
        return (request.path,)
    parts = [f"{name}={value}" if value else name for name, value in request.query.items()]
    ways = (parts, [f"{name}={value}" for name, value in request.query.items()], [urlencode(request.query)])
    return tuple(dict.fromkeys(f"{request.path}?{'&'.join(way)}" for way in ways))


def _agreed(findings: Sequence[Finding]) -> Finding:
    """One finding for several ways of writing the same; nothing can be told where it matters which."""
    if len({finding.holds for finding in findings}) == 1:
        return findings[0]
    return replace(findings[0], holds=None, reason="it depends on how the query is written")


def _gateway(wanted: Sequence[str], gateway: str | None) -> Finding:
    reason = "" if gateway is not None else "it depends on the proxy that the request arrives at"
    holds = None if gateway is None else gateway in wanted
    return Finding(field="gateways", wanted=" or ".join(wanted), actual=gateway, holds=holds, reason=reason)


def _port(wanted: int, port: int | None) -> Finding:
    text = None if port is None else str(port)
    reason = "" if port is not None else "say which with port"
    holds = None if port is None else port == wanted
    return Finding(field="port", wanted=str(wanted), actual=text, holds=holds, reason=reason)


def _asked_for(field: str, wanted: Mapping[str, str], value: str | None, hint: str) -> Finding:
    if value is None and not asks_for_presence(wanted):
        return Finding(field=field, wanted=_said(wanted), actual=None, holds=None, reason=hint)
    return _checked(field, wanted, value or "")


def _checked(field: str, wanted: Mapping[str, str], value: str | None) -> Finding:
    holds: bool | None = False
    reason = ""
    if value is not None:
        holds, reason = _string(wanted, value)
    return Finding(field=field, wanted=_said(wanted), actual=value, holds=holds, reason=reason)


def asks_for_presence(wanted: Mapping[str, str]) -> bool:
    """Whether a string match asks for any value: it says nothing, or the regex ``*``, which is none."""
    return {kind: text for kind, text in wanted.items() if text is not None} in ({}, {"regex": "*"})


def _string(wanted: Mapping[str, str], value: str) -> tuple[bool | None, str]:
    if asks_for_presence(wanted):
        return True, ""
    if "exact" in wanted:
        return value == wanted["exact"], ""
    if "prefix" in wanted:
        return value.startswith(wanted["prefix"]), ""
    if "regex" in wanted:
        return _regex(wanted["regex"], value)
    return None, "only exact, prefix and regex can"


def _regex(pattern: str, value: str) -> tuple[bool | None, str]:
    """Whether an RE2 expression matches all of a value, as far as Python's expressions mean the same."""
    try:
        holds = read_regex(pattern).matches(value)
    except InvalidInput as exc:
        return None, f"its regular expression can't be read ({exc.message})"
    return holds, "" if holds is not None else "its regular expression means something else outside of Envoy"


def _said(wanted: Mapping[str, str]) -> str:
    """``exact 'blue'``; an empty match asks for presence only."""
    if asks_for_presence(wanted):
        return "any value"
    return masked(" and ".join(f"{kind} {text!r}" for kind, text in wanted.items()))


def described(match: Mapping[str, Any]) -> str:
    """What a match asks for, for messages: ``uri prefix '/api' and method exact 'GET'``."""
    parts = []
    for name, wanted in match.items():
        if not wanted or name in ("name", "statPrefix"):
            continue
        if name in ("headers", "withoutHeaders", "queryParams"):
            parts += [f"{name}[{key}] {_said(condition or {})}" for key, condition in wanted.items()]
        else:
            parts.append(
                f"{name} {_said(wanted) if isinstance(wanted, Mapping) and name != 'sourceLabels' else wanted}"
            )
    return " and ".join(parts) or "no match"
