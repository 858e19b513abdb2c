"""Means of numeric KPIs and the stratified difference."""

import json
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from mlflow_istio.core.analysis.means import NO_SUMS, MeanDifference, Moments, Sums, mean_sequence, tightness
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput


def test_moments_are_those_of_the_numbers():
    moments = Moments.of([1.0, 2.0, 4.0])
    assert (moments.count, moments.total, moments.squares) == (3, 7.0, 21.0)
    assert moments.mean == pytest.approx(7 / 3)
    assert moments.variance == pytest.approx(np.var([1, 2, 4], ddof=1))
    assert moments.plus(Moments.of([5.0])) == Moments.of([1.0, 2.0, 4.0, 5.0])


def test_moments_of_too_few_numbers_have_no_variance():
    assert math.isnan(Moments().mean)
    assert math.isnan(Moments.of([3.0]).variance)


@pytest.mark.parametrize(
    "sums", [(-1, 0.0, 0.0), (2, 10.0, 1.0), (0, 1.0, 1.0), (0, 0.0, 1.0), (2, math.nan, 1.0), (2, 1.0, math.inf)]
)
def test_sums_no_numbers_can_have_are_refused(sums):
    with pytest.raises(InvalidInput):
        Moments(count=sums[0], total=sums[1], squares=sums[2])


def test_mean_sequence_is_the_papers_formula():
    """alpha = 0.05, N* = 1000: rho^2 = (5.9915 + log 6.9915) / 1000; n = 400, mean 2, variance 9."""
    rho2 = tightness(0.05, 1000)
    assert rho2 == pytest.approx((5.991465 + 1.944691) / 1000, rel=1e-6)
    n = 400
    moments = Moments(count=n, total=2.0 * n, squares=9.0 * (n - 1) + 4.0 * n)
    radius = 3 * math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / 0.05))
    interval = mean_sequence(moments, 0.05, tightest_at=1000)
    assert (interval.lower, interval.upper) == pytest.approx((2 - radius, 2 + radius))
    assert interval.estimate == 2.0


def test_mean_sequence_is_narrowest_against_a_fixed_interval_near_the_wanted_size():
    def inflation(n):
        moments = Moments(count=n, total=0.0, squares=float(n - 1))
        return mean_sequence(moments, 0.05, tightest_at=1000).upper * math.sqrt(n)

    assert inflation(1000) < min(inflation(100), inflation(10_000))
    assert inflation(1000) < 1.02 * min(inflation(n) for n in range(500, 2001, 50))


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0]])
def test_nothing_varies_nothing_is_bounded(values):
    interval = mean_sequence(Moments.of(values), 0.05)
    assert (interval.lower, interval.upper) == (-math.inf, math.inf)
    assert interval.estimate == (values[0] if values else None)


A, B = Moments.of([1.0, 2.0, 3.0]), Moments.of([2.0, 2.0, 5.0, 7.0])


def test_difference_of_one_interval_by_hand():
    """w = 3*4/7; S = w (2 - 4); V = w^2 (1/3 + 6/4)."""
    test = MeanDifference().update(A, B)
    w = 12 / 7
    assert test.weight == pytest.approx(w)
    assert test.difference == pytest.approx(-2 * w)
    assert test.variance == pytest.approx(w**2 * (1 / 3 + 6 / 4))
    assert test.prior == pytest.approx(test.variance / 7 / tightness(0.05, 5000))
    spread = test.variance + test.prior
    radius = math.sqrt(spread * math.log(spread / (test.prior * 0.05**2))) / w
    interval = test.confidence_sequence(0.05)
    assert (interval.lower, interval.upper) == pytest.approx((-2 - radius, -2 + radius))
    assert interval.estimate == pytest.approx(-2.0)


def test_difference_evidence_is_the_half_normal_mixture():
    """integral over m > 0 of exp(m S - m^2 V / 2) with density 2 N(0, 1/r)."""
    test = MeanDifference(worse="lower", margin=0.1).update(A, B).update(B, B.plus(A))
    s, v, r = -test.difference - 0.1 * test.weight, test.variance, test.prior
    scale = 1 / math.sqrt(r)
    mixture = quad(lambda m: 2 * norm.pdf(m, scale=scale) * math.exp(m * s - m * m * v / 2), 0, 40 * scale, limit=500)
    assert test.e_value == pytest.approx(mixture[0], rel=1e-6)
    assert test.p_value == pytest.approx(min(1.0, math.exp(-test.max_log_e)))


