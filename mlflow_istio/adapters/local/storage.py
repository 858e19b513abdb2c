"""How an object changes when it is stored: what an API server does to metadata, and what applying means. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_istio.adapters.local.supported_fields import read
from mlflow_istio.adapters.local.workloads import check_name
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.errors import EditConflict, InvalidInput

_OWN_METADATA = ("name", "labels", "annotations")
_SERVER_METADATA = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")


def admitted(obj: Mapping[str, Any]) -> Object:
    """A copy of an object as handed in, checked, without its status.

    Raises:
        InvalidInput: It is no object of a kind that a mesh holds.
        Unsupported: Metadata that the local mesh can't carry out.
    """
    if not isinstance(obj.get("metadata"), dict) or not isinstance(obj["metadata"].get("name"), str):
        raise InvalidInput("an object must have metadata.name")
    kind = check_kind(obj.get("kind"))
    name = check_name(kind, obj["metadata"]["name"])
    group = API_VERSIONS[kind].partition("/")[0]
    if not isinstance(obj.get("apiVersion"), str) or obj["apiVersion"].partition("/")[0] != group:
        raise InvalidInput(f"{kind} {name}: apiVersion must be {API_VERSIONS[kind]}, not {obj.get('apiVersion')!r}")
    root = read(obj)
    root.members("apiVersion", "kind", "metadata", "spec", "status")
    metadata = root.member("metadata").members(*_OWN_METADATA, *_SERVER_METADATA)
    metadata["labels"].texts()
    metadata["annotations"].texts()
    return copied({key: value for key, value in obj.items() if key != "status"})


def copied(obj: Mapping[str, Any]) -> Object:
    """A copy that shares nothing, of JSON values.

    Raises:
        InvalidInput: A value is none that JSON has.
    """
    try:
        # Several times as fast as copy.deepcopy.
        return dict(json.loads(json.dumps(obj, allow_nan=False)))
    except (TypeError, ValueError) as exc:
        name = obj["metadata"].get("name")
        raise InvalidInput(f"{obj['kind']} {name}: an object must hold JSON values only: {exc}") from exc


def check_kind(kind: object) -> str:
    """The kind, if a mesh holds such objects.

    Raises:
        InvalidInput: It does not.
    """
    if not isinstance(kind, str) or kind not in API_VERSIONS:
        raise InvalidInput(f"there is no kind {kind!r}: use one of {', '.join(API_VERSIONS)}")
    return kind


def with_fields_applied(live: Object | None, last_applied: Mapping[str, Any], wanted: Object) -> Object:
    """The live object with the wanted fields set, and those removed that were applied before and are wanted no more.

    Fields that others set stay. Lists are one value, as in most fields of the objects we write.
    """
    return copied(wanted if live is None else _merged(live, last_applied, wanted))


def ownable(wanted: Object) -> Object:
    """The fields of an object that applying it claims."""
    metadata = {key: value for key, value in wanted["metadata"].items() if key in _OWN_METADATA}
    return copied({**wanted, "metadata": metadata})


def check_new(obj: Object) -> None:
    """Refuse to create an object from a copy of one that is gone, as an API server does: its edits were meant for another.

    Raises:
        EditConflict: It carries the identity or version of one that was.
    """
    for key in ("uid", "resourceVersion"):
        if key in obj["metadata"]:
            raise EditConflict(
                f"{obj['kind']} {obj['metadata']['name']}: metadata.{key} is that of an object that is gone: "
                "remove metadata.uid and metadata.resourceVersion to create a new one"
            )


def created(obj: Object, *, uid: str, now: str) -> Object:
    """A new object with the metadata that a server gives.

    Args:
        obj: As it should be.
        uid: Its identity.
        now: Time of its creation.
    """
    server = {"uid": uid, "creationTimestamp": now, "resourceVersion": "1", "generation": 1}
    return {**obj, "metadata": {**_own_metadata(obj), **server}}


def updated(before: Object, after: Object) -> Object:
    """A changed object with the metadata that a server gives: the next version, and generation if the spec changed.

    Args:
        before: As it is stored.
        after: As it should be.

    Raises:
        EditConflict: ``after`` was made from another version than the stored one.
    """
    for key in ("uid", "resourceVersion"):
        if after["metadata"].get(key, before["metadata"][key]) != before["metadata"][key]:
            raise EditConflict(
                f"{after['kind']} {after['metadata']['name']} was changed by another command meanwhile: read it again"
            )
    server = {
        "uid": before["metadata"]["uid"],
        "creationTimestamp": before["metadata"]["creationTimestamp"],
        "resourceVersion": str(int(before["metadata"]["resourceVersion"]) + 1),
        "generation": int(before["metadata"]["generation"]) + (after.get("spec") != before.get("spec")),
    }
    return {**after, "metadata": {**_own_metadata(after), **server}}


def check_identity(obj: Object, kind: str, name: str) -> None:
    """Refuse an edit that gives back another object.

    Raises:
        InvalidInput: Kind or name differ.
    """
    if (obj["kind"], obj["metadata"]["name"]) != (kind, name):
        raise InvalidInput(f"an edit of {kind} {name} gave {obj['kind']} {obj['metadata']['name']}: names can't change")


def same(before: Object, after: Object) -> bool:
    """Whether two objects are equal apart from what a server adds."""
    return _content(before) == _content(after)


def _content(obj: Object) -> Object:
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": _own_metadata(obj)}


def _own_metadata(obj: Object) -> Object:
    return {key: value for key, value in obj["metadata"].items() if key in _OWN_METADATA and value}


def _merged(live: Mapping[str, Any], last: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in live.items() if key in wanted or key not in last}
    for key, value in wanted.items():
        present, before = live.get(key), last.get(key)
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            result[key] = _merged(present, before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    for key, before in last.items():
        present = live.get(key)
        if key not in wanted and isinstance(before, Mapping) and isinstance(present, Mapping):
            # Only what we applied inside goes; what others put there stays.
            rest = _merged(present, before, {})
            if rest:
                result[key] = rest
    return result
