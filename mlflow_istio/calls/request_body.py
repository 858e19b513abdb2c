"""An input as the request body of MLflow's scoring server: every value as it is, or one line that says what has no form.

MLflow's own client (``mlflow.utils.proto_json_utils.dump_input_data``) is followed in what it chooses: a frame goes as
``dataframe_split``, everything else as ``inputs``, times in ISO form, sparse matrices dense. It is not used, since it mixes
lengths of fractions in a column of times, which its server then refuses, has no form for bytes, nullable values and numpy
scalars, and fails on a dict of arrays. What the server makes of each form is in ``mlflow.pyfunc.scoring_server``.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_istio.errors import InvalidInput

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

CONTENT_TYPES: Mapping[str, str] = {"json": JSON, "csv": CSV, "parquet": PARQUET}
"""What MLflow's scoring server reads, by the ending of a file's name."""

_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_CHAT_KEYS = ("messages", "prompt", "input")
"""Top-level keys that make MLflow's server hand the whole body to the model (``mlflow.pyfunc.utils.serving_data_parser``)."""
_EXACT_FLOAT_BYTES = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RequestBody:
    """A body that is sent as it is.

    Attributes:
        content: Its bytes.
        content_type: One of :data:`CONTENT_TYPES`.
        given: JSON as it was given, for servers that don't take MLflow's forms; None where it was none.
    """

    content: bytes
    content_type: str = JSON
    given: bytes | None = dataclasses.field(default=None, compare=False)


def body_of(payload: Any) -> RequestBody:
    """The request body of an input.

    Args:
        payload: What ``mlflow.pyfunc`` models take: a DataFrame, Series, array, sparse matrix, tensor, list, dict of columns,
            or one value; a dict with a key of MLflow's scoring server (``inputs``, ``dataframe_split``, ``messages`` ...) is a
            body already; a ``RequestBody`` is sent as it is.

    Raises:
        InvalidInput: A value has no JSON form; names its column.
    """
    if isinstance(payload, RequestBody):
        return payload
    try:
        document = _document(payload)
        try:
            return RequestBody(content=json.dumps(document).encode("ascii"))
        except ValueError as exc:
            raise InvalidInput(
                "the input holds a whole number with more digits than Python writes out (4,300 unless set otherwise): send it as "
                "text or as a float"
            ) from exc
    except RecursionError as exc:
        raise InvalidInput("the input is nested too deep, or holds itself: send less of it") from exc


def read_body(path: str, kind: str | None = None) -> RequestBody:
    """The request body of a file, in any form that MLflow's scoring server takes.

    A JSON file holds a body of the server, a frame in split form without its key, a list of records, or anything else that
    goes as ``inputs``.

    Args:
        path: The file.
        kind: A key of :data:`CONTENT_TYPES`; None: the ending of the file's name says it, JSON where it says nothing.

    Raises:
        InvalidInput: The file can't be read, or is no JSON.
    """
    kind = kind or Path(path).suffix.removeprefix(".").lower()
    try:
        content = Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInput(f"input file '{path}' can't be read: {exc.strerror}") from exc
    content_type = CONTENT_TYPES.get(kind, JSON)
    if content_type != JSON:
        return RequestBody(content=content, content_type=content_type)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"input file '{path}' is not JSON: {exc}; CSV needs a name that ends in .csv") from exc
    if data is None or data == []:
        raise InvalidInput(
            f"input file '{path}' holds nothing to score: give records, a frame, a list or a scoring body"
        )
    # The file's own text is sent: a number that Python would round arrives as it was written.
    text = content.decode(json.detect_encoding(content)).strip()
    if isinstance(data, dict) and _is_body(data):
        return RequestBody(content=text.encode(), given=text.encode())
    form = "inputs"
    if isinstance(data, dict) and {"columns", "data"} <= set(data) <= {"columns", "data", "index"}:
        form = "dataframe_split"
    elif isinstance(data, list) and all(isinstance(item, dict) for item in data):
        form = "dataframe_records"
    return RequestBody(content=f'{{"{form}": {text}}}'.encode(), given=text.encode())