def test_intervals_too_short_for_a_variance_join_the_next():
    single = MeanDifference().update(Moments.of([1.0]), Moments.of([2.0, 2.0]))
    assert single.weight == 0
    assert single.confidence_sequence(0.05).estimate is None
    joined = single.update(Moments.of([2.0, 3.0]), Moments.of([5.0, 7.0]))
    assert joined == MeanDifference().update(A, B)


def test_constant_kpis_bound_nothing_and_prove_nothing():
    test = MeanDifference().update(Moments.of([1.0, 1.0]), Moments.of([2.0, 2.0]))
    interval = test.confidence_sequence(0.05)
    assert (interval.lower, interval.upper, interval.estimate) == (-math.inf, math.inf, -1.0)
    assert test.e_value == 1.0


def test_a_drift_that_both_versions_share_is_no_difference():
    """The mean climbs from 0 to 100 while the candidate's share goes from 5% to 50%: pooled means would differ by 20."""
    rng = np.random.default_rng(3)
    test = MeanDifference(tightest_at=5000)
    for level, share in zip(np.linspace(0, 100, 50), np.linspace(0.05, 0.5, 50), strict=True):
        count = int(200 * share)
        test = test.update(Moments.of(rng.normal(level, 1, count)), Moments.of(rng.normal(level, 1, 200 - count)))
    interval = test.confidence_sequence(0.05)
    assert interval.contains(0.0)
    assert interval.upper - interval.lower < 0.4
    assert test.p_value > 0.05


def test_state_comes_back_equal():
    test = MeanDifference(worse="lower", margin=0.5, tightest_at=300).update(A, B).update(Moments.of([1.5]), B)
    assert from_json(MeanDifference, json.loads(json.dumps(to_json(test)))) == test


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanDifference(worse="sideways"), "worse"),
        (lambda: MeanDifference(margin=-1.0), "margin"),
        (lambda: MeanDifference(tightest_at=0.0), "tightest_at"),
        (lambda: MeanDifference().confidence_sequence(1.0), "alpha"),
        (lambda: mean_sequence(A, 0.0), "alpha"),
        (lambda: mean_sequence(A, 0.05, tightest_at=-1), "tightest_at"),
        (lambda: from_json(MeanDifference, {}), "missing fields"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_sums_that_come_without_observations_are_joined_to_the_next_and_nothing_is_lost():
    first, late, next_ = (
        Sums(count=100, total=250.0, squares=2_000.0),
        Sums(total=50.0, squares=500.0),
        Sums(count=50, total=100.0, squares=900.0),
    )
    waiting = MeanDifference().update(first, first).update(late, Sums())
    assert waiting.weight == MeanDifference().update(first, first).weight
    whole = MeanDifference().update(first, first).update(late.plus(next_), next_)
    joined = waiting.update(next_, next_)
    assert (joined.difference, joined.weight) == (whole.difference, whole.weight)
    assert joined.difference / joined.weight == pytest.approx(1 / 3)


def test_within_a_stratum_late_sums_count_for_their_observations():
    gaps = {}
    for stratum in (0.0, 50.0):
        test, owed = MeanDifference.of(0.0, stratum=stratum), NO_SUMS
        for _ in range(400):
            for count in (100, 10):  # the candidate's visits of every other look are few, and get the money of many
                worth = Sums(total=5.0 * count, squares=5_000.0 * count)
                steady = Sums(count=100, total=500.0, squares=500_000.0)
                test, owed = test.update(Sums(count=count).plus(owed), steady, seconds=10), worth
        gaps[stratum] = abs(test.difference / test.weight)
    assert gaps[50.0] < 0.5 < 2 < gaps[0.0]


def test_sums_that_fit_no_numbers_are_said():
    test = MeanDifference.of(0.0, stratum=20.0).update(Sums(count=9, total=90.0), Sums(count=9, total=90.0), seconds=10)
    assert not test.unfit
    test = test.update(Sums(), Sums(), seconds=10)
    assert test.unfit
    assert "label_delay" in test.guard("spend", alpha=0.05).summary
    assert test.set_aside() == MeanDifference.of(0.0, stratum=20.0)
