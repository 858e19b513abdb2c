"""The normaliser is exact where it is summed and within its bound where it is not."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import hypergeom, nchypergeom_fisher

from mlflow_istio.core.analysis.hypergeometric import FULL_SUPPORT, log_normaliser
from mlflow_istio.core.analysis.log_likelihood import NODE_POINTS


def by_the_definition(candidate_total, stable_total, events, log_odds_ratios):
    counts = np.arange(max(0, events - stable_total), min(candidate_total, events) + 1)
    log_central = hypergeom.logpmf(counts, candidate_total + stable_total, candidate_total, events)
    return np.array([logsumexp(log_central + d * counts) for d in log_odds_ratios])


@pytest.mark.parametrize(
    ("candidate_total", "stable_total", "events"),
    [
        pytest.param(20, 180, 3, id="small"),
        pytest.param(20, 180, 0, id="no events"),
        pytest.param(20, 180, 200, id="only events"),
        pytest.param(0, 50, 7, id="no candidate"),
        pytest.param(50, 0, 7, id="no stable"),
        pytest.param(180, 20, 199, id="nearly all events"),
        pytest.param(FULL_SUPPORT - 1, 5000, 3000, id="widest full sum"),
        pytest.param(FULL_SUPPORT, 5000, 3000, id="narrowest window"),
        pytest.param(3000, 40_000, 2500, id="window, step 1 in the tails"),
        pytest.param(60_000, 50_000, 55_000, id="window, wide steps"),
        pytest.param(40_000, 1000, 40_500, id="window that starts above 0"),
        pytest.param(30_000, 1_000_000, 600, id="rare events among a million"),
    ],
)
def test_equals_the_sum_over_the_whole_support(candidate_total, stable_total, events):
    exact = by_the_definition(candidate_total, stable_total, events, NODE_POINTS)
    assert log_normaliser(candidate_total, stable_total, events, NODE_POINTS) == pytest.approx(exact, abs=3e-9, rel=0)


def test_known_value_by_hand():
    """n_c=2, n_b=3, m=2: weights 3, 6, 1 of 10 for u = 0, 1, 2; at odds ratio 2 their sum is 19/10."""
    assert log_normaliser(2, 3, 2, np.array([0.0, math.log(2)])) == pytest.approx([0.0, math.log(1.9)], abs=1e-14)


def test_an_empty_interval_adds_nothing():
    assert log_normaliser(0, 0, 0, NODE_POINTS).tolist() == [0.0] * len(NODE_POINTS)


def test_differences_are_scipys_noncentral_log_probabilities():
    """x d - K(d) + log central(x) is the log of the noncentral probability, which scipy computes by another route."""
    for odds_ratio in (0.2, 1.0, 3.0):
        d = math.log(odds_ratio)
        curve = log_normaliser(30, 170, 12, np.array([d]))[0]
        ours = [hypergeom.logpmf(x, 200, 30, 12) + x * d - curve for x in range(13)]
        assert ours == pytest.approx(nchypergeom_fisher.logpmf(range(13), 200, 30, 12, odds_ratio), rel=1e-8)


def test_a_million_requests_are_within_the_stated_error():
    """The window and the full sum share gammaln's rounding, about 1e-8; their difference stays below it."""
    exact = by_the_definition(400_000, 600_000, 300_000, NODE_POINTS[::16])
    assert log_normaliser(400_000, 600_000, 300_000, NODE_POINTS[::16]) == pytest.approx(exact, abs=2e-8, rel=0)
