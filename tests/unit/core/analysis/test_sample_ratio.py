"""Sample-ratio mismatch."""

import json
import math

import pytest
from scipy.stats import dirichlet_multinomial, multinomial

from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput


def test_evidence_is_dirichlet_multinomial_over_multinomial():
    test = SampleRatioTest.of({"b": 20, "a": 70, "c": 10}).update({"a": 60, "b": 30, "c": 4})
    counts, shares = [60, 30, 4], [0.7, 0.2, 0.1]
    expected = dirichlet_multinomial.logpmf(counts, [70, 20, 10], 94) - multinomial.logpmf(counts, 94, shares)
    assert test.log_e_value == pytest.approx(expected, abs=1e-9)
    assert test.e_value == pytest.approx(math.exp(expected))


def test_periods_of_different_weights_multiply():
    first = SampleRatioTest.of({"a": 90, "b": 10}).update({"a": 880, "b": 120})
    second = SampleRatioTest.of({"a": 50, "b": 50}).update({"a": 490, "b": 510})
    both = first.reweighted({"a": 50, "b": 50}).update({"a": 490, "b": 510})
    assert both.log_e_value == pytest.approx(first.log_e_value + second.log_e_value)


def test_intended_shares_are_no_mismatch_and_a_lost_tenth_is_one():
    fine = SampleRatioTest.of({"a": 50, "b": 50})
    broken = fine
    for _ in range(20):
        fine = fine.update({"a": 502, "b": 498})
        broken = broken.update({"a": 500, "b": 450})
    assert not fine.mismatched()
    assert broken.mismatched()
    assert broken.p_value < 1e-4


def test_a_mismatch_once_seen_stays():
    test = SampleRatioTest.of({"a": 50, "b": 50}).update({"a": 400, "b": 100})
    for _ in range(30):
        test = test.update({"a": 500, "b": 500})
    assert test.mismatched()


def test_a_deployment_of_weight_zero_has_no_share():
    test = SampleRatioTest.of({"a": 100, "b": 0}).update({"a": 5, "b": 0})
    assert list(test.shares) == ["a"]
    assert test.log_e_value == pytest.approx(0.0)
    with pytest.raises(InvalidInput, match=r"requests on b, which has no weight: leave pinned, probe and mirrored"):
        test.update({"a": 5, "b": 1})


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": -1, "b": 2}])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(InvalidInput, match="weights"):
        SampleRatioTest.of(weights)


def test_negative_counts_and_bad_alpha_are_refused():
    test = SampleRatioTest.of({"a": 1})
    with pytest.raises(InvalidInput, match="negative"):
        test.update({"a": -1})
    with pytest.raises(InvalidInput, match="alpha"):
        test.mismatched(0.0)


def test_state_comes_back_equal():
    test = SampleRatioTest.of({"a": 90, "b": 10}).update({"a": 80}).reweighted({"a": 1, "b": 1}).update({"b": 3})
    assert from_json(SampleRatioTest, json.loads(json.dumps(to_json(test)))) == test


def through(test, looks, share, requests=1000):
    """The test as a release watches it, after looks of which each gave b this share."""
    for _ in range(looks):
        test = test.update({"a": round(requests * (1 - share)), "b": round(requests * share)}).watched()
    return test


def test_a_watched_mismatch_is_over_once_enough_requests_fit_again():
    halves = SampleRatioTest.of({"a": 50, "b": 50})
    refuted = through(halves, 1, 0.4)
    assert refuted.mismatched()
    assert refuted.counts == {}
    # Half-way to what was seen lies a share of 0.45; that it was half a request takes log(100) / KL(0.5 || 0.45).
    assert refuted.still_to_fit == math.ceil(math.log(100) / -math.log(2 * math.sqrt(0.45 * 0.55))) == 917
    almost = through(refuted, 9, 0.5, requests=100)
    assert (almost.mismatched(), almost.still_to_fit) == (True, 17)
    over = through(almost, 1, 0.5, requests=100)
    assert (over.mismatched(), over.still_to_fit, over.counts) == (False, 0, {"a": 500, "b": 500})
    assert through(over, 1, 0.4).mismatched(), "it is watched for further ones"


@pytest.mark.parametrize("share", [0.4, 0.44])
def test_a_watched_mismatch_that_goes_on_is_not_over(share):
    test = through(SampleRatioTest.of({"a": 50, "b": 50}), 5, 0.4)
    for _ in range(200):
        test = through(test, 1, share)
        assert test.mismatched()


def test_a_watched_mismatch_outlives_steps_and_a_time_of_one_deployment_alone():
    test = through(SampleRatioTest.of({"a": 95, "b": 5}), 2, 0.0)
    assert test.mismatched()
    test = test.reweighted({"a": 100, "b": 0})
    for _ in range(50):
        test = test.update({"a": 1000}).watched()
    assert (test.mismatched(), test.still_to_fit) == (True, 0)
    test = test.reweighted({"a": 75, "b": 25})
    assert test.still_to_fit > 0
    assert not through(test, 1, 0.25).mismatched()


def test_a_watched_mismatch_is_stored_and_that_of_an_earlier_version_is_read():
    refuted = through(SampleRatioTest.of({"a": 50, "b": 50}), 3, 0.4)
    assert from_json(SampleRatioTest, json.loads(json.dumps(to_json(refuted)))) == refuted
    before = {"shares": {"a": 0.5, "b": 0.5}, "counts": {}, "past_log_e": 300.0, "max_log_e": 301.0}
    test = from_json(SampleRatioTest, before)
    assert to_json(test) == before
    assert test.mismatched()
    test = through(test, 30, 0.5)
    assert not test.mismatched()
