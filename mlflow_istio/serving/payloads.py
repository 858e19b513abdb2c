"""What of a request's and an answer's body may stand in a record.

Pure: bodies in, JSON values out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias
from unicodedata import normalize

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def recorded_output(body: bytes, status: int, dropped: frozenset[str]) -> Json:
    """The answer as a record keeps it.

    Args:
        body: The answer's body.
        status: The answer's status code.
        dropped: Names of fields to leave out.

    Returns:
        The body's JSON value without the dropped fields. For an error only ``{"error_code": ...}``, because MLflow
        quotes the request in the message of an error. None where there is neither.
    """
    if status < 400:
        return recorded_body(body, dropped)
    error = _parse(body)
    code = error.get("error_code") if isinstance(error, dict) else None
    return {"error_code": code} if isinstance(code, str) else None


def recorded_body(body: bytes, dropped: frozenset[str]) -> Json:
    """A body as a record keeps it.

    Args:
        body: The body of a request or of an answer.
        dropped: Names of fields to leave out.

    Returns:
        Its JSON value without the dropped fields, or its text when it is no JSON. When fields are to be dropped, a
        body that is no JSON, or that still names one of them in a text, is left out as a whole (None): they can't be told
        apart in it.
    """
    value = _parse(body)
    if value is _NOT_JSON:
        return None if dropped else body.decode("utf-8", errors="replace")
    if not dropped:
        return value
    kept = without_fields(value, dropped)
    return None if _names(kept, dropped) else kept


def recorded_input(body: bytes, dropped: frozenset[str]) -> Json:
    """A request's body as a record keeps it: as any other, but one whose values have no names is left out, too.

    In rows without columns, or in a tensor, a field that is to be dropped can't be found.
    """
    value = _parse(body)
    if dropped and value is not _NOT_JSON and _has_unnamed(value):
        return None
    return recorded_body(body, dropped)


def without_fields(value: Json, dropped: frozenset[str]) -> Json:
    """Leave out fields by name, at any depth.

    Args:
        value: A JSON value; it is not changed.
        dropped: Names of keys, of columns where ``columns`` stand beside rows of ``data`` (``dataframe_split``), and of objects
            that say their own ``name``. Upper and lower case are the same.

    Returns:
        A new value without them.
    """
    return _without(value, frozenset(map(_folded, dropped)))


def _without(value: Json, dropped: frozenset[str]) -> Json:
    if isinstance(value, list):
        return [_without(item, dropped) for item in value if not _is_called(item, dropped)]
    if not isinstance(value, dict):
        return value
    return {
        key: _without(item, dropped)
        for key, item in _without_columns(value, dropped).items()
        if _folded(key) not in dropped
    }


def _without_columns(table: Mapping[str, Json], dropped: frozenset[str]) -> Mapping[str, Json]:
    columns, rows = table.get("columns"), table.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return table
    kept = [position for position, column in enumerate(columns) if not _is_dropped(column, dropped)]
    if len(kept) == len(columns):
        return table
    return {
        **table,
        "columns": [columns[position] for position in kept],
        "data": [
            [row[position] for position in kept] if isinstance(row, list) and len(row) == len(columns) else None
            for row in rows
        ],
    }


def _is_dropped(column: Json, dropped: frozenset[str]) -> bool:
    """Whether a column, or a level of one that has several, is to be dropped."""
    if isinstance(column, list):
        return any(_is_dropped(level, dropped) for level in column)
    return _folded(str(column)) in dropped


def _is_called(item: Json, dropped: frozenset[str]) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str) and _folded(str(item["name"])) in dropped


def _folded(name: str) -> str:
    return normalize("NFKC", name).strip().casefold()


def _has_unnamed(value: Json) -> bool:
    """Whether values of a request stand where no name says what they are."""
    if not isinstance(value, dict):
        return True
    for key in ("inputs", "instances", "dataframe_records"):
        if key in value and _is_unnamed(value[key]):
            return True
    table = value.get("dataframe_split")
    if table is None:
        return False
    if not isinstance(table, dict) or not isinstance(table.get("columns"), list):
        return True
    index = table.get("index")
    return index is not None and index != list(range(len(index) if isinstance(index, list) else 0))


def _is_unnamed(value: Json) -> bool:
    if isinstance(value, list):
        return any(not isinstance(item, dict) for item in value)
    return not isinstance(value, dict)


def _names(value: Json, dropped: frozenset[str]) -> bool:
    """Whether a text somewhere in the value names a dropped field: JSON or CSV inside of JSON, or a prompt."""
    words = "|".join(re.escape(_folded(name)) for name in dropped)
    named = re.compile(rf"(?<!\w)(?:{words})(?!\w)")
    level = [value]
    while level:
        if any(isinstance(item, str) and named.search(_folded(item)) for item in level):
            return True
        level = [
            item
            for container in level
            if isinstance(container, (dict, list))
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return False


_NOT_JSON: dict[str, Json] = {}


def _parse(body: bytes) -> Json:
    try:
        value: Json = json.loads(body)
    except ValueError:
        return _NOT_JSON
    return value
