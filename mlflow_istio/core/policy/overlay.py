"""Our settings laid over a document that is somebody else's, each as one path and its value.

What is ours is known by what we wrote before. A path that holds another value than we wrote is the owner's: it stays as it is,
and is set over only when the owner's word for it (``replace``) was given, with the original kept for the day ours goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import StateConflict

Path: TypeAlias = tuple[str, ...]
"""Keys from the document's root; the last one of a path below ``remove`` is an element of that list."""
Settings: TypeAlias = dict[Path, Any]
_ABSENT = object()


def flat_headers(headers: Mapping[str, Any] | None) -> Settings:
    """Header rules as paths: one for each side, operation and name, so that two owners can share an object."""
    result: Settings = {}
    for side, operations in (headers or {}).items():
        for operation, entries in operations.items():
            for name in entries:
                value = True if operation == "remove" else entries[name]
                result[("headers", side, operation, name)] = value
    return result


def laid_over(
    document: Object,
    before: Settings,
    after: Settings,
    *,
    originals: Mapping[str, Any],
    replace: Collection[str],
    where: str,
) -> tuple[Object, dict[str, Any]]:
    """The document with our settings, and the owner's values that they stand over.

    Args:
        document: As it is.
        before: What we wrote into it before.
        after: What should be ours now.
        originals: The owner's values that ours stand over now, by the path joined with ``/``.
        replace: First keys of paths that may be set over the owner's values.
        where: What the document is, for messages.

    Raises:
        StateConflict: A path holds a value of the owner's that may not be replaced; names it.
    """
    kept = dict(originals)
    for path in before:
        if path in after:
            continue
        original = kept.pop("/".join(path), _ABSENT)
        if _get(document, path) == before[path]:
            document = _without(document, path) if original is _ABSENT else _with(document, path, original)
    for path, value in after.items():
        found = _get(document, path)
        ours = path in before
        if found is _ABSENT or (ours and found == before[path]):
            if found != value:
                document = _with(document, path, value)
        elif ours and before[path] == value:
            continue  # edited since by the owner, and nothing new is asked of it
        elif path[0] not in replace:
            raise StateConflict(
                f"{where} has {'.'.join(path)} of its own ({found!r}): it stays, unless you say -C replace=true"
            )
        else:
            kept.setdefault("/".join(path), found)
            document = _with(document, path, value)
    return document, {key: value for key, value in kept.items() if tuple(key.split("/")) in after}


def _get(document: Any, path: Path) -> Any:
    for key in path:
        if isinstance(document, list):
            return True if key in document else _ABSENT
        if not isinstance(document, Mapping) or key not in document:
            return _ABSENT
        document = document[key]
    return document


def _with(document: Object, path: Path, value: Any) -> Object:
    key, *rest = path
    if not rest:
        return {**document, key: value}
    if len(rest) == 1 and key == "remove":
        return {**document, key: [*(document.get(key) or []), rest[0]]}
    return {**document, key: _with(document.get(key) or {}, tuple(rest), value)}


def _without(document: Object, path: Path) -> Object:
    """Without the value; a container that is empty then goes with it."""
    key, *rest = path
    if not rest:
        return {name: value for name, value in document.items() if name != key}
    inner = document[key]
    left: Any = [one for one in inner if one != rest[0]] if isinstance(inner, list) else _without(inner, tuple(rest))
    return {**document, key: left} if left else {name: value for name, value in document.items() if name != key}
