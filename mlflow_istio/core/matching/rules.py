"""Conditions on a request as users write them, checked and turned into Istio's ``HTTPMatchRequest`` objects.

All conditions inside one rule must hold (AND); one rule of several is enough (OR). A text stands for ``{"exact": TEXT}``;
``{"present": true}`` for any value; ``cookie`` for one cookie inside the ``cookie`` header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.names import check_header_name, nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.pin_guard import KEY_HEADER
from mlflow_istio.core.matching.probe import PIN_HEADER, PROBE_HEADER
from mlflow_istio.core.matching.re2 import check_regex
from mlflow_istio.errors import InvalidInput

_STRINGS = ("uri", "method", "scheme", "authority")
_MAPS = ("headers", "withoutHeaders", "queryParams")
CLUSTER_ONLY = ("sourceLabels", "sourceNamespace", "port", "gateways")
"""Conditions on where a request comes from: a cluster's proxies check them, the local mesh has no such places."""
_KNOWN = frozenset({*_STRINGS, *_MAPS, *CLUSTER_ONLY, "cookie", "ignoreUriCase"})
_KINDS = ("exact", "prefix", "regex")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_PSEUDO = frozenset({"uri", "scheme", "method", "authority", "host"})


def read_match(value: object) -> tuple[Object, ...]:
    """The rules of a match.

    Args:
        value: One rule or a list of rules.

    Returns:
        Istio's form, one object for each rule.

    Raises:
        InvalidInput: A condition is unknown, contradicts another, or can't be right; names it.
    """
    rules = [value] if isinstance(value, Mapping) else value
    if not isinstance(rules, Sequence) or isinstance(rules, (str, bytes)) or not rules:
        raise InvalidInput('a match must be a rule or a list of rules, such as {"headers": {"x-user": "staff"}}')
    read = [_rule(rule) for rule in rules]
    twice = [rule for index, rule in enumerate(read) if rule in read[:index]]
    if twice:
        raise InvalidInput(f"match has the rule {twice[0]} twice: leave one out")
    return tuple(read)


def _rule(rule: object) -> Object:
    if not isinstance(rule, Mapping) or not rule:
        raise InvalidInput(f"a rule of a match must be an object with a condition, not {rule!r}")
    unknown = [key for key in rule if key not in _KNOWN]
    if unknown:
        raise InvalidInput(f"unknown condition {unknown[0]!r} in a match: {nearest(str(unknown[0]), _KNOWN)}")
    result: Object = {}
    for key in _STRINGS:
        if key in rule:
            result[key] = _string(rule[key], key)
    method = result.get("method", {}).get("exact")
    if method is not None and method not in _METHODS:
        raise InvalidInput(f"match method {method!r} is none of HTTP's: {nearest(str(method), _METHODS)}")
    for key in _MAPS:
        if key in rule:
            result[key] = _map(rule[key], key)
    if "cookie" in rule:
        _add_cookie(result, rule["cookie"])
    if "ignoreUriCase" in rule:
        if not isinstance(rule["ignoreUriCase"], bool):
            raise InvalidInput(f"match ignoreUriCase must be true or false, not {rule['ignoreUriCase']!r}")
        if "uri" not in result or "regex" in result["uri"]:
            raise InvalidInput("match ignoreUriCase has no effect without an exact or prefix uri: leave it out")
        if rule["ignoreUriCase"]:
            result["ignoreUriCase"] = True
    result.update({key: _place(key, rule[key]) for key in CLUSTER_ONLY if key in rule})
    _check_contradictions(result)
    return result


def _string(value: object, what: str) -> Object:
    """Exactly one of exact, prefix and regex."""
    if isinstance(value, str):
        value = {"exact": value}
    if not isinstance(value, Mapping):
        raise InvalidInput(f'match {what} must be a text or such as {{"prefix": TEXT}}, not {value!r}')
    unknown = [key for key in value if key not in _KINDS]
    if unknown:
        raise InvalidInput(f"match {what} has the unknown kind {unknown[0]!r}: {nearest(str(unknown[0]), _KINDS)}")
    if len(value) != 1:
        raise InvalidInput(f"match {what} must have exactly one of exact, prefix and regex, not {sorted(value)}")
    ((kind, text),) = value.items()
    if kind == "regex":
        return {"regex": check_regex(text, f"match {what}")}
    if not isinstance(text, str) or not text:
        raise InvalidInput(f"match {what} {kind} must be a text that is not empty, not {text!r}")
    return {kind: text}


def _map(value: object, key: str) -> Object:
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput(f'match {key} must be an object of names, such as {{"x-user": "staff"}}, not {value!r}')
    result: Object = {}
    for name, wanted in value.items():
        shown = str(name)
        if key != "queryParams":
            shown = check_header_name(shown, f"match {key}").lower()
            if shown in (PIN_HEADER, PROBE_HEADER, KEY_HEADER):
                raise InvalidInput(f"match {key} can't use '{shown}', which pins and probes need: use another header")
            if shown in _PSEUDO:
                use = "authority" if shown == "host" else shown
                raise InvalidInput(
                    f"match {key} can't use '{shown}', which Istio ignores there: use the condition {use}"
                )
        if shown in result:
            raise InvalidInput(f"match {key} names '{shown}' twice: header names have no upper and lower case")
        if wanted in ({"present": True}, {}, {"regex": "*"}):  # to Istio the last is no expression, but presence
            result[shown] = {}
        else:
            result[shown] = _string(wanted, f"{key} '{name}'")
    return result


def _add_cookie(rule: Object, value: object) -> None:
    """One cookie becomes an anchored expression over the whole header, so that no other cookie's end can match."""
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InvalidInput(f'match cookie must name one cookie, such as {{"plan": "gold"}}, not {value!r}')
    if "cookie" in rule.get("headers", {}):
        raise InvalidInput("match has both a cookie and the header 'cookie': give one of them")
    ((name, wanted),) = value.items()
    check_header_name(str(name), "cookie")
    if wanted in ({"present": True}, {}):
        inner = "[^;]*"
    else:
        kind, text = next(iter(_string(wanted, f"cookie '{name}'").items()))
        inner = {"exact": re.escape(text), "prefix": f"{re.escape(text)}[^;]*", "regex": f"(?:{text})"}[kind]
    pattern = f"(.*; ?)?{re.escape(str(name))}={inner}(;.*)?"
    rule["headers"] = {**rule.get("headers", {}), "cookie": {"regex": pattern}}


def _place(key: str, value: Any) -> Any:
    if key == "port":
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
            raise InvalidInput(f"match port must be a port number, not {value!r}")
    elif key == "sourceLabels":
        if not isinstance(value, Mapping) or not value or not all(isinstance(v, str) for v in value.values()):
            raise InvalidInput(f"match sourceLabels must be an object of texts, not {value!r}")
        return dict(value)
    elif key == "gateways":
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InvalidInput(f"match gateways must be a list of names, not {value!r}")
        return [str(member) for member in value]
    elif not isinstance(value, str) or not value:
        raise InvalidInput(f"match {key} must be a text that is not empty, not {value!r}")
    return value


def _check_contradictions(rule: Object) -> None:
    """A header that must be there with a value and must not be there: no request can match."""
    for name, unwanted in rule.get("withoutHeaders", {}).items():
        wanted = rule.get("headers", {}).get(name)
        if wanted is not None and unwanted in ({}, wanted):
            raise InvalidInput(f"match wants the header '{name}' and wants it absent: no request can be so")
