"""What of a request's and an answer's body may stand in a record.

Pure: bodies in, JSON values out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

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
        body that is no JSON is left out as a whole (None): they can't be told apart in it.
    """
    value = _parse(body)
    if value is _NOT_JSON:
        return None if dropped else body.decode("utf-8", errors="replace")
    return without_fields(value, dropped) if dropped else value


def without_fields(value: Json, dropped: frozenset[str]) -> Json:
    """Leave out fields by name, at any depth.

    Args:
        value: A JSON value; it is not changed.
        dropped: Names of keys, and of columns where ``columns`` stand beside rows of ``data`` (``dataframe_split``).

    Returns:
        A new value without them.
    """
    if isinstance(value, list):
        return [without_fields(item, dropped) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_fields(item, dropped)
        for key, item in _without_columns(value, dropped).items()
        if key not in dropped
    }


def _without_columns(table: Mapping[str, Json], dropped: frozenset[str]) -> Mapping[str, Json]:
    columns, rows = table.get("columns"), table.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return table
    kept = [position for position, column in enumerate(columns) if str(column) not in dropped]
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


_NOT_JSON: dict[str, Json] = {}


def _parse(body: bytes) -> Json:
    try:
        value: Json = json.loads(body)
    except ValueError:
        return _NOT_JSON
    return value
