"""What is to be dropped from a payload is never in a record."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.serving.payloads import recorded_body, recorded_input, recorded_output, without_fields

SPLIT = {"dataframe_split": {"columns": ["age", "city"], "index": [0, 1], "data": [[41, "Rome"], [7, "Oslo"]]}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SPLIT, {"dataframe_split": {"columns": ["city"], "index": [0, 1], "data": [["Rome"], ["Oslo"]]}}),
        ({"dataframe_records": [{"age": 41, "city": "Rome"}]}, {"dataframe_records": [{"city": "Rome"}]}),
        ({"inputs": {"age": [41], "city": ["Rome"]}}, {"inputs": {"city": ["Rome"]}}),
        ({"instances": [{"person": {"age": 41}}]}, {"instances": [{"person": {}}]}),
        ({"inputs": {"Age": [41], " AGE ": [41], "city": ["Rome"]}}, {"inputs": {"city": ["Rome"]}}),
        (
            {"columns": [["all", "Age"], ["all", "city"]], "data": [[1, 2]]},
            {"columns": [["all", "city"]], "data": [[2]]},
        ),
        ({"inputs": [{"name": "AGE", "data": [41]}, {"name": "b"}]}, {"inputs": [{"name": "b"}]}),
        ({"predictions": [{"label": 1, "age": 41}]}, {"predictions": [{"label": 1}]}),
        ([1, "age", None, True], [1, "age", None, True]),
        ({"columns": ["age"], "data": "age"}, {"columns": ["age"], "data": "age"}),
        # A row of the wrong length has no columns to tell apart.
        ({"columns": ["age", "city"], "data": [[41], 41]}, {"columns": ["city"], "data": [None, None]}),
        # Column names need not be text in a body; they are compared as they would be written.
        ({"columns": [1, "city"], "data": [[41, "Rome"]]}, {"columns": [1, "city"], "data": [[41, "Rome"]]}),
    ],
)
def test_a_field_is_dropped_wherever_mlflow_puts_it(value, expected):
    assert without_fields(value, frozenset({"age"})) == expected


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=20,
)


def keys(value):
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys, value.values()), set())
    return set().union(*map(keys, value), set()) if isinstance(value, list) else set()


@given(value=JSON_VALUES, dropped=st.frozensets(st.sampled_from("abcd")))
def test_no_dropped_key_is_left_at_any_depth_and_the_value_is_untouched(value, dropped):
    before = copy.deepcopy(value)
    assert keys(without_fields(value, dropped)) == _kept(before, dropped)
    assert value == before


def _kept(value, dropped):
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in dropped}
        return set(kept) | set().union(*(_kept(item, dropped) for item in kept.values()), set())
    return set().union(*(_kept(item, dropped) for item in value), set()) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("body", "dropped", "expected"),
    [
        (b'{"predictions": [1]}', (), {"predictions": [1]}),
        (b"age,city\n41,Rome", (), "age,city\n41,Rome"),
        (b"\xff", (), "\ufffd"),
        (b"age,city\n41,Rome", ("age",), None),
        (b"{}", (), {}),
        (b"", (), ""),
    ],
)
def test_a_body_that_is_no_json_is_kept_as_text_or_not_at_all(body, dropped, expected):
    assert recorded_body(body, frozenset(dropped)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error_code": "BAD_REQUEST", "message": "Failed to predict data 'age 41'"}, {"error_code": "BAD_REQUEST"}),
        ({"detail": "age 41"}, None),
        ({"error_code": {"age": 41}}, None),
        ("age 41", None),
    ],
)
def test_an_errors_text_is_not_recorded_because_mlflow_quotes_the_request_in_it(body, expected):
    assert recorded_output(json.dumps(body).encode(), 400, frozenset()) == expected


def test_an_error_that_is_no_json_leaves_nothing():
    assert recorded_output(b"age 41", 500, frozenset()) is None


AGE = frozenset({"age"})


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [[41, "Rome"]]},
        {"inputs": [41]},
        {"inputs": 41},
        {"instances": [[41]]},
        {"dataframe_records": [[41]]},
        {"dataframe_split": {"data": [[41]]}},
        {"dataframe_split": {"columns": ["city"], "index": ["41 years"], "data": [["Rome"]]}},
        [[41]],
        41,
        {"messages": [{"content": "my age is 41"}]},
        {"inputs": {"city": ['{"Age": 41}']}},
    ],
)
def test_a_request_in_which_a_field_cannot_be_found_is_not_kept(body):
    text = json.dumps(body).encode()
    assert recorded_input(text, AGE) is None
    assert recorded_input(text, frozenset()) == body


@pytest.mark.parametrize("body", [b"age,city\n41,Rome\n", b"PAR1", b"{"])
def test_a_request_that_is_no_json_is_not_kept_where_fields_are_dropped(body):
    assert recorded_input(body, AGE) is None


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (
            {"dataframe_split": {"columns": ["Age", "city"], "index": [0], "data": [[41, "page"]]}},
            {"dataframe_split": {"columns": ["city"], "index": [0], "data": [["page"]]}},
        ),
        ({"inputs": {"x": [[1, 2]], "AGE": [41]}}, {"inputs": {"x": [[1, 2]]}}),
    ],
)
def test_what_is_left_of_a_request_is_kept(body, kept):
    assert recorded_input(json.dumps(body).encode(), AGE) == kept
