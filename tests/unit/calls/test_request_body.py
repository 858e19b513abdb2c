"""Inputs become bodies of MLflow's scoring server without losing a digit, or are refused in one line that names the column."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
import scipy.sparse

from mlflow_istio.calls.request_body import CSV, JSON, PARQUET, RequestBody, body_of, read_body
from mlflow_istio.errors import InvalidInput


@dataclasses.dataclass
class Message:
    role: str
    content: str


class Chat(pydantic.BaseModel):
    messages: list[dict[str, str]]


class TensorOfAnotherLibrary:
    """As torch and JAX have it: values come out by ``tolist``."""

    def tolist(self) -> list[float]:
        return [0.1, 1e-30]


def document(payload: Any) -> Any:
    body = body_of(payload)
    assert body.content_type == JSON
    return json.loads(body.content)


def cells(frame: pd.DataFrame) -> list[Any]:
    return [row[0] for row in document(frame)["dataframe_split"]["data"]]


BERLIN = pd.DatetimeIndex(["2020-03-29T01:30:00.123456789", "2020-03-29T03:30:00"]).tz_localize("Europe/Berlin")

COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "digits": ([2e-12, 0.12345678901234567, 1e308, 5e-324], [2e-12, 0.12345678901234567, 1e308, 5e-324]),
    "float32": (np.array([0.1, 16777217], dtype="float32"), [0.10000000149011612, 16777216.0]),
    "float16": (np.array([0.1], dtype="float16"), [0.0999755859375]),
    "large whole numbers": ([2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
    "uint64": (np.array([2**64 - 1], dtype="uint64"), [2**64 - 1]),
    "beyond any dtype": ([2**100], [2**100]),
    "truth": ([True, False], [True, False]),
    "text": (["000123", "é\n\"'", "NaN", ""], ["000123", "é\n\"'", "NaN", ""]),
    "nothing": ([None, "a"], [None, "a"]),
    "nullable": (pd.array([1, None], dtype="Int64"), [1, None]),
    "nullable truth": (pd.array([True, None], dtype="boolean"), [True, None]),
    "categories": (pd.Categorical(["b", "a"], categories=["a", "b"]), ["b", "a"]),
    "sparse": (pd.arrays.SparseArray([0.0, 0.1]), [0.0, 0.1]),
    "nanoseconds beside whole seconds": (
        pd.to_datetime(["2020-01-01", "2020-01-01T00:00:00.123456789", None], format="ISO8601"),
        ["2020-01-01T00:00:00.000000000", "2020-01-01T00:00:00.123456789", None],
    ),
    "times with zone, over a change of the clock": (
        BERLIN,
        ["2020-03-29T01:30:00.123456789+01:00", "2020-03-29T03:30:00.000000000+02:00"],
    ),
    "years that nanoseconds can't count": (np.array(["3000-01-01"], dtype="M8[s]"), ["3000-01-01T00:00:00.000000000"]),
    "Python's times": (
        pd.Series([datetime.datetime(2020, 1, 1, 2, 3, 4, 5), datetime.date(2020, 1, 2)], dtype=object),
        ["2020-01-01T02:03:04.000005000", "2020-01-02"],
    ),
    "bytes": ([b"hi", b"\xff\x00"], ["aGk=", "/wA="]),
    "nested": ([{"a": [np.float32(0.5), np.int64(3)], "b": None}], [{"a": [0.5, 3], "b": None}]),
    "arrays": ([np.array([1e-30, 2.0]), np.array([])], [[1e-30, 2.0], []]),
    "numpy scalars": (
        pd.Series([np.float64(0.1), np.int8(3), np.bool_(True), np.datetime64("2020-01-01")], dtype=object),
        [0.1, 3, True, "2020-01-01T00:00:00.000000000"],
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_arrives_as_it_is(name: str) -> None:
    given, wanted = COLUMNS[name]
    assert cells(pd.DataFrame({"x": given})) == wanted


def test_what_is_not_finite_stays_so() -> None:
    found = cells(pd.DataFrame({"x": [np.nan, np.inf, -np.inf, -0.0]}))
    assert repr(found) == "[nan, inf, -inf, -0.0]"


INPUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a series is a frame with one column": (
        pd.Series([1.5], name="x", index=[7]),
        {"dataframe_split": {"columns": ["x"], "index": [7], "data": [[1.5]]}},
    ),
    "a frame keeps its index and labels that are numbers": (
        pd.DataFrame([[1, 2]], index=["i"], columns=np.array([0, 1])),
        {"dataframe_split": {"columns": [0, 1], "index": ["i"], "data": [[1, 2]]}},
    ),
    "two columns of one name": (
        pd.DataFrame([[1, "a"]], columns=["x", "x"]),
        {"dataframe_split": {"columns": ["x", "x"], "index": [0], "data": [[1, "a"]]}},
    ),
    "rows without columns": (
        pd.DataFrame(index=[1, 2]),
        {"dataframe_split": {"columns": [], "index": [1, 2], "data": [[], []]}},
    ),
    "columns without rows": (pd.DataFrame({"x": []}), {"dataframe_split": {"columns": ["x"], "index": [], "data": []}}),
    "an array": (np.array([[1e-30, 2.0]]), {"inputs": [[1e-30, 2.0]]}),
    "an array of times": (
        np.array(["2020-01-01T00:00:00.000000001", "NaT"], dtype="M8[ns]"),
        {"inputs": ["2020-01-01T00:00:00.000000001", None]},
    ),
    "an array of bytes": (np.array([b"hi"]), {"inputs": ["hi"]}),
    "an array without dimensions": (np.array(0.1), {"inputs": 0.1}),
    "a numpy scalar": (np.float32(0.1), {"inputs": 0.10000000149011612}),
    "a sparse matrix": (scipy.sparse.csr_matrix([[0.0, 0.1]]), {"inputs": [[0.0, 0.1]]}),
    "a sparse array of coordinates": (scipy.sparse.coo_array([[0.0, 0.1]]), {"inputs": [[0.0, 0.1]]}),
    "a tensor of another library": (TensorOfAnotherLibrary(), {"inputs": [0.1, 1e-30]}),
    "a list of texts": (["a", "b"], {"inputs": ["a", "b"]}),
    "one text": ("a", {"inputs": "a"}),
    "a tuple": ((1, 2), {"inputs": [1, 2]}),
    "a dict of columns": ({"x": [1, 2], "y": np.array([0.1])}, {"inputs": {"x": [1, 2], "y": [0.1]}}),
    "a dict of tensors, one by the name of a chat's key": (
        {"input": np.array([[1.0]])},
        {"inputs": {"input": [[1.0]]}},
    ),
    "records": ([{"x": 1.5, "y": "a"}], {"inputs": [{"x": 1.5, "y": "a"}]}),
    "a body": (
        {"dataframe_records": [{"x": np.float64(0.1)}], "params": {"k": np.int64(3)}},
        {"dataframe_records": [{"x": 0.1}], "params": {"k": 3}},
    ),
    "a chat": ({"messages": [{"role": "user", "content": "hi"}]}, {"messages": [{"role": "user", "content": "hi"}]}),
    "a chat as a pydantic model": (Chat(messages=[{"role": "user"}]), {"messages": [{"role": "user"}]}),
    "pydantic models in a list": ([Chat(messages=[])], {"inputs": [{"messages": []}]}),
    "a dataclass": ([Message(role="user", content="hi")], {"inputs": [{"role": "user", "content": "hi"}]}),
    "bytes in columns": (
        {"b": [b"hi", b"yo"], "n": [1, 2]},
        {"dataframe_split": {"columns": ["b", "n"], "index": [0, 1], "data": [["aGk=", 1], ["eW8=", 2]]}},
    ),
    "bytes in records": (
        [{"b": b"hi", "n": 1}],
        {"dataframe_split": {"columns": ["b", "n"], "index": [0], "data": [["aGk=", 1]]}},
    ),
    "bytes in one record": (
        {"b": b"hi", "n": 1},
        {"dataframe_split": {"columns": ["b", "n"], "index": [0], "data": [["aGk=", 1]]}},
    ),
    "bytes alone": (b"hi", {"dataframe_split": {"columns": [0], "index": [0], "data": [["aGk="]]}}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_has_the_form_that_mlflow_gives_it(name: str) -> None:
    given, wanted = INPUTS[name]
    assert document(given) == wanted


def cyclic() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


REFUSED: dict[str, tuple[Any, str]] = {
    "a decimal": (pd.DataFrame({"price": [decimal.Decimal("1.1")]}), "column 'price' holds a value of type Decimal"),
    "a duration": (pd.DataFrame({"gap": pd.to_timedelta([1])}), "column 'gap' holds a value of type Timedelta"),
    "a period": (pd.DataFrame({"month": pd.period_range("2020", periods=1, freq="M")}), "column 'month'.* Period"),
    "an interval": (pd.DataFrame({"range": [pd.Interval(0, 1)]}), "column 'range'.* Interval"),
    "a complex number": (pd.DataFrame({"z": [1j]}), "column 'z'.* complex"),
    "a set": (pd.DataFrame({"tags": [{"a"}]}), "column 'tags'.* set"),
    "bytes inside a value": (pd.DataFrame({"o": [{"raw": b"x"}]}), "column 'o' holds bytes among other values"),
    "a key that is no text": (pd.DataFrame({"o": [{1: "x"}]}), "column 'o' has the key 1"),
    "a value in a dict of columns": ({"x": [1], "y": {"a", "b"}}, "column 'y'.* set"),
    "an array of durations": (np.array([1], dtype="m8[s]"), "the input holds timedelta64"),
    "an array of records": (np.zeros(1, dtype=[("a", "f8")]), "the input holds"),
    "an array of bytes outside ASCII": (np.array([b"\xff"]), "outside ASCII"),
    "a number finer than a double": (np.array([np.longdouble(1) / 3]), "float128|longdouble"),
    "columns of several levels": (
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        "several levels",
    ),
    "an index of several levels": (pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])), "reset_index"),
    "a label that is a time": (pd.DataFrame([[1]], columns=[pd.Timestamp("2020")]), "Timestamp.* make it text"),
    "a frame in a body": ({"inputs": pd.DataFrame({"x": [1]})}, "'inputs' holds a DataFrame"),
    "itself": (cyclic(), "nested too deep"),
    "more digits than Python writes": ([10**5000], "more digits than Python writes out.* send it as text"),
    "bytes in columns of different lengths": ({"b": [b"x"], "n": [1, 2]}, "can't be made a frame"),
    "a function": (len, "type builtin_function_or_method"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_json_form_is_one_line_that_names_it(name: str) -> None:
    given, words = REFUSED[name]
    with pytest.raises(InvalidInput, match=words) as refused:
        body_of(given)
    assert "\n" not in refused.value.message


SPLIT = '{"columns": ["x"], "data": [[1]]}'
LONG = '[{"x": 0.12345678901234567890}]'

FILES: dict[str, tuple[str, str]] = {
    "records": ('[{"x": 1}]', '{"dataframe_records": [{"x": 1}]}'),
    "a body": ('{"dataframe_split": {"columns": ["x"], "data": [[1]]}}', ""),
    "a body of tensors": ('{"instances": [[1.0]]}', ""),
    "a chat": ('{"messages": []}', ""),
    "a frame in split form": (SPLIT, f'{{"dataframe_split": {SPLIT}}}'),
    "a list of texts": ('["a", "b"]', '{"inputs": ["a", "b"]}'),
    "a tensor": ("[[1.0, NaN], [2e-12, 1]]", '{"inputs": [[1.0, NaN], [2e-12, 1]]}'),
    "columns": ('{"x": [1, 2]}', '{"inputs": {"x": [1, 2]}}'),
    "one text": ('"a"', '{"inputs": "a"}'),
    "digits that Python would round": (LONG, f'{{"dataframe_records": {LONG}}}'),
    "a mark of the byte order": ('\ufeff["a"]', '{"inputs": ["a"]}'),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_takes_every_form_that_mlflows_server_takes(tmp_path: Path, name: str) -> None:
    text, wanted = FILES[name]
    (tmp_path / "in.json").write_text(text, encoding="utf-8")
    assert read_body(str(tmp_path / "in.json")) == RequestBody(content=(wanted or text).encode())


def test_a_file_that_is_no_json_is_sent_as_what_it_is(tmp_path: Path) -> None:
    table, other = tmp_path / "in.csv", tmp_path / "in.data"
    for file in (table, other):
        file.write_text("x,y\n1,a\n")
    assert read_body(str(table)) == RequestBody(content=b"x,y\n1,a\n", content_type=CSV)
    assert read_body(str(other), "csv").content_type == CSV
    assert read_body(str(other), "parquet").content_type == PARQUET


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ("x,y\n1,2\n", "ends in .csv"), ("null", "nothing to score"), ("[]", "nothing to score")],
)
def test_a_file_that_cant_be_sent_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "in.json").write_text(text)
    with pytest.raises(InvalidInput, match=words) as refused:
        read_body(str(tmp_path / "in.json"))
    assert "\n" not in refused.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.json' can't be read"):
        read_body(str(tmp_path / "gone.json"))
