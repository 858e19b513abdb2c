"""Guards, promotion bounds and the verdict they give."""

import json
import math

import numpy as np
import pytest

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.decision import decide
from mlflow_istio.core.analysis.guards import Guard, combine
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference, Moments
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.rate_test import DRIFT_ASSUMPTION, RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.errors import InvalidInput


def repeated(test, times, *counts):
    for _ in range(times):
        test = test.update(*counts)
    return test


GOOD = repeated(RateTest(), 40, 10, 1000, 90, 9000)
BAD = repeated(RateTest(), 10, 50, 1000, 90, 9000)
FEW = repeated(RateTest(), 1, 0, 20, 2, 180)
MISMATCH = repeated(SampleRatioTest.of({"v1": 50, "v2": 50}), 1, {"v1": 900, "v2": 500})
MATCH = repeated(SampleRatioTest.of({"v1": 90, "v2": 10}), 1, {"v1": 905, "v2": 95})


def bound(upper=1.1, allowed=1.25):
    return PromotionBound(name="errors", measure="odds ratio", upper=upper, allowed=allowed)


def test_each_guard_has_its_share_of_alpha_and_the_strongest_is_named():
    guards = [Guard(name="errors", log_e=math.log(30), weight=3.0), Guard(name="latency", log_e=math.log(50))]
    combined = combine(guards)
    assert combined.e_value == pytest.approx(0.75 * 30)
    assert combined.leading.name == "errors"
    assert combined.reaches(0.05)
    assert not combined.reaches(0.04)


def test_releases_of_the_first_rules_go_on_by_the_weighted_mean():
    guards = [Guard(name="errors", log_e=math.log(30), weight=3.0), Guard(name="latency", log_e=math.log(50))]
    combined = combine(guards, averaged=True)
    assert combined.e_value == pytest.approx(0.75 * 30 + 0.25 * 50)
    assert combined.leading.name == "errors"
    assert not combined.reaches(0.02)


