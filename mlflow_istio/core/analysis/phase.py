r"""How long are a server's slow phases? Learnt from the history of the version that serves today.

A replica that collects garbage, is backed up or shares its processor answers slowly for a while, and then well again. Counts of
neighbouring intervals are then not independent, and a test that takes them for that calls an equal version worse. What the
test needs to know is how long the longest of these phases lasts.

Each interval's events are standardised by what the rate around it gives, so that a rate that drifts over hours is no phase.

* Are there phases? The variance of sums over m intervals is the binomial one for independent counts, and above it for phases (batch
  means: Law, Simulation Modeling and Analysis, 5th ed., ch. 9.5); the most striking m decides.
* How long? Phases that come at random times, on however many replicas, are shot noise: its autocovariance is a sum of triangles,
  each as long as a phase and as large as the phases of that length are frequent (Campbell's theorem; Cox & Miller 1965, The
  Theory of Stochastic Processes, ch. 9). So triangles are fitted to the autocovariance, one, or two where that fits much better.
* Was it seen more than once? The fit is made again without each two neighbouring eighths of the history (the jackknife of a
  series by blocks: Kuensch 1989, Ann. Statist. 17). What one place alone shows is no phase.

Simulated (phases of 1 to 120 s on 1 to 5 replicas, 30 requests a second, 5% slow answers, 35% in a phase): what is learnt lies
between 0.9 and 1.5 times the truth, at the resolution of an interval, as soon as a dozen phases were there to see; of two
kinds of phases it is the longer one; of phases of random length, about twice the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlflow_istio.core.analysis.interval import check_positive
from mlflow_istio.errors import InvalidInput

Floats: TypeAlias = NDArray[np.float64]

CLAIM_FROM = 60.0
"""Seconds below which a phase is claimed only from an hour of history: where nothing is known, phases may be this long."""

HOUR = 3600.0

LONGEST = 600.0
"""Seconds beyond which a change of the rate is drift, which both versions of a release share, and no phase."""

ENOUGH_TIMES = 16
"""How many times as long as a phase the history must be at least, for the phase to be found."""

ENOUGH_EVENTS = 100
"""Events, and requests without one, from which on a series can say anything."""

OVERDISPERSED = 4.5
"""Standard errors of the variance from which on there are phases."""

CLEAR = 12.0
"""Standard errors from which on a series has its say beside a stronger one."""

_DRIFT = 3
"""The rate around an interval is taken from so many times the longest phase."""

_STILL_OVERDISPERSED = 3.0
"""Standard errors that must be left without a quarter of the history."""

_PARTS = 8
"""Parts of the history, of which two neighbours are left out at a time."""

_AGREEING = 3.0
"""Fits differ no more than so many times where phases are seen everywhere."""

_MUCH_BETTER = 0.5
"""Two lengths are taken for one where they leave at most this share of the squared residuals."""

_GROWTH = 1.2
"""Each length that is tried is about so many times the last one."""


def learn_phase(history: Mapping[str, ArrayLike], seconds: float) -> float | None:
    """Return how long the longest slow phase lasts.

    Nothing is told more exactly than by one interval: a phase shorter than that counts as one interval long.

    Args:
        history: What is counted (errors, answers slower than an edge) to the events and requests of each interval, in order; shape
            (intervals, 2). An interval without requests is a gap.
        seconds: Length of an interval.

    Returns:
        Seconds; 0 where there are no phases; None where the history is too short, or has too few events, to say.

    Raises:
        InvalidInput: If a series isn't pairs of events and requests, or events exceed requests.
    """
    check_positive("seconds of an interval", seconds)
    fits = []
    observed = 0.0
    for name, pairs in history.items():
        counts = _checked(name, pairs)
        longest = int(min(LONGEST, len(counts) * seconds / ENOUGH_TIMES) / seconds)
        events, requests = counts.sum(axis=0)
        if longest and ENOUGH_EVENTS <= events <= requests - ENOUGH_EVENTS:
            fits.append(_longest_phase(counts, longest, CLAIM_FROM / seconds))
            observed = max(observed, np.count_nonzero(counts[:, 1]) * seconds)
    if not fits:
        return None
    strongest = max(striking for _, striking in fits)
    phase = seconds * max(length for length, striking in fits if striking >= min(strongest, CLEAR))
    return None if phase < CLAIM_FROM and observed < HOUR else phase


def _checked(name: str, pairs: ArrayLike) -> Floats:
    try:
        counts = np.asarray(pairs, dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(
            f"history of '{name}' must be (events, requests) of each interval, two numbers for every one: {exc}"
        ) from exc
    if counts.ndim != 2 or counts.shape[1] != 2:
        raise InvalidInput(f"history of '{name}' must be (events, requests) of each interval, got shape {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts[:, 0] > counts[:, 1]).any():
        raise InvalidInput(f"history of '{name}': events must be from 0 to the requests in each interval")
    return counts


def _longest_phase(counts: Floats, longest: int, unknown: float) -> tuple[float, float]:
    """The longest phase in intervals, and how many standard errors of the variance speak for there being any.

    Args:
        counts: Events and requests by interval.
        longest: The longest phase that is looked for, in intervals.
        unknown: How long one may be where nothing is known, in intervals.
    """
    rate = _usual_rate(counts, _DRIFT * longest)
    variances = counts[:, 1] * rate * (1 - rate)
    answered = variances > 0
    scores = np.zeros(len(counts))
    scores[answered] = (counts[answered, 0] - (rate * counts[:, 1])[answered]) / np.sqrt(variances[answered])
    striking = _overdispersion(counts, rate, longest)
    if striking < OVERDISPERSED:
        return 0.0, striking
    part = np.arange(len(counts)) * _PARTS // len(counts)
    products, pairs = _products_by_part(scores, answered, part, 2 * longest)

    def fitted(*left_out: int) -> float:
        kept = ~np.isin(part, left_out)
        if left_out and _overdispersion(counts[kept], rate[kept], longest) < _STILL_OVERDISPERSED:
            return 0.0
        parts = ~np.isin(np.arange(_PARTS), left_out)
        return _fitted_length(products[parts].sum(axis=0) / np.maximum(pairs[parts].sum(axis=0), 1), longest)

    whole, least = fitted(), min(fitted(left, left + 1) for left in range(_PARTS - 1))
    if whole <= _AGREEING * least:
        return whole, striking
    # One place alone shows it, such as a new configuration's: that is no more than not to know.
    return max(least, min(whole, unknown)), striking


def _usual_rate(counts: Floats, width: int) -> Floats:
    """The rate around each interval, over so many intervals."""
    sums = np.vstack([np.zeros(2), np.cumsum(counts, axis=0)])
    at = np.arange(len(counts))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(counts))
    near = sums[high] - sums[low] + 2.0 * sums[-1] / sums[-1, 1]  # where hardly anybody asks, the rate is that of all
    return np.asarray(near[:, 0] / near[:, 1])


def _overdispersion(counts: Floats, rate: Floats, longest: int) -> float:
    """How many standard errors the variance of sums lies above the binomial one, at the length where it does so most."""
    beyond, usual = counts[:, 0] - rate * counts[:, 1], counts[:, 1] * rate * (1 - rate)
    sums = np.vstack([np.zeros(2), np.cumsum(np.column_stack([beyond, usual]), axis=0)])
    most = 0.0
    for length in _lengths(longest):
        blocks = len(counts) // length
        ends = sums[np.arange(blocks + 1) * length]
        score, variance = np.diff(ends, axis=0).T
        score, variance = score[variance > 0], variance[variance > 0]
        if len(variance) < ENOUGH_TIMES:
            break
        # A square of few events varies by more than that of a normal number.
        error = np.sqrt((2 + np.mean(1 / variance)) / len(variance))
        most = max(most, float((np.mean(score**2 / variance) - 1) / error))
    return most


def _products_by_part(
    scores: Floats, answered: NDArray[np.bool_], part: NDArray[np.int64], lags: int
) -> tuple[Floats, Floats]:
    """Sums of products of scores at lags 0, 1, ... and how many there are, by the part of the history in which they begin."""
    size = 1 << int(np.ceil(np.log2(len(scores) + lags + 1)))
    begins = part == np.arange(_PARTS)[:, None]

    def correlated(values: Floats) -> Floats:
        spectrum = np.conj(np.fft.rfft(values * begins, size)) * np.fft.rfft(values, size)
        return np.asarray(np.fft.irfft(spectrum, size)[:, : lags + 1])

    return correlated(scores), np.rint(correlated(answered.astype(np.float64)))


def _lengths(longest: int) -> list[int]:
    lengths = {1}
    length = 1.0
    while length <= longest:
        lengths.add(round(length))
        length *= _GROWTH
    return sorted(lengths)


def _fitted_length(covariance: Floats, longest: int) -> float:
    """The length of the pulses whose autocovariance fits best, by least squares; one length longer, to be on the safe side.

    Pulses may be of two lengths where that fits much better; the longer one counts where it makes up a third of the variance
    of long sums. At lag 0 the binomial variance is left out. Weights fall with the lag, as if lags were spaced evenly on a
    log scale. Scores are taken from their mean, which lowers all of the covariance alike: hence the constant.
    """
    target = covariance.copy()
    target[0] -= 1
    lags = np.arange(len(covariance))
    root = np.sqrt(1 / np.maximum(lags, 1))
    lengths = _lengths(longest)
    columns = np.stack([_pulse_covariance(length, len(lags)) for length in lengths])
    columns = np.vstack([columns / columns[:, :1], np.ones(len(lags))]) * root
    gram, moments, total = columns @ columns.T, columns @ (target * root), float(((target * root) ** 2).sum())

    def fit(*chosen: int) -> tuple[float, Floats]:
        index = [*chosen, len(lengths)]
        solution = np.linalg.solve(gram[np.ix_(index, index)], moments[index])
        return total - float(solution @ moments[index]), solution

    singles = [(*fit(number), number) for number in range(len(lengths))]
    rising = [(residual, number) for residual, solution, number in singles if solution[0] > 0]
    if not rising:
        return 0.0
    least, best = min(rising)
    for short in range(len(lengths)):
        for long in range(short + 2, len(lengths)):
            residual, (first, second, _) = fit(short, long)
            much = second * lengths[long] >= (first * lengths[short] + second * lengths[long]) / 3
            if first > 0 and second > 0 and residual < _MUCH_BETTER * least and much:
                least, best = residual / _MUCH_BETTER, long
    return float(lengths[best]) if best == 0 else float(lengths[min(best + 1, len(lengths) - 1)])


def _pulse_covariance(length: int, lags: int) -> Floats:
    """Autocovariance of interval means of pulses that are so many intervals long and begin at any time, up to a factor."""
    at = np.arange(lags, dtype=np.float64)
    # A triangle folded with a triangle: second differences of |x|^3/12, at steps of the length and of one interval.
    second_difference = ((-1, 1.0), (0, -2.0), (1, 1.0))
    corners = ((i * length + j, a * b) for i, a in second_difference for j, b in second_difference)
    return np.asarray(sum(weight * np.abs(at + corner) ** 3 / 12 for corner, weight in corners))
