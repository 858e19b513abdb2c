"""An input as the V2 protocol's JSON, which MLServer and Triton take: over REST as it is, over gRPC as a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_istio.calls.request_body import RequestBody, body_of, plain_body_of
from mlflow_istio.errors import InvalidInput


def v2_document(payload: Any) -> Any:
    """The document of an input.

    Args:
        payload: The protocol's own JSON; or what MLflow's models and scoring server take, such as a frame or an input example,
            which MLServer's MLflow runtime reads as it was meant.

    Raises:
        InvalidInput: It holds values that no tensor can, or is no JSON.
    """
    is_frame = type(payload).__module__.partition(".")[0] == "pandas"
    body = body_of(payload) if is_frame else plain_body_of(payload)
    # A file's rows are told from a body of the protocol where the file was read.
    content = payload.content if isinstance(payload, RequestBody) else body.content
    return as_v2(json.loads(content))


def as_v2(document: Any) -> Any:
    """A body of MLflow's scoring protocol as the V2 protocol's JSON; one that is that already, or is neither, as it is.

    Raises:
        InvalidInput: It holds values that no tensor can.
    """
    if not isinstance(document, Mapping):
        return document
    if "dataframe_split" in document or "dataframe_records" in document:
        columns = _columns(document)
        inputs = [_as_tensor(name, [[value] for value in values]) for name, values in columns.items()]
        return {"parameters": {"content_type": "pd"}, "inputs": inputs}
    given = document.get("instances", document.get("inputs"))
    if isinstance(given, Mapping):
        return {"inputs": [_as_tensor(str(name), values) for name, values in given.items()]}
    if isinstance(given, list) and given and not any(isinstance(row, Mapping) for row in given):
        return {"inputs": [_as_tensor("input-0", given)]}
    return document


def _columns(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    split, records = document.get("dataframe_split"), document.get("dataframe_records")
    try:
        if split is not None:
            names = split.get("columns") or range(len(split["data"][0]))
            return {str(name): [row[index] for row in split["data"]] for index, name in enumerate(names)}
        return {str(name): [row[name] for row in records or ()] for name in (records or [{}])[0]}
    except (AttributeError, LookupError, TypeError) as exc:
        raise InvalidInput("the frame of the body can't be read: its rows must all have the same columns") from exc


def _as_tensor(name: str, values: Any) -> dict[str, Any]:
    elements = list(flat(values))
    kinds = {type(element) for element in elements}
    for types, kind in (({bool}, "BOOL"), ({int}, "INT64"), ({int, float}, "FP64"), ({str}, "BYTES")):
        if kinds and kinds <= types:
            content = {"parameters": {"content_type": "str" if kind == "BYTES" else "np"}}
            return {"name": name, "shape": _shape(values), "datatype": kind, "data": elements, **content}
    raise InvalidInput(f"input '{name}' can't be a tensor: its values must all be numbers, or texts, or true and false")


def _shape(values: Any) -> list[int]:
    return [len(values), *(_shape(values[0]) if values else [])] if isinstance(values, list) else []


def flat(data: Any) -> Iterator[Any]:
    """Yield the elements of nested lists."""
    if isinstance(data, list):
        for member in data:
            yield from flat(member)
    else:
        yield data
