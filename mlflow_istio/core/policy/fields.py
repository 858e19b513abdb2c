"""Settings of routes and destinations as users write them, each checked and turned into Istio's form.

The names of the settings are our options' names; ``ROUTE_FIELDS`` and ``DESTINATION_FIELDS`` give Istio's field for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_istio.core.basics.durations import check_duration, seconds_of
from mlflow_istio.core.basics.names import check_header_name, nearest
from mlflow_istio.core.matching.re2 import check_regex, read_regex
from mlflow_istio.errors import InvalidInput

ROUTE_FIELDS: Mapping[str, str] = {
    "timeout": "timeout",
    "retries": "retries",
    "headers": "headers",
    "rewrite": "rewrite",
    "redirect": "redirect",
    "maintenance": "directResponse",
}
DESTINATION_FIELDS: Mapping[str, str] = {
    "connection_pool": "connectionPool",
    "outlier_detection": "outlierDetection",
    "load_balancer": "loadBalancer",
    "tls": "tls",
}

_RETRY_ON = frozenset(
    {
        *(
            "5xx",
            "gateway-error",
            "reset",
            "reset-before-request",
            "connect-failure",
            "retriable-4xx",
            "refused-stream",
        ),
        *("retriable-status-codes", "retriable-headers", "envoy-ratelimited", "cancelled", "deadline-exceeded"),
        *("internal", "resource-exhausted", "unavailable"),
    }
)
_RESERVED = frozenset(
    {
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "x-request-id",
        "set-cookie",
        "cookie",
    }
)
_RESERVED_STARTS = ("x-mlflow-", "x-envoy-", "x-istio-", ":")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_COMMAND = re.compile(r"%(?:%|[A-Z_]+(?:\([^)%]*\))?(?::\d+)?%)")
"""The character itself, or one of Envoy's commands such as ``%REQ(x-user)%``."""
_REDIRECTS = (301, 302, 303, 307, 308)
_BALANCERS = ("LEAST_REQUEST", "ROUND_ROBIN", "RANDOM")
_TLS_MODES = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")
MAX_BODY = 4096
"""Bytes of a direct answer; it stands in the object beside everything else."""


def check_field(name: str, value: Any) -> Any:
    """Istio's form of one setting.

    Args:
        name: An option's name, such as ``retries``.
        value: As the user wrote it: a text, or what the JSON text held.

    Raises:
        InvalidInput: It can't be right; names the setting, the part and what to do.
    """
    return _CHECKS[name](value)


def reserved_header(name: str) -> bool:
    """Whether a header is one that the proxies, the model servers or our routes live on."""
    lower = name.lower()
    return lower in _RESERVED or lower.startswith(_RESERVED_STARTS)


def _timeout(value: Any) -> Any:
    return check_duration(value, "timeout")


def _retries(value: Any) -> Any:
    known = ("attempts", "perTryTimeout", "retryOn", "backoff", "retryIgnorePreviousHosts")
    retries = _object(value, "retries", known, '{"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"}')
    if "attempts" not in retries:
        raise InvalidInput("retries must say how many attempts: 0 turns Istio's default retries off")
    attempts = _whole(retries["attempts"], "retries attempts", low=0, high=100)
    if attempts == 0 and len(retries) > 1:
        raise InvalidInput("retries with 0 attempts are off: leave out the rest")
    for part in ("perTryTimeout", "backoff"):
        if part in retries:
            check_duration(retries[part], f"retries {part}")
    if "retryOn" in retries:
        conditions = [part.strip() for part in _text(retries["retryOn"], "retries retryOn").split(",")]
        for condition in conditions:
            if condition not in _RETRY_ON and not re.fullmatch(r"[1-5]\d\d", condition):
                raise InvalidInput(f"retries retryOn has no condition {condition!r}: {nearest(condition, _RETRY_ON)}")
        retries["retryOn"] = ",".join(conditions)  # istiod refuses blanks there
    if not isinstance(retries.get("retryIgnorePreviousHosts", True), bool):
        raise InvalidInput("retries retryIgnorePreviousHosts must be true or false")
    return retries


