"""A/B/n outcomes."""

import json
import math

import numpy as np
import pytest

from mlflow_istio.core.analysis.arms import Comparison, compare_means, compare_rates, judge_arms
from mlflow_istio.core.analysis.interval import Interval
from mlflow_istio.core.analysis.means import MeanDifference, Moments
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.errors import InvalidInput

MATCH = SampleRatioTest.of({"a": 1, "b": 1}).update({"a": 500, "b": 500})
MISMATCH = SampleRatioTest.of({"a": 1, "b": 1}).update({"a": 900, "b": 100})


def gain(arm, lower, upper):
    interval = Interval(lower=lower, upper=upper, estimate=(lower + upper) / 2)
    return Comparison(arm=arm, gain=interval, effect=interval, measure="difference of means")


def judge(*comparisons, **options):
    return judge_arms(comparisons, control="a", **{"equivalence_margin": 1.0, "sample_ratio": MATCH, **options})


@pytest.mark.parametrize(
    ("comparisons", "outcome", "winner", "reason"),
    [
        pytest.param([gain("b", 0.1, 0.5)], "winner", "b", "b is better than a", id="better"),
        pytest.param(
            [gain("b", 0.1, 0.5), gain("c", 0.2, 2.0), gain("d", -1, 1)],
            "winner",
            "c",
            "b beat it too",
            id="two better",
        ),
        pytest.param(
            [gain("b", -2, -0.1), gain("c", -1, -0.2)], "winner", "a", "than every challenger", id="all worse"
        ),
        pytest.param([gain("b", -0.9, 0.9)], "no difference", None, "No difference larger than 1", id="equal"),
        pytest.param(
            [gain("b", -0.9, 0.9), gain("c", -3, -1)], "no difference", None, "between a and b:", id="equal or worse"
        ),
        pytest.param([gain("b", -1.5, 0.9)], "inconclusive", None, "Not enough evidence", id="perhaps much worse"),
        pytest.param([gain("b", -0.5, 1.5)], "inconclusive", None, "Not enough evidence", id="perhaps much better"),
        pytest.param(
            [gain("b", -math.inf, math.inf)], "inconclusive", None, "unbounded to unbounded", id="nothing known"
        ),
        pytest.param([gain("b", -0.5, 0.0)], "no difference", None, "No difference", id="not proven worse"),
    ],
)
def test_outcome_of_a_look(comparisons, outcome, winner, reason):
    result = judge(*comparisons)
    assert (result.outcome, result.winner) == (outcome, winner)
    assert reason in result.reason
    json.dumps(result.evidence, allow_nan=False)


def test_a_mismatch_comes_before_every_outcome():
    result = judge(gain("b", 0.1, 0.5), sample_ratio=MISMATCH)
    assert (result.outcome, result.winner) == ("inconclusive", None)
    assert "sample-ratio mismatch" in result.reason
    assert result.evidence["sample_ratio"]["mismatch"] is True


def test_arms_chosen_by_the_caller_have_no_winner():
    result = judge(gain("b", 0.1, 0.5), randomised=False, sample_ratio=None)
    assert result.outcome == "inconclusive"
    assert "weren't assigned at random" in result.reason
    assert "b against a: difference of means 0.1 to 0.5" in result.reason


@pytest.mark.parametrize(("higher_is_better", "winner"), [(True, "b"), (False, "c")])
def test_rates_are_compared_at_alpha_over_the_number_of_challengers(higher_is_better, winner):
    tests = {
        "b": RateTest().update(300, 1000, 200, 1000),
        "c": RateTest().update(110, 1000, 200, 1000),
    }
    comparisons = compare_rates(tests, alpha=0.1, higher_is_better=higher_is_better)
    expected = tests["b"].confidence_sequence(0.05)
    assert comparisons[0].effect == expected
    assert comparisons[0].gain.upper == pytest.approx(
        math.log(expected.upper) if higher_is_better else -math.log(expected.lower)
    )
    assert judge_arms(comparisons, control="a", equivalence_margin=1.05, sample_ratio=MATCH).winner == winner


def test_an_odds_ratio_with_an_open_end_stays_open():
    comparison = compare_rates({"b": RateTest()}, higher_is_better=True)[0]
    assert (comparison.gain.lower, comparison.gain.upper) == (-math.inf, math.inf)


def test_no_difference_of_rates_is_symmetric_in_the_odds_ratio():
    test = RateTest()
    for _ in range(100):
        test = test.update(5000, 50_000, 5000, 50_000)
    result = judge_arms(
        compare_rates({"b": test}, higher_is_better=True), control="a", equivalence_margin=1.02, sample_ratio=MATCH
    )
    assert result.outcome == "no difference"


@pytest.mark.parametrize(("worse", "winner"), [("lower", "b"), ("higher", "a")])
def test_means_are_compared_in_the_direction_of_the_kpi(worse, winner):
    rng = np.random.default_rng(5)
    difference = MeanDifference(worse=worse, tightest_at=2000)
    for _ in range(20):
        difference = difference.update(Moments.of(rng.normal(0.5, 1, 50)), Moments.of(rng.normal(0, 1, 50)))
    comparisons = compare_means({"b": difference})
    assert comparisons[0].effect == difference.confidence_sequence(0.05)
    assert judge_arms(comparisons, control="a", equivalence_margin=0.1, sample_ratio=MATCH).winner == winner


def test_a_binary_kpi_as_a_mean_is_a_difference_of_rates():
    moments = [Moments(count=1000, total=float(events), squares=float(events)) for events in (300, 200)]
    effect = compare_means({"b": MeanDifference(worse="lower").update(*moments)})[0].effect
    assert effect.estimate == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compare_rates({}, higher_is_better=True), "at least one challenger"),
        (lambda: compare_means({}), "at least one challenger"),
        (lambda: compare_means({"b": MeanDifference()}, alpha=0.0), "alpha"),
        (lambda: judge(), "one measure"),
        (lambda: judge(gain("b", 0, 1), equivalence_margin=0.0), "delta"),
        (
            lambda: judge_arms(
                compare_rates({"b": RateTest()}, higher_is_better=True),
                control="a",
                equivalence_margin=0.9,
                sample_ratio=None,
            ),
            "delta",
        ),
        (
            lambda: judge(gain("b", 0, 1), *compare_rates({"c": RateTest()}, higher_is_better=True)),
            "one measure",
        ),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()
