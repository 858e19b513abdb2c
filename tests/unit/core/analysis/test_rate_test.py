"""The rate test: its numbers against independent ones, its state, its refusals."""

import json
import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import hypergeom, norm

from mlflow_istio.core.analysis.betting import ALTERNATIVES, LOG_PRIOR
from mlflow_istio.core.analysis.packing import pack_floats
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput

DAY = [(1, 20, 2, 180), (0, 21, 1, 179), (2, 18, 0, 182), (0, 25, 0, 175), (3, 20, 2, 180)]


def run(intervals, **options):
    test = RateTest(**options)
    for counts in intervals:
        test = test.update(*counts)
    return test


@lru_cache
def central(n_c, n_b, m):
    u = np.arange(max(0, m - n_b), min(n_c, m) + 1)
    return u, hypergeom.pmf(u, n_c + n_b, n_c, m)


def log_likelihood(intervals, d):
    """Sum of log noncentral hypergeometric probabilities, straight from the definition, up to a constant."""
    total = 0.0
    for x, n_c, y, n_b in intervals:
        u, probability = central(n_c, n_b, x + y)
        total += x * d - math.log(np.sum(probability * np.exp(d * u)))
    return total


@pytest.mark.parametrize("margin", [1.0, 1.25])
@pytest.mark.parametrize("phi", [1.0, 2.0])
def test_e_value_without_late_stake_is_the_mixture_of_likelihood_ratios(margin, phi):
    d0 = math.log(margin)
    null = log_likelihood(DAY, d0)
    ratios = [(log_likelihood(DAY, d0 + t) - null) / phi for t in ALTERNATIVES]
    expected = float(np.sum(np.exp(LOG_PRIOR + ratios)))
    assert run(DAY, margin=margin, overdispersion=phi, late=0.0).e_value == pytest.approx(expected, rel=1e-9)


