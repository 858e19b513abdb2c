"""Damage to what is stored: what a careless hand, a full disk or another program makes of a text, and where it may strike."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object

DEEP = 2_000
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "null",
    "true",
    "[]",
    "{}",
    "0",
    '"text"',
    "[null]",
    "[[]]",
    "[{}]",
    '{"a": 1}',
    "NaN",
    "1e999",
    "9" * 4_200,
    "9" * 5_000,
    "{",
    "\x00",
    "\u202e\x1b[31m",
    '"\\ud800"',
    "[" * DEEP,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    "x" * 300_000,
    json.dumps(["x" * 1_000] * 200),
)
"""Whole texts in place of a stored one."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    float("inf"),
    float("nan"),
    10**300,
    "",
    "\x1b[31m[/red]",
    "\ud800",
    "2026-01-01T00:00:00",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    [],
    [None],
    {},
    {"": None},
    "x" * 20_000,
)
"""Single values in place of one inside a stored JSON text."""


def paths(data: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside a JSON value, itself included."""
    yield start
    members = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in members:
        yield from paths(value, (*start, key))


def at(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return copy.deepcopy(value)
    changed = copy.copy(data)
    changed[path[0]] = at(data[path[0]], path[1:], value)
    return changed


def without(data: Any, path: tuple[Any, ...]) -> Any:
    """A copy that lacks a place."""
    changed = copy.copy(data)
    if len(path) == 1:
        del changed[path[0]]
    else:
        changed[path[0]] = without(data[path[0]], path[1:])
    return changed


@st.composite
def damaged_texts(draw: st.DrawFn, text: str) -> str:
    """A stored text with something wrong."""
    try:
        data = json.loads(text)
    except ValueError:
        return draw(st.sampled_from(TEXTS))
    places = [path for path in paths(data) if path]
    if not places or draw(st.booleans()):
        whole = st.sampled_from(TEXTS) | st.integers(0, max(0, len(text) - 1)).map(lambda end: text[:end])
        return draw(whole)
    path = draw(st.sampled_from(places))
    if draw(st.integers(0, 3)) == 0:
        return json.dumps(without(data, path))
    return json.dumps(at(data, path, draw(st.sampled_from(VALUES))))


@st.composite
def damaged_objects(draw: st.DrawFn, obj: Object) -> Object:
    """An object with one annotation damaged; or any member of a VirtualService, where our routes and others' are."""
    metadata = obj["metadata"]
    texts = [("annotations", key) for key in metadata.get("annotations", {})]
    if texts and (obj["kind"] != "VirtualService" or draw(st.integers(0, 3))):
        group, key = draw(st.sampled_from(texts))
        text = draw(damaged_texts(metadata[group][key]))
        return at(obj, ("metadata", group, key), text)  # type: ignore[no-any-return]
    places = [path for path in paths(obj) if path and path not in (("metadata",), ("metadata", "name"), ("kind",))]
    path = draw(st.sampled_from(places))
    if draw(st.booleans()):
        return without(obj, path)  # type: ignore[no-any-return]
    return at(obj, path, draw(st.sampled_from(VALUES)))  # type: ignore[no-any-return]


Damage = Callable[[Any], str]
"""Damages a world and says what it did."""