def plain_body_of(payload: Any) -> RequestBody:
    """The JSON that was given, as it is: what servers take that don't know MLflow's forms.

    Raises:
        InvalidInput: It is no JSON; a frame goes as records.
    """
    if isinstance(payload, RequestBody):
        if payload.given is None:
            raise InvalidInput(
                f"this model server takes JSON as it is, not {payload.content_type}: give it a JSON body"
            )
        return RequestBody(content=payload.given)
    if _is_pandas(payload, "DataFrame"):
        raise InvalidInput("this model server takes JSON as it is, not a frame: give it the body that it reads")
    try:
        return RequestBody(content=json.dumps(_plain(payload, "the body")).encode("ascii"))
    except RecursionError as exc:
        raise InvalidInput("the body is nested too deep, or holds itself: send less of it") from exc


def _document(payload: Any) -> dict[str, Any]:
    if isinstance(payload, (bytes, bytearray)):
        payload = [payload]
    if _is_pandas(payload, "Series"):
        payload = payload.to_frame()
    if _is_pandas(payload, "DataFrame"):
        return {"dataframe_split": _split(payload)}
    if isinstance(payload, Mapping) and _is_body(payload):
        return {_key(key, "the body"): _plain(value, f"'{key}'") for key, value in payload.items()}
    if isinstance(payload, (Mapping, list, tuple)) and _has_bytes(payload):
        return {"dataframe_split": _split(_frame_with_bytes(payload))}
    if dataclasses.is_dataclass(payload) or hasattr(payload, "model_dump"):
        document = _plain(payload, "the input")
        return document if _is_body(document) else {"inputs": document}
    return {"inputs": _plain(payload, "the input")}


def _is_body(document: Mapping[Any, Any]) -> bool:
    """Whether MLflow's server would read this as a body; an array under a chat model's key is a column of that name."""
    if any(form in document for form in _FORMS):
        return True
    return any(key in document and not hasattr(document[key], "tolist") for key in _CHAT_KEYS)


def _split(frame: Any) -> dict[str, Any]:
    if frame.columns.nlevels > 1:
        raise InvalidInput(
            f"column {frame.columns[0]!r} has a name of several levels, which no form carries: join them"
        )
    if frame.index.nlevels > 1:
        raise InvalidInput("the index has several levels, which no form carries: reset_index() first")
    names = [_label(name) for name in frame.columns]
    columns = [_column(frame.iloc[:, position], repr(name)) for position, name in enumerate(names)]
    rows = [list(row) for row in zip(*columns, strict=True)] if columns else [[] for _ in range(len(frame))]
    return {"columns": names, "index": _column(frame.index.to_series(), "index"), "data": rows}


def _label(name: Any) -> Any:
    name = name.item() if type(name).__module__ == "numpy" else name
    if name is None or isinstance(name, (str, int, float)):
        return name
    raise InvalidInput(f"column {name!r} has a name of type {type(name).__name__}, which no form carries: make it text")


def _column(series: Any, name: str) -> list[Any]:
    """The values of one column."""
    dtype, where = series.dtype, f"column {name}"
    if type(dtype).__module__.startswith("numpy") and dtype.kind in "biuf":
        return list(_numpy(series.to_numpy(), where))  # all at once: no value of such a column needs a look of its own
    if type(dtype).__name__ == "StringDtype":
        return [value if isinstance(value, str) else None for value in series.tolist()]
    return [
        base64.b64encode(value).decode("ascii") if isinstance(value, (bytes, bytearray)) else _plain(value, where)
        for value in series.tolist()
    ]


