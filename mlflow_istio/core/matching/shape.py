"""What a VirtualService must look like to be read: each field that we know has its type, and null is no value at all.

The fields are those of Istio's own definition (a test holds them against ``tests/corpus/fields.json``); others pass through unread.
An API server refuses other types, and drops what is null, a condition of a match, too (``tests/corpus``,
``header-with-nothing-behind-it``). Files, other stores and other people's tools do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput, MlflowIstioError

Whole = TypeVar("Whole", bound=Mapping[str, Any])
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Map(NamedTuple):
    """An object of free names, whose values are all of one kind."""

    of: Any


class Fields(NamedTuple):
    """An object of known fields, one of which must be there.

    Attributes:
        known: Name to kind.
        needed: The one without which it says nothing.
    """

    known: Mapping[str, Any]
    needed: str


_TEXT_MATCH = {"exact": str, "prefix": str, "regex": str}
_DESTINATION = Fields({"host": str, "subset": str, "port": {"number": int}}, "host")
_PERCENTAGE = {"value": float}
_HEADER_CHANGES = {"set": Map(str), "add": Map(str), "remove": [str]}
_HEADERS = {"request": _HEADER_CHANGES, "response": _HEADER_CHANGES}
_MATCH = {
    **dict.fromkeys(("name", "sourceNamespace", "statPrefix"), str),
    **dict.fromkeys(("uri", "scheme", "method", "authority"), _TEXT_MATCH),
    **{name: Map(_TEXT_MATCH) for name in ("headers", "withoutHeaders", "queryParams")},
    "ignoreUriCase": bool,
    "port": int,
    "sourceLabels": Map(str),
    "gateways": [str],
}
_CORS = {
    **{name: [str] for name in ("allowHeaders", "allowMethods", "allowOrigin", "exposeHeaders")},
    "allowOrigins": [_TEXT_MATCH],
    "allowCredentials": bool,
    "maxAge": str,
    "unmatchedPreflights": str,
}
_FAULT = {
    "abort": {"grpcStatus": str, "http2Error": str, "httpStatus": int, "percentage": _PERCENTAGE},
    "delay": {"exponentialDelay": str, "fixedDelay": str, "percent": int, "percentage": _PERCENTAGE},
}
_REDIRECT = {
    **dict.fromkeys(("authority", "derivePort", "prefixRewrite", "scheme", "uri"), str),
    "port": int,
    "redirectCode": int,
}
_RETRIES = {
    **dict.fromkeys(("backoff", "perTryTimeout", "retryOn"), str),
    **dict.fromkeys(("retryIgnorePreviousHosts", "retryRemoteLocalities"), bool),
    "attempts": int,
}
HTTP = {
    "name": str,
    "match": [_MATCH],
    "route": [Fields({"destination": _DESTINATION, "weight": int, "headers": _HEADERS}, "destination")],
    "redirect": _REDIRECT,
    "directResponse": {"status": int, "body": {"string": str, "bytes": str}},
    "delegate": Fields({"name": str, "namespace": str}, "name"),
    "rewrite": {"uri": str, "authority": str, "uriRegexRewrite": {"match": str, "rewrite": str}},
    "timeout": str,
    "retries": _RETRIES,
    "fault": _FAULT,
    "mirror": _DESTINATION,
    "mirrorPercent": int,
    "mirror_percent": int,
    "mirrorPercentage": _PERCENTAGE,
    "mirrors": [Fields({"destination": _DESTINATION, "percentage": _PERCENTAGE}, "destination")],
    "corsPolicy": _CORS,
    "headers": _HEADERS,
}
"""A route, as a tree of its fields; a list stands for a list of such, a type for its values."""
SPEC = {"hosts": [str], "gateways": [str], "exportTo": [str], "http": [HTTP], "tcp": [{}], "tls": [{}]}
_METADATA = {"name": str, "namespace": str, "annotations": Map(str), "labels": Map(str)}
_OBJECT = Fields({"metadata": Fields(_METADATA, "name"), "spec": SPEC}, "metadata")
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_LONGEST = 40
_STUMBLES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)


def readable(virtual_service: Mapping[str, Any]) -> Object:
    """The object without members that are null; itself where there are none.

    Raises:
        InvalidInput: A field has another type than Istio's, or lacks what makes it one; names its path.
    """
    try:
        whole: Object = _read(virtual_service, _OBJECT)
        return whole
    except _Misfit as exc:
        metadata = virtual_service.get("metadata") if isinstance(virtual_service, Mapping) else None
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        whose = f"VirtualService '{name}'" if isinstance(name, str) else "a VirtualService"
        path = "".join(reversed(exc.path)).removeprefix(".")
        raise InvalidInput(f"{whose}: {path}{' ' if path else ''}{exc}") from None


def told_by_shape(
    read: Callable[Concatenate[Whole, Arguments], Result],
) -> Callable[Concatenate[Whole, Arguments], Result]:
    """Let a function of a VirtualService stumble over nulls and wrong types, and only then ask for the object's shape.

    What fails over nulls is tried again without them; where something has the wrong type, its path is the error. What stands on a
    cluster is whole, so nothing is looked over for it.
    """

    @wraps(read)
    def told(virtual_service: Whole, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return read(virtual_service, *args, **kwargs)
        except MlflowIstioError:
            whole = readable(virtual_service)
            if whole is virtual_service:
                raise
        except _STUMBLES as exc:
            whole = readable(virtual_service)
            if whole is virtual_service:
                raise _unread(virtual_service, exc) from exc
        try:
            return read(cast("Whole", whole), *args, **kwargs)
        except _STUMBLES as exc:
            raise _unread(virtual_service, exc) from exc

    return told


def _unread(virtual_service: Mapping[str, Any], exc: Exception) -> InvalidInput:
    """What is said of values that have the right types, and still can't be meant, such as a weight that is no finite number."""
    metadata = virtual_service.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return InvalidInput(f"VirtualService '{name}' holds what can't be read ({exc!r}): restore it from a backup")