def _headers(value: Any) -> Any:
    example = '{"request": {"set": {"x-tenant": "a"}}, "response": {"remove": ["server"]}}'
    sides = _object(value, "headers", ("request", "response"), example)
    result: dict[str, Any] = {}
    for side, operations in sides.items():
        checked = _object(operations, f"headers {side}", ("set", "add", "remove"), example)
        result[side] = {op: _header_entries(entries, f"headers {side} {op}", op) for op, entries in checked.items()}
        names = [name for entries in result[side].values() for name in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInput(f"headers {side} treats '{twice[0]}' twice: set, add or remove it")
    return result


def _header_entries(entries: Any, what: str, operation: str) -> Any:
    if operation == "remove":
        if not isinstance(entries, list) or not entries:
            raise InvalidInput(f"{what} must be a list of names, not {entries!r}")
        return sorted(_header(name, what) for name in entries)
    if not isinstance(entries, Mapping) or not entries:
        raise InvalidInput(f"{what} must be an object of names and texts, not {entries!r}")
    result = {}
    for name, text in entries.items():
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise InvalidInput(f"{what} '{name}' must be a text without control characters, not {text!r}")
        if "%" in _COMMAND.sub("", text):
            raise InvalidInput(f"{what} '{name}' has a lone '%' in {text!r}: write '%%' for the character itself")
        result[_header(name, what)] = text
    return result


def _header(name: Any, what: str) -> str:
    if not isinstance(name, str):
        raise InvalidInput(f"{what} must name headers as texts, not {name!r}")
    if name.lower() in (":authority", "host"):
        raise InvalidInput(f"{what} can't change '{name}': use rewrite with an authority")
    if reserved_header(name):
        raise InvalidInput(f"{what} can't change '{name}', which is reserved for the proxies and for mlflow-istio")
    return check_header_name(name, what).lower()


def _rewrite(value: Any) -> Any:
    if isinstance(value, str):
        value = {"uri": value}
    rewrite = _object(value, "rewrite", ("uri", "uriRegexRewrite", "authority"), '{"uri": "/v2"}')
    if "uri" in rewrite and "uriRegexRewrite" in rewrite:
        raise InvalidInput("rewrite has both uri and uriRegexRewrite: give one of them")
    if "uri" in rewrite:
        _path(rewrite["uri"], "rewrite uri")
    if "authority" in rewrite:
        _authority(rewrite["authority"], "rewrite authority")
    if "uriRegexRewrite" in rewrite:
        regex = _object(
            rewrite["uriRegexRewrite"],
            "rewrite uriRegexRewrite",
            ("match", "rewrite"),
            '{"match": "/a/(.*)", "rewrite": "/\\\\1"}',
        )
        for part in ("match", "rewrite"):
            if part not in regex:
                raise InvalidInput(f"rewrite uriRegexRewrite must have {part}")
        check_regex(regex["match"], "rewrite uriRegexRewrite match")
        groups = read_regex(regex["match"]).groups
        substitution = regex["rewrite"]
        if not isinstance(substitution, str):
            raise InvalidInput(f"rewrite uriRegexRewrite rewrite must be a text, not {substitution!r}")
        beyond = [number for number in re.findall(r"\\(\d)", substitution) if int(number) > groups]
        if beyond:
            raise InvalidInput(f"rewrite uriRegexRewrite uses group {beyond[0]}, but {regex['match']!r} has {groups}")
    return rewrite


def _redirect(value: Any) -> Any:
    if isinstance(value, str):
        value = {"uri": value}
    known = ("uri", "authority", "scheme", "port", "redirectCode")
    redirect = _object(value, "redirect", known, '{"uri": "/moved", "redirectCode": 307}')
    if not set(redirect) - {"redirectCode"}:
        raise InvalidInput("redirect must have a uri, authority, scheme or port to go to")
    if "uri" in redirect:
        _path(redirect["uri"], "redirect uri")
    if "authority" in redirect:
        _authority(redirect["authority"], "redirect authority")
    if redirect.get("scheme", "http") not in ("http", "https"):
        raise InvalidInput(f"redirect scheme must be http or https, not {redirect['scheme']!r}")
    if "port" in redirect:
        _whole(redirect["port"], "redirect port", low=1, high=65535)
    if redirect.get("redirectCode", 301) not in _REDIRECTS:
        raise InvalidInput(f"redirect redirectCode must be 301, 302, 303, 307 or 308, not {redirect['redirectCode']!r}")
    return redirect


def _maintenance(value: Any) -> Any:
    if (isinstance(value, str) and value.isdigit()) or (isinstance(value, int) and not isinstance(value, bool)):
        value = {"status": int(value)}
    answer = _object(value, "maintenance", ("status", "body"), '{"status": 503, "body": "back at noon"}')
    if "status" not in answer:
        raise InvalidInput("maintenance must say which status it answers with, such as 503")
    _whole(answer["status"], "maintenance status", low=200, high=599)
    result: dict[str, Any] = {"status": answer["status"]}
    if "body" in answer:
        body = answer["body"]
        if isinstance(body, Mapping) and set(body) == {"string"}:
            body = body["string"]
        if not isinstance(body, str) or not body or len(body.encode()) > MAX_BODY:
            raise InvalidInput(f"maintenance body must be a text of at most {MAX_BODY} bytes")
        result["body"] = {"string": body}
    return result


def _connection_pool(value: Any) -> Any:
    pool = _object(value, "connection_pool", ("tcp", "http"), '{"tcp": {"maxConnections": 100}}')
    if "tcp" in pool:
        tcp = _object(
            pool["tcp"],
            "connection_pool tcp",
            ("maxConnections", "connectTimeout", "maxConnectionDuration", "idleTimeout"),
            "{}",
        )
        _counts(tcp, "connection_pool tcp", ("maxConnections",))
        _durations(tcp, "connection_pool tcp", ("connectTimeout", "maxConnectionDuration", "idleTimeout"))
    if "http" in pool:
        counts = ("http1MaxPendingRequests", "http2MaxRequests", "maxRequestsPerConnection", "maxRetries")
        http = _object(pool["http"], "connection_pool http", (*counts, "idleTimeout"), "{}")
        _counts(http, "connection_pool http", counts)
        _durations(http, "connection_pool http", ("idleTimeout",))
    return pool


def _outlier_detection(value: Any) -> Any:
    counts = ("consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveLocalOriginFailures")
    durations = ("interval", "baseEjectionTime")
    percents = ("maxEjectionPercent", "minHealthPercent")
    flags = ("splitExternalLocalOriginErrors",)
    known = (*counts, *durations, *percents, *flags)
    outlier = _object(value, "outlier_detection", known, '{"consecutive5xxErrors": 5, "baseEjectionTime": "30s"}')
    _counts(outlier, "outlier_detection", counts)
    _durations(outlier, "outlier_detection", durations)
    for part in percents:
        if part in outlier:
            _whole(outlier[part], f"outlier_detection {part}", low=0, high=100)
    split = outlier.get("splitExternalLocalOriginErrors", False)
    if not isinstance(split, bool):
        raise InvalidInput("outlier_detection splitExternalLocalOriginErrors must be true or false")
    if "consecutiveLocalOriginFailures" in outlier and not split:
        raise InvalidInput(
            "outlier_detection consecutiveLocalOriginFailures has no effect without splitExternalLocalOriginErrors"
        )
    return outlier


def _load_balancer(value: Any) -> Any:
    if isinstance(value, str):
        value = {"simple": value.upper().replace("-", "_")}
    balancer = _object(value, "load_balancer", ("simple", "consistentHash", "warmup"), '{"simple": "LEAST_REQUEST"}')
    if {"simple", "consistentHash"} <= set(balancer):
        raise InvalidInput("load_balancer must have one of simple and consistentHash, not both")
    if "warmup" in balancer:
        balancer = {**balancer, "warmup": _warmup(balancer["warmup"], balancer)}
    if "simple" in balancer:
        if balancer["simple"] not in _BALANCERS:
            raise InvalidInput(
                f"load_balancer has no kind {balancer['simple']!r}: {nearest(str(balancer['simple']), _BALANCERS)}"
            )
        return balancer
    return (
        {**balancer, "consistentHash": _hash(balancer["consistentHash"])} if "consistentHash" in balancer else balancer
    )


def _warmup(value: Any, balancer: Mapping[str, Any]) -> Any:
    """How the share of a new model server grows; Istio gives it to two of the balancers."""
    what = "load_balancer warmup"
    if "consistentHash" in balancer or balancer.get("simple") == "RANDOM":
        beside = "consistentHash" if "consistentHash" in balancer else "simple RANDOM"
        raise InvalidInput(f"{what} has no effect with {beside}: use LEAST_REQUEST or ROUND_ROBIN, or leave it out")
    if isinstance(value, str):
        value = {"duration": value}
    warmup = _object(value, what, ("duration", "minimumPercent", "aggression"), '{"duration": "60s"}')
    if "duration" not in warmup:
        raise InvalidInput(f"{what} must say its duration, such as 60s")
    check_duration(warmup["duration"], f"{what} duration")
    _number(warmup.get("minimumPercent", 10), f"{what} minimumPercent", low=0, high=100)
    if _number(warmup.get("aggression", 1), f"{what} aggression", low=0, high=1000) == 0:
        raise InvalidInput(f"{what} aggression must be above 0: 1 is linear, more is faster at first")
    return warmup


def _hash(value: Any) -> Any:
    what = "load_balancer consistentHash"
    kinds = ("httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp")
    hashed = _object(value, what, (*kinds, "minimumRingSize"), '{"httpHeaderName": "x-user"}')
    given = [kind for kind in kinds if kind in hashed]
    if len(given) != 1:
        raise InvalidInput(f"{what} must have exactly one of {', '.join(kinds)}")
    if "httpHeaderName" in hashed:
        check_header_name(_text(hashed["httpHeaderName"], f"{what} httpHeaderName"), f"{what} httpHeaderName")
    if "httpQueryParameterName" in hashed:
        _text(hashed["httpQueryParameterName"], f"{what} httpQueryParameterName")
    if "useSourceIp" in hashed and hashed["useSourceIp"] is not True:
        raise InvalidInput(f"{what} useSourceIp must be true, or left out")
    if "httpCookie" in hashed:
        cookie = _object(
            hashed["httpCookie"], f"{what} httpCookie", ("name", "path", "ttl"), '{"name": "arm", "ttl": "1h"}'
        )
        check_header_name(_text(cookie.get("name"), f"{what} httpCookie name"), f"{what} httpCookie")
        if "path" in cookie:
            _path(cookie["path"], f"{what} httpCookie path")
        if "ttl" not in cookie:
            raise InvalidInput(f"{what} httpCookie must have a ttl; 0s means until the browser closes")
        seconds_of(cookie["ttl"], f"{what} httpCookie ttl")
    if "minimumRingSize" in hashed:
        _whole(hashed["minimumRingSize"], f"{what} minimumRingSize", low=1, high=8 * 1024 * 1024)
    return hashed


def _tls(value: Any) -> Any:
    if isinstance(value, str):
        value = {"mode": value.upper().replace("-", "_")}
    known = ("mode", "clientCertificate", "privateKey", "caCertificates", "credentialName", "subjectAltNames", "sni")
    tls = _object(value, "tls", known, '{"mode": "ISTIO_MUTUAL"}')
    mode = tls.get("mode")
    if mode not in _TLS_MODES:
        raise InvalidInput(f"tls mode can't be {mode!r}: {nearest(str(mode), _TLS_MODES)}")
    if mode in ("DISABLE", "ISTIO_MUTUAL") and len(tls) > 1:
        extra = next(key for key in tls if key != "mode")
        raise InvalidInput(f"tls {extra} has no effect with mode {mode}: leave it out")
    if mode == "MUTUAL" and "credentialName" not in tls and not {"clientCertificate", "privateKey"} <= set(tls):
        raise InvalidInput("tls mode MUTUAL needs a credentialName, or clientCertificate and privateKey")
    return tls


def _object(value: Any, what: str, known: tuple[str, ...], example: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput(f"{what} must be an object such as {example}, not {value!r}")
    unknown = [key for key in value if key not in known]
    if unknown:
        raise InvalidInput(f"{what} has no part {unknown[0]!r}: {nearest(str(unknown[0]), known)}")
    return dict(value)


def _whole(value: Any, what: str, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{what} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _number(value: Any, what: str, *, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(f"{what} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} must be a text that is not empty, not {value!r}")
    return value


def _path(value: Any, what: str) -> None:
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable() or " " in value:
        raise InvalidInput(f"{what} must be a path that starts with '/', not {value!r}")


def _authority(value: Any, what: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", value):
        raise InvalidInput(f"{what} must be a host name, with a port if need be, not {value!r}")


def _counts(part: Mapping[str, Any], what: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key in part:
            _whole(part[key], f"{what} {key}", low=0, high=2**31 - 1)


def _durations(part: Mapping[str, Any], what: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key in part:
            check_duration(part[key], f"{what} {key}")


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "timeout": _timeout,
    "retries": _retries,
    "headers": _headers,
    "rewrite": _rewrite,
    "redirect": _redirect,
    "maintenance": _maintenance,
    "connection_pool": _connection_pool,
    "outlier_detection": _outlier_detection,
    "load_balancer": _load_balancer,
    "tls": _tls,
}