def test_a_guard_with_impossible_data_costs_only_its_share():
    combined = combine([Guard(name="errors", log_e=-math.inf), Guard(name="latency", log_e=math.log(10))])
    assert combined.e_value == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: combine([]), "at least one"),
        (lambda: combine([Guard(name="a", log_e=0.0)] * 2), "each name once"),
        (lambda: Guard(name="a", log_e=math.nan), "'a'"),
        (lambda: Guard(name="a", log_e=0.0, weight=0.0), "weight"),
        (lambda: decide([]), "at least one"),
        (lambda: decide([FEW.guard("errors", alpha=0.05)], promotion=[]), "at least one bound"),
        (lambda: decide([FEW.guard("errors", alpha=0.05)], no_data="pass"), "no_data"),
        (lambda: decide([FEW.guard("errors", alpha=0.05)], alpha=1.0), "alpha"),
        (lambda: bound(upper=math.nan), "errors"),
        (lambda: bound(allowed=math.inf), "errors"),
        (lambda: NonInferiorityMargin(odds_ratio=1.0), "above 1"),
        (lambda: NonInferiorityMargin(rate_difference=0.0), "between 0 and 1"),
        (lambda: NonInferiorityMargin(difference=0.0), "positive"),
        (lambda: GOOD.bounds("errors", NonInferiorityMargin(rate_difference=0.1), alpha=2), "alpha"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


@pytest.mark.parametrize(
    ("test", "summary"),
    [
        (BAD, "5% of 10,000 requests on the candidate against 1% of 90,000 requests on the stable (odds at least "),
        (repeated(RateTest(), 9, 0, 1000, 100, 9000), "0% of 9,000 requests on the candidate against 1.11% of"),
        (RateTest(), "no requests on the candidate against no requests on the stable"),
    ],
)
def test_a_rate_guard_says_what_it_saw(test, summary):
    guard = test.guard("errors", alpha=0.05)
    assert guard.summary.startswith(summary)
    assert guard.log_e == test.log_e_value
    assert guard.figures["p_value"] == test.p_value


def test_an_upper_end_is_told_where_there_is_no_lower_one():
    assert "(odds at most " in repeated(RateTest(), 9, 0, 1000, 100, 9000).guard("errors", alpha=0.05).summary


def test_a_latency_guard_speaks_of_its_strongest_edge():
    edges = (10.0, 50.0, math.inf)
    slow = Buckets(edges=edges, counts=(50, 60, 100))
    usual = Buckets(edges=edges, counts=(500, 990, 1000))
    test = repeated(LatencyTest.at([10.0, 50.0]), 3, slow, usual)
    guard = test.guard("latency", alpha=0.05)
    assert guard.summary.startswith("slower than 50 ms: 40% of 300 requests on the candidate against 1% of 3,000")
    assert set(guard.figures["odds_ratio_by_edge_ms"]) == {"10", "50"}


def test_an_objective_guard_names_its_limit():
    guard = ObjectiveTest(limit=0.01).update(5, 100).guard("errors", alpha=0.05)
    assert guard.summary == "5% of 100 requests on the candidate where at most 1% is allowed"


def test_a_mean_guard_tells_the_difference_or_that_there_is_none_to_tell():
    assert "too few" in MeanDifference().guard("basket", alpha=0.05).summary
    test = MeanDifference().update(Moments.of([1.0, 2.0, 3.0]), Moments.of([2.0, 2.0, 5.0]))
    assert test.guard("basket", alpha=0.05).summary.startswith("the candidate's mean differs by -1 (between ")


def the_bound(test, **allowed):
    (single,) = test.bounds("errors", NonInferiorityMargin(**allowed), alpha=0.05)
    return single


def test_an_odds_ratio_is_bounded_by_the_upper_end_of_its_sequence():
    assert the_bound(GOOD, odds_ratio=1.5).upper == GOOD.confidence_sequence(0.05).upper
    assert the_bound(GOOD, odds_ratio=1.5).met
    assert not the_bound(BAD, odds_ratio=1.5).met
    assert the_bound(RateTest(), odds_ratio=1.5).describe() == "errors: odds ratio not bounded yet (allowed 1.5)"


def test_where_nothing_is_allowed_nothing_is_bounded_but_what_has_a_limit():
    for test in (GOOD, LatencyTest.at([5.0]), MeanDifference()):
        assert test.bounds("errors", NonInferiorityMargin(), alpha=0.05) == ()
    (single,) = ObjectiveTest(limit=0.01).bounds("slo", NonInferiorityMargin(), alpha=0.05)
    assert (single.measure, single.allowed, single.met) == ("rate", 0.01, False)


def test_latency_is_bounded_at_every_edge():
    bounds = LatencyTest.at([10.0, 50.0]).bounds("latency", NonInferiorityMargin(odds_ratio=1.5), alpha=0.05)
    assert [single.name for single in bounds] == ["latency over 10 ms", "latency over 50 ms"]
    assert not any(single.met for single in bounds)


def test_difference_of_rates_takes_each_own_sequence_at_half_alpha_and_says_what_it_assumes():
    single = the_bound(RateTest().update(10, 1000, 12, 1000), rate_difference=0.02)
    candidate, stable = Proportion(events=10, total=1000), Proportion(events=12, total=1000)
    expected = candidate.confidence_sequence(0.025).upper - stable.confidence_sequence(0.025).lower
    assert single.upper == expected
    assert single.assumption == DRIFT_ASSUMPTION
    assert single.to_json()["met"] is (expected < 0.02)


@pytest.mark.parametrize(("worse", "sign"), [("higher", 1), ("lower", -1)])
def test_difference_of_means_is_bounded_on_the_worse_side(worse, sign):
    rng = np.random.default_rng(1)
    test = MeanDifference(worse=worse)
    for _ in range(20):
        test = test.update(Moments.of(rng.normal(sign * 0.1, 1, 50)), Moments.of(rng.normal(0, 1, 50)))
    interval = test.confidence_sequence(0.05)
    single = the_bound(test, difference=0.5)
    assert single.upper == (interval.upper if worse == "higher" else -interval.lower)
    assert single.upper > 0
    assert "asymptotic" in single.assumption


@pytest.mark.parametrize(
    ("options", "word", "reason"),
    [
        pytest.param({}, "advance", "Nothing speaks against the candidate", id="a complete step"),
        pytest.param({"step_complete": False}, "hold", "the step isn't complete", id="an incomplete step"),
        pytest.param(
            {"step_complete": False, "deadline_reached": True},
            "inconclusive",
            "The deadline has passed: the step isn't complete",
            id="time is up",
        ),
        pytest.param(
            {"promotion": [bound()]}, "advance", "Proven good enough: errors: odds ratio below 1.1", id="proof"
        ),
        pytest.param({"promotion": [bound(), bound(upper=2.0)]}, "hold", "below 2 (allowed 1.25)", id="half a proof"),
        pytest.param(
            {"promotion": [bound(upper=math.inf)], "deadline_reached": True},
            "inconclusive",
            "not bounded yet",
            id="no proof in time is never a silent success",
        ),
        pytest.param({"missing": ["latency"]}, "hold", "no data from latency", id="no data is no pass"),
        pytest.param(
            {"missing": ["latency"], "deadline_reached": True}, "inconclusive", "no data", id="never any data"
        ),
        pytest.param(
            {"missing": ["latency"], "no_data": "rollback"}, "rollback", "No data from latency.", id="no data, careful"
        ),
        pytest.param({"sample_ratio": MISMATCH}, "hold", "shares of traffic don't fit", id="mismatch"),
        pytest.param({"sample_ratio": MATCH}, "advance", "Nothing speaks", id="match"),
        pytest.param(
            {"sample_ratio": MISMATCH, "promotion": [bound()], "deadline_reached": True},
            "inconclusive",
            "shares of traffic",
            id="a mismatch is never promoted",
        ),
    ],
)
def test_a_candidate_nothing_speaks_against(options, word, reason):
    verdict = decide([GOOD.guard("errors", alpha=0.05)], **options)
    assert verdict.word == word
    assert reason in verdict.reason
    json.dumps(to_json(verdict), allow_nan=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sample_ratio": MISMATCH},
        {"missing": ["latency"]},
        {"promotion": [bound()]},
        {"deadline_reached": True, "step_complete": False},
    ],
)
def test_enough_evidence_rolls_back_whatever_else_is_the_matter(options):
    verdict = decide([BAD.guard("errors", alpha=0.05)], **options)
    assert verdict.word == "rollback"
    assert verdict.reason.startswith("The candidate is worse: errors, 5% of 10,000 requests")
    assert "in at most 5% of releases" in verdict.reason
    assert ("don't fit the weights" in verdict.reason) == ("sample_ratio" in options)
    json.dumps(to_json(verdict), allow_nan=False)


def test_the_sentence_says_no_more_than_alpha_of_how_rare_such_evidence_is():
    verdict = decide([Guard(name="errors", log_e=math.log(40))])
    assert verdict.reason == (
        "The candidate is worse: errors, see the evidence. "
        "Were it not, such evidence would be seen in at most 5% of releases."
    )


def test_evidence_carries_every_guard_bound_and_the_sample_ratio():
    verdict = decide(
        [GOOD.guard("errors", alpha=0.05), Guard(name="latency", log_e=-math.inf, weight=2.0)],
        promotion=[bound(upper=math.inf)],
        sample_ratio=MATCH,
    )
    assert set(verdict.evidence["guards"]) == {"errors", "latency"}
    assert verdict.evidence["guards"]["latency"] == {"log_e": None, "weight": 2.0}
    assert verdict.evidence["promotion"][0]["upper"] is None
    assert verdict.evidence["sample_ratio"]["mismatch"] is False
