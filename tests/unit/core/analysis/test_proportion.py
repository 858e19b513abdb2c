"""One proportion against a limit, and its confidence sequence."""

import json
import math

import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import beta, binom

from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput


@pytest.mark.parametrize(("events", "total", "rate"), [(0, 10, 0.1), (3, 10, 0.1), (10, 10, 0.5), (40, 4000, 0.01)])
def test_evidence_is_the_beta_binomial_mixture(events, total, rate):
    """The binomial likelihood averaged over Beta(1/2, 1/2), by quadrature, over the likelihood at the rate."""
    mixture = quad(
        lambda p: binom.pmf(events, total, p) * beta.pdf(p, 0.5, 0.5), 0, 1, limit=500, points=[events / total]
    )
    expected = math.log(mixture[0] / binom.pmf(events, total, rate))
    assert Proportion(events=events, total=total).log_e_value(rate) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("events", "total"), [(1, 10), (5, 10), (30, 3000), (2999, 3000)])
def test_confidence_sequence_is_where_the_evidence_is_below_one_over_alpha(events, total):
    proportion = Proportion(events=events, total=total)

    def excess(rate):
        return proportion.log_e_value(rate) - math.log(20)

    interval = proportion.confidence_sequence(0.05)
    assert interval.estimate == events / total
    assert interval.lower == pytest.approx(brentq(excess, 1e-12, events / total, xtol=1e-15), rel=1e-6)
    assert interval.upper == pytest.approx(brentq(excess, events / total, 1 - 1e-12, xtol=1e-15), rel=1e-6)


@pytest.mark.parametrize(
    ("events", "total", "lower", "upper"), [(0, 0, 0.0, 1.0), (0, 500, 0.0, 0.01326), (500, 500, 0.98674, 1.0)]
)
def test_extremes_are_closed_at_zero_and_one(events, total, lower, upper):
    interval = Proportion(events=events, total=total).confidence_sequence(0.05)
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=1e-5)
    assert interval.estimate == (events / total if total else None)


def test_the_sequence_of_more_requests_than_rounding_tells_apart_holds_the_rate():
    found = Proportion(events=10**13, total=10**15).confidence_sequence(0.05)
    assert found.lower < 0.01 < found.upper
    assert found.upper - found.lower < 1e-6


def test_no_events_gives_the_closed_form_upper_end():
    """With 0 of n the end solves (1-p)^n = alpha B(1/2, n + 1/2) / B(1/2, 1/2)."""
    n = 400
    log_b = math.lgamma(0.5) + math.lgamma(n + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
    expected = 1 - math.exp((math.log(0.05) + log_b) / n)
    assert Proportion(events=0, total=n).confidence_sequence(0.05).upper == pytest.approx(expected, rel=1e-9)


def test_overdispersion_counts_as_fewer_requests():
    narrow = Proportion(events=60, total=600).confidence_sequence(0.05)
    wide = Proportion(events=60, total=600, overdispersion=4.0).confidence_sequence(0.05)
    fewer = Proportion(events=15, total=150).confidence_sequence(0.05)
    assert (wide.lower, wide.upper) == pytest.approx((fewer.lower, fewer.upper))
    assert wide.lower < narrow.lower


def test_counts_add_up_and_give_the_rate():
    proportion = Proportion().update(1, 10).update(0, 10)
    assert (proportion.events, proportion.total, proportion.rate) == (1, 20, 0.05)
    assert Proportion().rate is None


@pytest.mark.parametrize(("limit", "events", "total"), [(0.01, 8, 300), (0.2, 10, 80), (0.5, 9, 10), (0.9, 30, 30)])
def test_objective_evidence_is_the_mixture_over_rates_above_the_limit(limit, events, total):
    mean = min(2 * limit, (1 + limit) / 2)
    a, b = 0.5, 0.5 * (1 - mean) / mean
    prior_above = beta.sf(limit, a, b)
    # In t = (1 - p)^b the density's singularity at p = 1 is gone.
    scale = math.exp(-math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)) / b

    def integrand(t):
        p = 1 - t ** (1 / b)
        return scale * p ** (a - 1) * binom.pmf(events, total, p)

    mixture = quad(integrand, 0, (1 - limit) ** b, limit=500)[0] / prior_above
    expected = math.log(mixture / binom.pmf(events, total, limit))
    test = ObjectiveTest(limit=limit).update(events, total)
    assert test.log_e_value == pytest.approx(expected, abs=1e-5)
    assert test.e_value == pytest.approx(math.exp(expected), rel=1e-4)
    assert test.p_value == pytest.approx(min(1.0, math.exp(-expected)), rel=1e-4)


def test_far_below_the_limit_there_is_no_evidence_at_all():
    test = ObjectiveTest(limit=0.5).update(0, 100_000)
    assert test.e_value == 0.0
    assert test.p_value == 1.0


def test_the_largest_evidence_stays_in_the_p_value():
    bad = ObjectiveTest(limit=0.01).update(10, 100)
    later = bad.update(0, 10_000)
    assert later.e_value < 1
    assert later.p_value == bad.p_value < 0.01


def test_objective_shows_the_rates_own_sequence():
    test = ObjectiveTest(limit=0.01).update(5, 100)
    assert test.confidence_sequence(0.05) == Proportion(events=5, total=100).confidence_sequence(0.05)


def test_state_comes_back_equal():
    test = ObjectiveTest(limit=0.01, counts=Proportion(overdispersion=2.0)).update(10, 100).update(0, 5)
    assert from_json(ObjectiveTest, json.loads(json.dumps(to_json(test)))) == test


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObjectiveTest(limit=0.0), "limit"),
        (lambda: ObjectiveTest(limit=1.0), "limit"),
        (lambda: Proportion(events=2, total=1), "events"),
        (lambda: Proportion(overdispersion=0.0), "phi"),
        (lambda: Proportion(events=1, total=2).log_e_value(0.0), "rate"),
        (lambda: Proportion().update(2, 1), "events"),
        (lambda: Proportion().confidence_sequence(2.0), "alpha"),
        (lambda: from_json(ObjectiveTest, {"limit": 0.1}), "missing fields"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()