def test_e_value_with_late_stake_is_the_mixture_over_starting_times():
    """1-late at once, late*(r(k-1)-r(k)) before interval k, r(k) = 1/(1+log(1+k)); what isn't bet yet counts as itself."""
    late = 0.4
    informative = [counts for counts in DAY if counts[0] + counts[2]]

    def from_interval(start):
        steps = [
            log_likelihood(informative[start:], t) - log_likelihood(informative[start:], 0.0) for t in ALTERNATIVES
        ]
        return float(np.sum(np.exp(LOG_PRIOR + steps)))

    remaining = [1 / (1 + math.log1p(k)) for k in range(len(informative))]
    stakes = [1 - late, *(late * (a - b) for a, b in pairwise(remaining))]
    expected = sum(stake * from_interval(k) for k, stake in enumerate(stakes)) + late * remaining[-1]
    assert run(DAY, late=late).e_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("phi", [1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_confidence_sequence_inverts_the_two_sided_mixture(alpha, phi):
    """Recomputed with adaptive quadrature and root finding on the definition."""

    def curve(d):
        return log_likelihood(DAY * 4, d) / phi

    def density(d):
        return sum(norm.pdf(d, scale=s) for s in (0.1, 0.3, 1.0)) / 3

    mixture = sum(quad(lambda d: density(d) * math.exp(curve(d)), a, b, limit=200)[0] for a, b in ((-6.9, 0), (0, 6.9)))
    floor = math.log(mixture * alpha)
    peak = max(np.linspace(-2, 4, 601), key=curve)
    lower = brentq(lambda d: curve(d) - floor, -6.9, peak)
    upper = brentq(lambda d: curve(d) - floor, peak, 6.9)
    interval = run(DAY * 4, overdispersion=phi).confidence_sequence(alpha)
    assert [interval.lower, interval.upper] == pytest.approx([math.exp(lower), math.exp(upper)], rel=1e-6)
    assert math.log(interval.estimate) == pytest.approx(peak, abs=0.01)


def test_estimate_is_the_conditional_maximum_likelihood_estimate_of_fishers_table():
    """For the tea-tasting table (3, 1; 1, 3) the estimate solves r^4 - 36 r^2 - 32 r - 3 = 0 (R prints 6.408309)."""
    root = max(np.roots([1, 0, -36, -32, -3]).real)
    assert root == pytest.approx(6.4083, abs=1e-4)
    assert RateTest().update(3, 4, 1, 4).confidence_sequence(0.05).estimate == pytest.approx(root, rel=1e-9)


def test_nothing_known_is_an_unbounded_interval_and_no_evidence():
    for test in (RateTest(), RateTest().update(0, 100, 0, 900), RateTest().update(7, 100, 0, 0)):
        interval = test.confidence_sequence(0.05)
        assert (interval.lower, interval.upper, interval.estimate) == (0.0, math.inf, None)
        assert test.log_e_value == pytest.approx(0.0, abs=1e-12)
        assert test.p_value == 1.0


def test_no_events_on_one_version_leaves_that_end_open():
    clean = RateTest().update(0, 1000, 60, 1000).confidence_sequence(0.05)
    assert (clean.lower, clean.estimate) == (0.0, 0.0)
    assert 0 < clean.upper < 0.3
    broken = RateTest().update(60, 1000, 0, 1000).confidence_sequence(0.05)
    assert (broken.upper, broken.estimate) == (math.inf, math.inf)
    assert broken.lower > 3


def test_totals_add_up_and_the_old_value_stays():
    start = RateTest()
    first = start.update(1, 20, 2, 180)
    second = first.update(0, 30, 5, 170)
    assert (second.candidate_events, second.candidate_total) == (1, 50)
    assert (second.stable_events, second.stable_total) == (7, 350)
    assert start == RateTest()
    assert first.intervals == 1


def test_intervals_that_could_split_one_way_only_are_no_look():
    test = run([(0, 20, 0, 180), (5, 20, 0, 0), (0, 0, 5, 180), (20, 20, 180, 180)])
    assert test.intervals == 0
    assert test.candidate_total == 60
    assert run([(0, 20, 0, 180), *DAY]).e_value == run(DAY).e_value


def test_p_value_keeps_the_strongest_evidence():
    test = run([(5, 20, 0, 180)] * 2)
    strongest = test.e_value
    for counts in [(0, 20, 20, 180)] * 8:
        test = test.update(*counts)
    assert test.e_value < 1
    assert test.p_value == pytest.approx(1 / strongest)


def test_margin_moves_the_null():
    """Twice the odds is strong evidence against margin 1 and none against margin 3."""
    intervals = [(20, 1000, 10, 1000)] * 20
    assert run(intervals).e_value > 1e6
    assert run(intervals, margin=3.0).e_value < 1


def test_differences_below_a_twentieth_are_never_called_worse():
    """The bet starts at 1.1 times the margin, so an odds ratio of 1.02 loses it, however many requests there are."""
    test = run([(10_200, 1_000_000, 10_000, 1_000_000)] * 50)
    assert test.confidence_sequence(0.05).lower > 1.01
    assert test.e_value < 1


def test_evidence_beyond_a_double_is_infinite_not_an_error():
    test = run([(900, 1000, 10, 1000)] * 3)
    assert test.e_value == math.inf
    assert test.log_e_value > 709
    assert test.p_value == 0.0


def test_state_is_short_json_and_comes_back_equal():
    test = run(DAY, margin=1.25, overdispersion=1.5, late=0.2)
    text = json.dumps(to_json(test))
    assert len(text) < 1500
    assert from_json(RateTest, json.loads(text)) == test
    assert from_json(RateTest, to_json(RateTest())) == RateTest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curve": "AAAA"}, "curve"),
        ({"curve": "not base64!"}, "curve"),
        ({"stake": ""}, "stake holds 0 numbers"),
        ({"stake": "AAAAAAAA8H8="}, "stake"),
        ({"extra": 1}, "unknown fields: extra"),
    ],
)
def test_damaged_state_is_refused_by_field(change, message):
    with pytest.raises(InvalidInput) as caught:
        from_json(RateTest, {**to_json(run(DAY)), **change})
    assert message in str(caught.value)


def test_missing_field_is_refused_by_name():
    state = to_json(run(DAY))
    del state["stable"]
    with pytest.raises(InvalidInput, match="missing fields: stable"):
        from_json(RateTest, state)


def test_state_with_numbers_that_are_not_finite_is_refused():
    state = {**to_json(RateTest()), "curve": pack_floats([math.nan] * 64)}
    with pytest.raises(InvalidInput, match="isn't finite"):
        from_json(RateTest, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "margin"),
        ({"margin": math.nan}, "margin"),
        ({"margin": 11.0}, "margin"),
        ({"overdispersion": 0.5}, "phi"),
        ({"overdispersion": math.inf}, "phi"),
        ({"late": -0.1}, "late"),
        ({"late": 0.95}, "late"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(InvalidInput, match=message):
        RateTest(**options)


@pytest.mark.parametrize(
    ("counts", "message"),
    [((3, 2, 0, 5), "candidate"), ((0, 2, 6, 5), "stable"), ((-1, 2, 0, 5), "candidate"), ((0, -2, 0, 5), "candidate")],
)
def test_impossible_counts_are_refused_with_the_version(counts, message):
    with pytest.raises(InvalidInput, match=message):
        RateTest().update(*counts)


def test_counts_must_be_whole_numbers():
    with pytest.raises(TypeError):
        RateTest().update(0.5, 10, 0, 10)
    assert RateTest().update(np.int64(1), np.int64(10), 0, 10).candidate_events == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(InvalidInput, match="alpha"):
        RateTest().confidence_sequence(alpha)