def _plain(value: Any, where: str) -> Any:
    """The value in JSON's own types.

    Args:
        value: Any value.
        where: What to call it in a message.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, _inside(where, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if type(value).__name__ in ("NAType", "NaTType"):  # NaT says that it is a datetime
        return None
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return _time(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidInput(
            f"{where} holds bytes among other values; MLflow reads base64 only in a column of its own: send a DataFrame with one"
        )
    if type(value).__module__.split(".")[0] == "numpy" and hasattr(value, "dtype"):
        return _numpy(value, where)
    return _foreign(value, where)


def _foreign(value: Any, where: str) -> Any:
    """What other packages hold their values in."""
    if _is_pandas(value, "DataFrame"):
        raise InvalidInput(f"{where} holds a DataFrame: send the frame itself, or its columns")
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        return _plain(value.toarray(), where)
    for unwrap in ("model_dump", "tolist", "__array__"):
        if hasattr(value, unwrap) and not isinstance(value, type):
            try:
                return _plain(getattr(value, unwrap)(), where)
            except (TypeError, ValueError, RuntimeError, NotImplementedError) as exc:
                raise _no_form(value, where) from exc
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, where)
    raise _no_form(value, where)


def _numpy(value: Any, where: str) -> Any:
    """A numpy array or scalar."""
    import numpy as np

    kind = value.dtype.kind
    if kind == "M":
        texts = np.array(np.datetime_as_string(value, unit="ns"), dtype=object)
        texts[np.isnat(value)] = None
        return texts.tolist()
    if kind == "S":
        try:
            return value.astype("U").tolist()  # the server makes bytes of text where the signature says bytes
        except UnicodeDecodeError as exc:
            raise InvalidInput(
                f"{where} holds bytes outside ASCII, which an array can't carry: send a DataFrame with a column of bytes"
            ) from exc
    if kind == "f" and value.dtype.itemsize > _EXACT_FLOAT_BYTES:
        narrow = value.astype(np.float64)
        if not np.array_equal(narrow, value, equal_nan=True):
            raise InvalidInput(f"{where} holds {value.dtype}, finer than JSON's readers keep: convert it to float64")
        return narrow.tolist()
    if kind in "biufU":
        return value.tolist()
    if kind == "O":
        return _plain(value.tolist(), where)
    raise InvalidInput(f"{where} holds {value.dtype}, which has no JSON form: convert it to numbers or text")


def _time(value: datetime.date | datetime.time) -> str:
    """ISO form, with nanoseconds always: pandas reads a column of texts by the form of the first one."""
    if not isinstance(value, datetime.datetime):
        return value.isoformat()
    if type(value).__name__ == "Timestamp":
        return str(value.isoformat(timespec="nanoseconds"))
    text = value.isoformat(timespec="microseconds")
    seconds, fraction, rest = text.partition(".")
    return f"{seconds}{fraction}{rest[:6]}000{rest[6:]}"


def _key(key: Any, where: str) -> str:
    if isinstance(key, str):
        return str(key)
    raise InvalidInput(f"{where} has the key {key!r}, which is no text: JSON has no other keys")


def _inside(where: str, key: Any) -> str:
    return f"column '{key}'" if where == "the input" else where


def _no_form(value: Any, where: str) -> InvalidInput:
    return InvalidInput(
        f"{where} holds a value of type {type(value).__name__}, which has no JSON form: convert it to numbers or text"
    )


def _has_bytes(value: Any) -> bool:
    return any(isinstance(item, (bytes, bytearray, memoryview)) for item in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _frame_with_bytes(payload: Any) -> Any:
    """The frame that ``mlflow.pyfunc`` makes of a list or dict: only a frame's columns carry base64."""
    import pandas as pd

    if isinstance(payload, Mapping) and not all(isinstance(value, (list, tuple)) for value in payload.values()):
        payload = [payload]
    try:
        return pd.DataFrame(payload if isinstance(payload, Mapping) else list(payload), dtype=object)
    except (ValueError, TypeError) as exc:
        raise InvalidInput(f"the input can't be made a frame, which bytes need: {' '.join(str(exc).split())}") from exc


def _is_pandas(value: Any, kind: str) -> bool:
    """Whether the value is a pandas object; nobody has one who has not imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, getattr(pandas, kind))
