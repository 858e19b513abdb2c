"""What a request must look like: a VirtualService's match becomes an Envoy route match.

All conditions of one match are joined by AND; several matches of a route become several Envoy routes, which is OR.
Regular expressions are RE2 and match the whole value, as Istio has it.
"""

from __future__ import annotations

import re

from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.supported_fields import Field

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PSEUDO_HEADERS = {"method": ":method", "authority": ":authority", "scheme": ":scheme"}


def match(field: Field) -> Config:
    """The Envoy route match of one entry of ``http[].match``; absent matches every request.

    Raises:
        Unsupported: A condition that the local mesh can't check, such as ``sourceLabels``.
        InvalidInput: A condition that can't be right.
    """
    members = field.members(
        "name", "uri", "ignoreUriCase", "headers", "withoutHeaders", "queryParams", *_PSEUDO_HEADERS
    )
    headers = [_header(name, condition) for name, condition in members["headers"].pairs()]
    headers += [_without(name, condition) for name, condition in members["withoutHeaders"].pairs()]
    headers.sort(key=lambda header: str(header["name"]))
    headers += [_header(header, members[key]) for key, header in _PSEUDO_HEADERS.items() if members[key]]
    result = {**_path(members["uri"]), "case_sensitive": not members["ignoreUriCase"].flag()}
    if headers:
        result["headers"] = headers
    queries = [{"name": name, **_presence_or_string(query)} for name, query in members["queryParams"].pairs()]
    if queries:
        result["query_parameters"] = queries
    return result


def header_name(field: Field, name: str) -> str:
    """The header's name, checked.

    Raises:
        InvalidInput: It is no name of a header.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise field.invalid("is no name of a header")
    return name


def _path(uri: Field) -> Config:
    kind, value = _string_match(uri, may_be_empty=True) if uri else ("prefix", "/")
    if kind == "prefix":
        return {"prefix": value}
    if kind == "exact":
        return {"path": value}
    if kind == "regex":
        return {"safe_regex": {"regex": value}}
    return {"prefix": "/"}


def _header(name: str, condition: Field, *, star: bool = False) -> Config:
    if name.startswith("@"):
        raise condition.unsupported("it checks no tokens")
    if not name.startswith(":"):
        header_name(condition, name)
    return {"name": name, **_presence_or_string(condition, star=star)}


def _without(name: str, condition: Field) -> Config:
    header = _header(name, condition, star=True)
    result = {**header, "invert_match": True}
    if "present_match" not in header:
        # A request that lacks the header is one without that value.
        result["treat_missing_header_as_empty"] = True
    return result


def _presence_or_string(condition: Field, *, star: bool = False) -> Config:
    """With ``star`` the regex ``*``, which is none, asks for presence: where istiod's validator lets it through, it means that."""
    kind, value = _string_match(condition)
    if kind == "present" or (star and (kind, value) == ("regex", "*")):
        return {"present_match": True}
    if kind == "regex":
        return {"string_match": {"safe_regex": {"regex": value}}}
    return {"string_match": {kind: value}}


def _string_match(condition: Field, *, may_be_empty: bool = False) -> tuple[str, str]:
    """Which of exact, prefix, regex or present it is, and the value."""
    if condition.value is None:
        raise condition.invalid("must be an object such as {exact: VALUE}")
    given = [(kind, field) for kind, field in condition.members("exact", "prefix", "regex").items() if field]
    if len(given) > 1:
        raise condition.invalid("must have one of exact, prefix and regex")
    if not given:
        return "present", ""
    kind, field = given[0]
    value = field.text()
    if not value and kind != "exact" and not (kind == "prefix" and may_be_empty):
        raise field.invalid("must not be empty")
    return kind, value