class _Misfit(Exception):
    """What doesn't fit; the path to it is put together from the inside out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.path: list[str] = []


def _misfit(wanted: str, value: Any) -> _Misfit:
    text = "null" if value is None else repr(value)
    return _Misfit(f"must be {wanted}, not {text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'}")


def _read(value: Any, kind: Any) -> Any:
    if isinstance(kind, list):
        return _list(value, kind[0])
    if isinstance(kind, Map):
        return _map(value, kind)
    if isinstance(kind, Fields):
        return _object(value, kind.known, kind.needed)
    if isinstance(kind, dict):
        return _object(value, kind, "")
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
    if not fits:
        raise _misfit(_WORDS[kind], value)
    return value


def _object(value: Any, known: Mapping[str, Any], needed: str) -> Any:
    if not isinstance(value, Mapping):
        raise _misfit("an object", value)
    same, members = True, {}
    for key, member in value.items():
        kind = known.get(key)
        if kind is None or kind is type(member):
            members[key] = member
            same = same and member is not None
        elif member is not None:
            members[key] = _inside(f".{key}", member, kind)
            same = same and members[key] is member
        else:
            same = False
    if needed and members.get(needed) is None:
        missing = _Misfit("is missing")
        missing.path.append(f".{needed}")
        raise missing
    return value if same else {key: member for key, member in members.items() if member is not None}


def _map(value: Any, kind: Map) -> Any:
    if not isinstance(value, Mapping):
        raise _misfit("an object", value)
    members = {
        key: member if type(member) is kind.of else _inside(f"[{key}]", member, kind.of)
        for key, member in value.items()
        if member is not None
    }
    return value if len(members) == len(value) and all(members[key] is value[key] for key in members) else members


def _list(value: Any, of: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _misfit("a list", value)
    members = [
        member if type(member) is of else _inside(f"[{index}]", member, of) for index, member in enumerate(value)
    ]
    return value if all(new is old for new, old in zip(members, value, strict=True)) else members


def _inside(step: str, value: Any, kind: Any) -> Any:
    try:
        return _read(value, kind)
    except _Misfit as exc:
        exc.path.append(step)
        raise
