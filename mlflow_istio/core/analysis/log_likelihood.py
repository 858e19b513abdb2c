r"""A log-likelihood of the log odds ratio as a small fixed vector that adds up.

`L(d) = x d - K(d)`, where `K` sums `hypergeometric.log_normaliser` over intervals. Each `K` is analytic in the strip
`|Im d| < pi` (the generating polynomial has only real, negative zeros), so its Chebyshev interpolant on
`[-HALF_WIDTH, HALF_WIDTH]` converges geometrically at the rate of the largest Bernstein ellipse inside that strip,
`rho = pi/w + sqrt(1 + (pi/w)^2) = 1.553` (Trefethen, Approximation Theory and Approximation Practice, ch. 8).
64 nodes give about 1e-12 of the largest `|K|`. So 64 numbers stand for thousands of intervals of any size, and the
likelihood can be read at any odds ratio between 1/1000 and 1000.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from mlflow_istio.core.analysis.interval import Interval, crossing
from mlflow_istio.core.analysis.log_sums import log_sum_exp

NODES = 64
"""How many numbers hold the curve."""

HALF_WIDTH = float(np.log(1000.0))
"""Log odds ratios from -HALF_WIDTH to HALF_WIDTH are represented."""

Floats = NDArray[np.float64]

_ANGLES = np.pi * (np.arange(NODES) + 0.5) / NODES

NODE_POINTS: Floats = HALF_WIDTH * np.cos(_ANGLES)
"""The log odds ratios at which the curve is stored, shape (NODES,)."""

_ORDERS = np.arange(NODES, dtype=np.float64)

_TO_COEFFICIENTS = np.cos(np.outer(np.arange(NODES), _ANGLES)) * (2.0 / NODES)
_TO_COEFFICIENTS[0] /= 2.0

_LEFT_OUT = 1e-12
"""Of the largest coefficient: how far the curve may be from the likelihood."""

PRIOR_SCALES = (0.1, 0.3, 1.0)
"""Standard deviations of the equal mixture of centred normals behind the confidence sequence."""

_PANEL_POINTS, _PANEL_WEIGHTS = np.polynomial.legendre.leggauss(20)
_PRIOR_BREAKS = np.array([-3.0, -1.0, -0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0])
_MODE_BREAKS = np.array([-32, -16, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 16, 32], dtype=np.float64)


@lru_cache(maxsize=32)
def interpolation_matrix(points: tuple[float, ...]) -> Floats:
    """Return the matrix that takes values at the nodes to values at `points`; shape (len(points), NODES)."""
    matrix: Floats = chebyshev.chebvander(np.asarray(points) / HALF_WIDTH, NODES - 1) @ _TO_COEFFICIENTS
    return matrix


def _at(coefficients: Floats, log_odds_ratio: float) -> float:
    """The Chebyshev series at one point, by `T_k(cos t) = cos(k t)`: numpy's `chebval` loops over the orders in Python."""
    angle = math.acos(min(1.0, max(-1.0, log_odds_ratio / HALF_WIDTH)))
    return float(np.cos(_ORDERS[: len(coefficients)] * angle) @ coefficients)


class LogLikelihood:
    """`L(d) = (x d - K(d)) / phi`, concave in the log odds ratio `d`."""

    __slots__ = ("_coefficients",)

    def __init__(self, events: float, log_normaliser: Floats, overdispersion: float) -> None:
        """Take the candidate's events, `K` at the nodes (shape (NODES,)) and the overdispersion."""
        self._coefficients = (_TO_COEFFICIENTS @ (events * NODE_POINTS - log_normaliser)) / overdispersion

    def __call__(self, log_odds_ratios: Floats | float) -> Floats:
        """Return `L` at each point."""
        values: Floats = chebyshev.chebval(np.asarray(log_odds_ratios) / HALF_WIDTH, self._coefficients)
        return values

    def mode(self) -> float:
        """Return the log odds ratio with the largest likelihood, an end of the range if it lies there."""
        slope = chebyshev.chebder(self._coefficients)

        def rising(point: float) -> float:
            return _at(slope, point)

        if rising(-HALF_WIDTH) <= 0:
            return -HALF_WIDTH
        return crossing(rising, -HALF_WIDTH, HALF_WIDTH, beyond=HALF_WIDTH)

    def log_mixture(self, mode: float) -> float:
        """Return `log integral pi(d) exp L(d)`, pi the mixture of `PRIOR_SCALES`, by Gauss-Legendre panels."""
        curvature = -_at(chebyshev.chebder(self._coefficients, 2), mode)
        width = min(HALF_WIDTH / np.sqrt(max(curvature, 1.0)), HALF_WIDTH)
        breaks = np.concatenate([_PRIOR_BREAKS, mode + width * _MODE_BREAKS, [-HALF_WIDTH, HALF_WIDTH]])
        breaks = np.unique(np.clip(breaks, -HALF_WIDTH, HALF_WIDTH))
        half = np.diff(breaks)[:, None] / 2
        points = (breaks[:-1, None] + half) + half * _PANEL_POINTS
        density = sum(np.exp(-0.5 * (points / scale) ** 2) / scale for scale in PRIOR_SCALES)
        weights = half * _PANEL_WEIGHTS * density / (len(PRIOR_SCALES) * np.sqrt(2 * np.pi))
        return float(log_sum_exp((self(points) + np.log(weights)).ravel()))

    def interval(self, alpha: float) -> Interval:
        """Return `{d : log integral pi e^L - L(d) < log 1/alpha}` as an interval of odds ratios.

        The set is an interval because `L` is concave. An end beyond 1/1000 or 1000 is reported as 0 or infinity.
        """
        mode = self.mode()
        # Of counts beyond a million millions what the nodes leave out is more than alpha says: the interval is wider by it.
        left_out = _LEFT_OUT * float(np.abs(self._coefficients).max())
        floor = self.log_mixture(mode) + math.log(alpha) - left_out

        def above(point: float) -> float:
            return _at(self._coefficients, point) - floor

        lower = crossing(above, mode, -HALF_WIDTH, beyond=-np.inf)
        upper = crossing(above, mode, HALF_WIDTH, beyond=np.inf)
        inside = -HALF_WIDTH < mode < HALF_WIDTH
        estimate = np.exp(mode) if inside else (0.0 if mode < 0 else np.inf)
        return Interval(lower=float(np.exp(lower)), upper=float(np.exp(upper)), estimate=float(estimate))
