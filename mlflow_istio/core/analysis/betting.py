r"""Betting on "the candidate is worse": the e-process behind every rate guard.

`E = sum_t pi(t) exp(L(d0 + t) - L(d0))` with `d0` the log margin. For a candidate whose odds ratio is at most the
margin each term is a nonnegative supermartingale that starts at 1 (monotone likelihood ratio), so `P(E ever >=
1/alpha) <= alpha` (Ville 1939), however often one looks. Conditioning on each interval's margins is what survives
weight ramps and incidents that hit both versions; related: Lindon & Malek (NeurIPS 2022, arXiv 2011.03567), Turner &
Grunwald (arXiv 2302.11401).

Two choices differ from a plain log-uniform bet on 1.25-100 and make it faster (`make bench-decisions` measures both
rules on the same traffic):

* `pi` is a trapezoid in the log odds ratio relative to the margin: flat from 2 to 15, falling to nothing at 1.1
  and at 100.
* A share `late` of the stake isn't bet at once but in later intervals: after `k` of them `late / (1 + log(1 + k))` is
  still in hand. A stake kept in hand is worth itself, so the sum stays an e-process; and a candidate that turns bad
  only after hours of good service (a leak, a cache that fills, load at a higher weight) needn't first pay back
  all the evidence it earned. The idea is that of e-detectors (Shin, Ramdas & Rinaldo 2023, arXiv 2203.03532).
"""

import numpy as np
from numpy.typing import NDArray

from mlflow_istio.core.analysis.log_sums import log_sum_exp

Floats = NDArray[np.float64]

_CORNERS = (1.1, 2.0, 15.0, 100.0)
"""Odds ratios, relative to the margin, where the bet begins, is in full, begins to fall, and ends."""

LATE = 0.1
"""The default share of the stake that is bet over time. Keeping a tenth costs 0 to 3% more requests on a candidate that is
bad from the start and saves 30% on one that turns bad later; keeping more adds little to that."""

ALTERNATIVES: Floats = np.linspace(np.log(1.1), np.log(100.0), 42)[1:-1]
"""Log odds ratios above the log margin that are bet on, shape (40,)."""


def _trapezoid(points: Floats) -> Floats:
    foot, shoulder, edge, end = np.log(_CORNERS)
    height = np.clip(np.minimum((points - foot) / (shoulder - foot), (end - points) / (end - edge)), 0, 1)
    return np.asarray(height / height.sum())


LOG_PRIOR: Floats = np.log(_trapezoid(ALTERNATIVES))
"""Log of the share of the stake on each alternative."""


def opening_stake(late: float) -> Floats:
    """Return the log stake on each alternative before the first interval."""
    return np.asarray(LOG_PRIOR + np.log1p(-late))


def stake_in_hand(intervals: NDArray[np.int64] | int, late: float) -> Floats:
    """Return the part of the stake not yet bet after `intervals` informative intervals; the shape of `intervals`."""
    return np.asarray(late / (1 + np.log1p(intervals)))


def bet(log_stake: Floats, log_ratios: Floats, *, intervals: NDArray[np.int64] | int, late: float) -> Floats:
    """Return the log stake on each alternative after one more interval.

    Args:
        log_stake: Log stake on each alternative, shape (..., 40).
        log_ratios: The interval's log-likelihood ratio of each alternative to the margin, same shape.
        intervals: How many informative intervals came before this one, shape (...).
        late: The share of the stake that is bet over time.
    """
    before = np.maximum(np.asarray(intervals) - 1, 0)
    added = stake_in_hand(before, late) - stake_in_hand(intervals, late)
    with np.errstate(divide="ignore"):
        log_added = np.log(added)
    return np.asarray(np.logaddexp(log_stake, log_added[..., None] + LOG_PRIOR) + log_ratios)


def log_evidence(log_stake: Floats, *, intervals: NDArray[np.int64] | int, late: float) -> Floats:
    """Return `log E`: everything on the table plus what is in hand, after `intervals` of them; shape (...)."""
    in_hand = stake_in_hand(np.maximum(np.asarray(intervals) - 1, 0), late)
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(log_sum_exp(log_stake), np.log(in_hand)))
