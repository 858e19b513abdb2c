"""The option ``kpi``, from the command line and from Python."""

from __future__ import annotations

import json

import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.kpi import read_kpis

QUERY = 'visits{v="$deployment"}'
SOLD = {"queries": {"n": QUERY, "events": QUERY}, "better": "lower", "delta": 1.1}


def sold(deployment: str) -> tuple[float, ...]:
    return (10, 3)


def test_json_text_and_plain_values_mean_the_same() -> None:
    (kpi,) = read_kpis({"sold": SOLD})
    assert read_kpis(json.dumps({"sold": SOLD})) == (kpi,)
    assert (kpi.name, kpi.better, kpi.equivalence_margin, kpi.margin) == ("sold", "lower", 1.1, None)
    assert kpi.queries == SOLD["queries"]


def test_a_callable_is_a_kpi_of_its_own_or_of_a_name() -> None:
    assert read_kpis(sold)[0].name == "kpi"
    (named,) = read_kpis({"sold": sold})
    assert (named.name, named.call) == ("sold", sold)
    (with_more,) = read_kpis({"sold": {"call": sold, "better": "lower"}})
    assert (with_more.call, with_more.better) == (sold, "lower")


def test_nothing_is_no_kpi() -> None:
    assert read_kpis(None) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "is not JSON"),
        ([], "must be JSON of names"),
        ({"sold": 3}, "must be an object with queries"),
        ({"sold": {**SOLD, "worse": "lower"}}, "unknown key 'worse'"),
        ({"sold": {**SOLD, "numeric": True}}, "unknown key 'numeric'"),
        ({"sold": {"queries": ["n"]}}, "must be PromQL texts by part"),
        ({"sold": {**SOLD, "better": "up"}}, "higher or lower, not 'up'"),
        ({"sold": {**SOLD, "delta": "big"}}, "delta of 'sold'"),
        ({"errors": SOLD}, "taken by a built-in"),
    ],
)
def test_what_is_no_kpi_is_refused_by_name(value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_kpis(value)
