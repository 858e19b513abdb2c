"""64 numbers stand for thousands of intervals."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from mlflow_istio.core.analysis.hypergeometric import log_normaliser
from mlflow_istio.core.analysis.log_likelihood import HALF_WIDTH, NODE_POINTS, LogLikelihood, interpolation_matrix


@pytest.mark.parametrize(
    ("candidate_total", "stable_total", "events", "tolerance"),
    [(20, 180, 5, 1e-11), (500, 500, 400, 1e-10), (300_000, 700_000, 10_000, 1e-7), (500_000, 500_000, 400_000, 1e-5)],
)
def test_the_curve_between_the_nodes_is_exact(candidate_total, stable_total, events, tolerance):
    between = np.linspace(-HALF_WIDTH, HALF_WIDTH, 97)
    at_nodes = log_normaliser(candidate_total, stable_total, events, NODE_POINTS)
    exact = log_normaliser(candidate_total, stable_total, events, between)
    read = interpolation_matrix(tuple(between.tolist())) @ at_nodes
    assert read == pytest.approx(exact, abs=tolerance, rel=0)


def test_mixture_integral_equals_adaptive_quadrature_for_narrow_and_wide_likelihoods():
    for total, events in ((40, 8), (4000, 300), (2_000_000, 150_000)):
        curve = LogLikelihood(events * 0.55, log_normaliser(total, total, events, NODE_POINTS), 1.0)
        mode = curve.mode()
        peak = float(curve(mode))
        width = 12 / math.sqrt(events / 4)

        def integrand(d, curve=curve, peak=peak):
            return math.exp(float(curve(d)) - peak) * sum(norm.pdf(d, scale=s) for s in (0.1, 0.3, 1.0)) / 3

        low, high = max(-HALF_WIDTH, mode - width), min(HALF_WIDTH, mode + width)
        exact = quad(integrand, low, mode, limit=300)[0] + quad(integrand, mode, high, limit=300)[0]
        assert curve.log_mixture(mode) - peak == pytest.approx(math.log(exact), abs=1e-6)


def test_mode_at_an_end_is_reported_as_open():
    rising = LogLikelihood(10, log_normaliser(100, 100, 10, NODE_POINTS), 1.0)
    assert rising.mode() == HALF_WIDTH
    assert rising.interval(0.05).estimate == math.inf
    falling = LogLikelihood(0, log_normaliser(100, 100, 10, NODE_POINTS), 1.0)
    assert falling.mode() == -HALF_WIDTH
    assert falling.interval(0.05).estimate == 0.0
