"""Intervals and numbers that JSON can hold."""

import math

import pytest

from mlflow_istio.core.analysis.interval import Interval, bounded_exp, crossing, finite
from mlflow_istio.core.analysis.packing import pack_floats, unpack_floats
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.errors import InvalidInput


def test_ends_count_as_inside():
    interval = Interval(lower=1.0, upper=2.0, estimate=1.5)
    assert [interval.contains(value) for value in (0.9, 1.0, 2.0, 2.1)] == [False, True, True, False]


@pytest.mark.parametrize("ends", [(2.0, 1.0), (math.nan, 1.0)])
def test_ends_in_the_wrong_order_are_refused(ends):
    with pytest.raises(InvalidInput, match="lower <= upper"):
        Interval(lower=ends[0], upper=ends[1], estimate=None)


def test_a_falling_function_swaps_the_ends():
    interval = Interval(lower=1.0, upper=4.0, estimate=2.0).mapped(lambda value: 1 / value)
    assert interval == Interval(lower=0.25, upper=1.0, estimate=0.5)
    assert Interval(lower=0.0, upper=1.0, estimate=None).mapped(math.exp).estimate is None


def test_json_has_no_infinity():
    assert to_json(Interval(lower=-math.inf, upper=math.inf, estimate=None)) == {
        "lower": None,
        "upper": None,
        "estimate": None,
    }
    assert [finite(value) for value in (1.0, math.inf, math.nan, None)] == [1.0, None, None, None]


def test_exp_beyond_a_double_is_infinite():
    assert bounded_exp(1000.0) == math.inf
    assert bounded_exp(1.0) == math.e


def test_crossing_finds_the_zero_or_says_it_lies_beyond():
    assert crossing(lambda x: 2 - x, 0.0, 10.0, beyond=math.inf) == pytest.approx(2.0)
    assert crossing(lambda x: 2 - x, 0.0, 1.0, beyond=math.inf) == math.inf


def test_crossing_where_rounding_left_nothing_positive_is_where_it_began():
    assert crossing(lambda point: -1e-3 - abs(point - 2), 2.0, 9.0, beyond=math.inf) == 2.0


def test_packed_numbers_come_back_bit_by_bit():
    values = (0.1, -1e-300, 1e300, 0.0, 1 / 3)
    assert unpack_floats(pack_floats(values), {}) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [("%%%", "must be packed numbers"), ("AAAA", "must be packed numbers"), (5, "must be packed numbers")],
)
def test_text_that_holds_other_numbers_is_refused(text, message):
    with pytest.raises(InvalidInput, match=message):
        unpack_floats(text, {})


def test_a_verdict_has_one_of_four_words_and_a_reason():
    verdict = Verdict(word="hold", reason="Waiting.", evidence={"n": 1})
    assert to_json(verdict) == {"word": "hold", "reason": "Waiting.", "evidence": {"n": 1}}
    with pytest.raises(InvalidInput, match="advance, hold, rollback, inconclusive"):
        Verdict(word="promote", reason="x")
    with pytest.raises(InvalidInput, match="needs its reason"):
        Verdict(word="hold", reason="")
