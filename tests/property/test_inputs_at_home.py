"""What a model sees through MLflow's scoring server is what it sees at home, in ``mlflow.pyfunc``, whatever frame is sent.

The other side is MLflow's own: ``mlflow.pyfunc.scoring_server.invocations`` parses the body by the model's signature, and
``PyFuncModel.predict`` enforces it, as they do in a model server. What MLflow itself changes on the way is in docs/mlflow.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.types import ColSpec, Schema

from mlflow_istio.calls.request_body import body_of
from tests.support.pyfunc import ModelSignature, at_home, served, signature_of

FLOATS = st.floats(width=64) | st.sampled_from([2e-12, 0.12345678901234567, -0.0, math.nan, math.inf, -math.inf])
TIMES = st.integers(-(2**62), 2**62).map(lambda ns: np.datetime64(ns, "ns")) | st.just(np.datetime64("NaT", "ns"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["000123", "NaN", "2020-01-01", "null"]
)
LISTS = st.lists(st.floats(allow_nan=False), min_size=1, max_size=3)
NESTED = st.fixed_dictionaries({"a": st.floats(allow_nan=False), "b": st.fixed_dictionaries({"c": TEXTS})})

KINDS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "float64": (FLOATS, "float64"),
    "float32": (st.floats(width=32), "float32"),
    "int64": (st.integers(-(2**63), 2**63 - 1), "int64"),
    "int32": (st.integers(-(2**31), 2**31 - 1), "int32"),
    "truth": (st.booleans(), "bool"),
    "text": (TEXTS | st.none(), None),
    "time": (TIMES, "datetime64[ns]"),
    "bytes": (st.binary(max_size=6), object),
    "list": (LISTS, object),
    "nested": (NESTED, object),
}


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    names = draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(1, 4))
    columns = {}
    for name in names:
        values, dtype = KINDS[draw(st.sampled_from(sorted(KINDS)))]
        columns[name] = pd.Series(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=dtype)
    if draw(st.booleans()):
        index = draw(st.lists(st.integers(-5, 5) | TEXTS, min_size=rows, max_size=rows, unique=True))
        return pd.DataFrame(columns).set_axis(pd.Index(index, dtype=object), axis=0)
    return pd.DataFrame(columns)


def bits(frame: pd.DataFrame) -> list[Any]:
    """Every value so that NaN equals itself and -0.0 does not equal 0.0."""
    return [(str(name), [repr(value) for value in frame[name].tolist()]) for name in frame]


def tensor(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], str]:
    """Type, shape and values; which of the many NaNs it is gets lost, as in any text."""
    return str(array.dtype), array.shape, repr(array.tolist())


@given(frames())
def test_a_frame_arrives_as_it_is_at_home(frame: pd.DataFrame) -> None:
    signature = signature_of(frame)
    home, there = at_home(frame, signature), served(body_of(frame), signature)
    assert bits(there) == bits(home)
    assert [str(dtype) for dtype in there.dtypes] == [str(dtype) for dtype in home.dtypes]
    assert there.index.tolist() == home.index.tolist()


@given(frames())
def test_without_a_signature_every_value_that_json_has_arrives(frame: pd.DataFrame) -> None:
    frame = frame[[name for name in frame if frame[name].dtype.kind in "fib"]]
    there = served(body_of(frame), None)
    assert bits(there) == bits(frame)


ARRAYS = st.sampled_from(["float64", "float32", "int64", "int8", "uint64", "bool"]).flatmap(
    lambda dtype: st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda shape: st.lists(
            {"f": st.floats(width=32), "i": st.integers(-128, 127), "u": st.integers(0, 2**64 - 1), "b": st.booleans()}[
                np.dtype(dtype).kind
            ],
            min_size=shape[0] * shape[1],
            max_size=shape[0] * shape[1],
        ).map(lambda values: np.array(values, dtype=dtype).reshape(shape))
    )
)


@given(ARRAYS)
def test_a_tensor_arrives_with_its_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    signature = signature_of(array)
    there = served(body_of(array), signature)
    assert tensor(there) == tensor(array)


@given(ARRAYS, ARRAYS)
def test_named_tensors_arrive(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> None:
    data = {"input": first, "b": second}
    there = served(body_of(data), signature_of(data))
    assert {name: tensor(array) for name, array in there.items()} == {
        name: tensor(array) for name, array in data.items()
    }


def test_a_sparse_matrix_arrives_dense() -> None:
    matrix = scipy.sparse.csr_matrix([[0.0, 0.1], [1e-30, 0.0]])
    there = served(body_of(matrix), signature_of(matrix.toarray()))
    assert there.tolist() == [[0.0, 0.1], [1e-30, 0.0]]


@pytest.mark.parametrize(
    ("data", "column"),
    [
        (["a", "b"], ColSpec("string")),
        ([{"a": 1.5}, {"a": 2e-12}], ColSpec("double", "a")),
        ({"a": [1.5, 2e-12]}, ColSpec("double", "a")),
        ({"a": [b"\xff", b"hi"]}, ColSpec("binary", "a")),
        ([{"a": b"\xff"}], ColSpec("binary", "a")),
        (np.array([0.1, 2.0]), ColSpec("double")),
        (pd.Series([0.1, 2.0], name="a"), ColSpec("double", "a")),
        ({"a": np.array(["2020-01-01T00:00:00.123456789"], dtype="M8[ns]")}, ColSpec("datetime", "a")),
    ],
)
def test_lists_dicts_and_series_arrive_as_the_frame_that_mlflow_makes_of_them(data: Any, column: ColSpec) -> None:
    signature = ModelSignature(Schema([column]))
    assert bits(served(body_of(data), signature)) == bits(at_home(data, signature))


def test_times_with_a_zone_are_refused_there_as_they_are_at_home() -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2020-01-01T00:00:00.123456789"]).tz_localize("Europe/Berlin")})
    signature = ModelSignature(Schema([ColSpec("datetime", "t")]))
    for ask in (lambda: at_home(frame, signature), lambda: served(body_of(frame), signature)):
        with pytest.raises(MlflowException, match="timezone-naive"):
            ask()
