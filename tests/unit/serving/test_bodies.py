"""What a caller sends to break a reader is the caller's fault, and is told apart before MLflow sees it."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.serving.bodies import MOST_DEPTH, RefusedBodyError, check_body, read_json

JSON = "application/json"


def nested(depth: int) -> bytes:
    return b'{"inputs": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b'{"inputs": [1] } trailing', "no JSON"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "309 digits"),
        (b'{"inputs": [-' + b"9" * 310 + b"]}", "309 digits"),
        (b'{"inputs": [2' + b"0" * 308 + b"]}", "beyond the range"),
        (b'{"inputs": [1e400]}', "beyond the range"),
        (b'{"inputs": [-1.5E+309]}', "beyond the range"),
        (b'{"inputs": [' + b"9" * 250 + b".5e99]}", "beyond the range"),
        (nested(100_000), "nested deeper"),
        (nested(MOST_DEPTH + 1), "nested deeper"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
        (b'{"inputs": [1], "inputs": [2]}', "a key twice"),
        (b'{"dataframe_records": [{"x": 1, "x": 2}]}', "a key twice"),
        (b'{"inputs": ["\xff"]}', "no UTF-8"),
        (b'{"inputs": ["\xed\xa0\x80"]}', "no UTF-8"),
        (b'{"inputs": ["\\ud800"]}', "surrogate"),
        ('{"inputs": [1]}'.encode("utf-16"), "no UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_without_a_word_of_it(body, said):
    with pytest.raises(RefusedBodyError, match=said) as refused:
        check_body(body, JSON)
    assert refused.value.status == 400
    assert "inputs" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [NaN, Infinity, -Infinity]}',
        b'\xef\xbb\xbf{"inputs": [1]}',
        b'{"inputs": [1e308, -1e-400, 123456789012345678901234567890]}',
        b'{"inputs": ["\\ud83d\\ude00", "1e400", "' + b"9" * 5000 + b'"]}',
        b'{"inputs": [' + b"0.1" + b"0" * 400 + b"]}",
        nested(MOST_DEPTH),
        b"[1]",
    ],
)
def test_what_json_of_mlflow_can_say_passes(body):
    check_body(body, JSON + "; charset=utf-8")


def test_without_a_content_type_nobody_knows_what_a_body_is():
    with pytest.raises(RefusedBodyError) as refused:
        check_body(b"{}", None)
    assert refused.value.status == 415


def test_only_text_is_asked_to_be_text():
    with pytest.raises(RefusedBodyError, match="no UTF-8"):
        check_body(b"a\n\xff\n", "text/csv")
    check_body(b"a\n1\n", "text/csv")
    check_body(b"PAR1\xff", "application/x-parquet")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_values)
def test_every_value_is_read_as_json_reads_it(value):
    text = json.dumps(value)
    assert read_json(text.encode()) == json.loads(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    with suppress(RefusedBodyError):
        read_json(body)
