r"""The normaliser of Fisher's noncentral hypergeometric distribution.

In one interval the candidate answered `n_c` requests and the stable `n_b`; `m` of all of them were events. If the odds
of an event on the candidate are `exp(d)` times those on the stable then, given these margins, the number `u` of events
on the candidate has probability proportional to `C(n_c, u) C(n_b, m - u) exp(d u)`: the unknown event rate cancels.

`log_normaliser` returns `K(d) = log E exp(d U)` with `U` central hypergeometric, that is
`log sum_u C(n_c,u) C(n_b,m-u) exp(d u) - log C(n_c+n_b, m)`. The constant makes `K(0) = 0` and cancels in every ratio.

How it is computed, and how exactly:

* Up to `FULL_SUPPORT` values of `u`, the sum is taken as it stands.
* Beyond, only where the mass is. `U` has the law of a sum of independent Bernoulli variables (its generating polynomial
  has real zeros only: Vatutin & Mikhailov 1982, Theory Probab. Appl. 27), so
  - its mean is within 1 of its mode (Darroch 1964, Ann. Math. Statist. 35), and its variance at most
    `(mean-lo)(1-(mean-lo)/(hi-lo))`; Bernstein's inequality then gives a window that leaves out less than 1e-13;
  - its characteristic function obeys `|f(t)| <= exp(-2 s^2 sin^2(t/2))`, `s` the standard deviation, so a sum over
    every `h`-th integer, times `h`, has the relative error at most `2 sum_j exp(-8 (s j / h)^2)`: below 1e-13 for
    `h <= s/2`. Cornfield's approximation of `s` is halved once more before it is used, so it may be wrong by a factor
    of 2 and the bound still holds. The cost is then the same for a thousand requests and for a million.
* What remains is the rounding of `gammaln`: about 1e-15 times `n log n`, that is 1e-8 absolute at a million requests
  in an interval.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mlflow_istio.core.analysis.log_sums import log_sum_exp

FULL_SUPPORT = 400
"""The widest support that is summed value by value."""

_TAIL = float(np.log(2 / 1e-13))
"""Bernstein's exponent for a window that leaves out less than 1e-13."""


def log_normaliser(
    candidate_total: int, stable_total: int, events: int, log_odds_ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `K(d) = log E exp(d U)`, U central hypergeometric, for each log odds ratio `d`.

    Args:
        candidate_total: Requests of the candidate in the interval, >= 0.
        stable_total: Requests of the stable in the interval, >= 0.
        events: Events on both together, between 0 and the sum of the totals.
        log_odds_ratios: Shape (k,).

    Returns:
        Shape (k,), exactly 0 where the log odds ratio is 0 up to rounding.
    """
    lowest = max(0, events - stable_total)
    highest = min(candidate_total, events)
    if lowest == highest:
        return lowest * log_odds_ratios
    all_ways = _log_choose(candidate_total + stable_total, np.float64(events))
    if highest - lowest < FULL_SUPPORT:
        counts = np.arange(lowest, highest + 1, dtype=np.float64)
        log_ways = _log_choose(candidate_total, counts) + _log_choose(stable_total, events - counts) - all_ways
        return _log_sum(log_ways + log_odds_ratios[:, None] * counts)
    mode = _mode(candidate_total, stable_total, events, log_odds_ratios)
    deviation = _deviation(candidate_total, stable_total, events, mode)
    step = np.maximum(1.0, np.floor(deviation / 4))
    variance_bound = (mode - lowest) * (1 - (mode - lowest) / (highest - lowest)) + 2
    reach = _TAIL / 3 + np.sqrt(_TAIL**2 / 9 + 2 * _TAIL * variance_bound) + 2
    points = int(np.max(np.ceil(reach / step)))
    counts = np.floor(mode)[:, None] + step[:, None] * np.arange(-points, points + 1)
    inside = (counts >= lowest) & (counts <= highest)
    counts = np.clip(counts, lowest, highest)
    log_ways = _log_choose(candidate_total, counts) + _log_choose(stable_total, events - counts) - all_ways
    terms = np.where(inside, log_ways + log_odds_ratios[:, None] * counts, -np.inf)
    return _log_sum(terms) + np.log(step)


def _log_sum(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = log_sum_exp(terms, axis=1)
    return total


def _log_choose(total: int, chosen: Any) -> Any:
    return gammaln(total + 1.0) - gammaln(chosen + 1.0) - gammaln(total - chosen + 1.0)


def _mode(
    candidate_total: int, stable_total: int, events: int, log_odds_ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where the ratio of neighbouring terms crosses 1: the root of a quadratic, within 1 of mode and mean."""
    odds_ratio = np.exp(log_odds_ratios)
    # (n_c - u)(m - u) r = u (n_b - m + u), solved for its root inside the support, in the form that doesn't subtract
    # two nearly equal numbers. Where the linear coefficient is negative, r < 1, so `square` isn't 0.
    square = odds_ratio - 1
    linear = odds_ratio * (candidate_total + events) + (stable_total - events)
    constant = odds_ratio * candidate_total * events
    root = np.sqrt(np.maximum(linear**2 - 4 * square * constant, 0.0))
    negative = linear < 0
    mode = np.where(
        negative,
        (linear - root) / np.where(negative, 2 * square, 1.0),
        2 * constant / np.where(negative, 1.0, linear + root),
    )
    return np.asarray(np.clip(mode, max(0, events - stable_total), min(candidate_total, events)))


def _deviation(candidate_total: int, stable_total: int, events: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Cornfield's approximation of the standard deviation (Cornfield 1956, Proc. 3rd Berkeley Symp. 4)."""
    cells = [mean, candidate_total - mean, events - mean, stable_total - events + mean]
    inverse = sum(1.0 / np.maximum(cell, 1e-9) for cell in cells)
    deviation: NDArray[np.float64] = np.sqrt(1.0 / np.asarray(inverse))
    return deviation
