"""Our settings laid over a document that is somebody else's, each as one path and its value.

What is ours is known by what we wrote before. A path that holds another value than we wrote is the owner's: it stays as it is,
and is set over only when the owner's word for it (``replace``) was given, with the original kept for the day ours goes.
Set, add and remove of one header are one setting, for proxies carry out all of them; its name has no upper and lower case.
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
        for operation, entries in (operations or {}).items():
            for name in entries or ():
                value = True if operation == "remove" else entries[name]
                result[("headers", side, operation, name)] = value
    return result


def met(document: Object, settings: Settings) -> list[Path]:
    """Where a document says something else, too, of a header that settings of ours treat; set, add and remove are one."""
    return [other for path in settings for other in _others(document, path) if other not in settings]


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
        unedited = _get(document, path) == before[path]
        if unedited:
            document = _without(document, path)
        if any(same_place(path, other) for other in after):
            continue  # what it stood over, the other stands over now
        for under in [key for key in kept if same_place(_path(key), path)]:
            original = kept.pop(under)
            if unedited and _get(document, _path(under)) is _ABSENT:
                document = _with(document, _path(under), original)
    for path, value in after.items():
        present = _get(document, path)
        ours = path in before
        others = _others(document, path)
        if ours and before[path] == value and (others or present is not _ABSENT):
            continue  # nothing new is asked of it, whatever the owner has edited since
        theirs = others if present is _ABSENT or (ours and present == before[path]) else [path, *others]
        if theirs and path[0] not in replace:
            also = "" if theirs[0] == path else f", the same header as {path[-1]}"
            raise StateConflict(
                f"{where} has {'.'.join(theirs[0])} of its own ({_get(document, theirs[0])!r}{also}): it stays, unless you say "
                "-C replace=true"
            )
        for other in theirs:
            kept.setdefault("/".join(other), _get(document, other))
            document = _without(document, other)
        document = _with(document, path, value)
    return document, {key: value for key, value in kept.items() if any(same_place(_path(key), path) for path in after)}


def _path(key: str) -> Path:
    return tuple(key.split("/"))


def same_place(first: Path, second: Path) -> bool:
    """Whether two paths are of one setting: a header's set, add and remove are, and its name has no upper and lower case."""
    return first == second or (len(first) == 4 and _header(first) == _header(second))


def _header(path: Path) -> tuple[str, ...]:
    return (*path[:2], path[-1].lower())


def _others(document: Object, path: Path) -> list[Path]:
    """Where else the document says something of the same header."""
    if len(path) != 4:
        return []
    operations = (document.get(path[0]) or {}).get(path[1]) or {}
    paths = [(*path[:2], operation, name) for operation, entries in operations.items() for name in entries or ()]
    return [other for other in paths if other != path and same_place(other, path)]


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
    left: Any = (
        [member for member in inner if member != rest[0]] if isinstance(inner, list) else _without(inner, tuple(rest))
    )
    return {**document, key: left} if left else {name: value for name, value in document.items() if name != key}
