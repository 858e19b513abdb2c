"""The first rule and the peers' formulas on the families' counts, with a look every 10 s and the same ramp.

Each formula judges errors and answers over the edge nearest to the 90th percentile, and rolls back when either says so. Named after
the formulas: a product that keeps an equal control at every step, or excludes intervals, does better than its formula here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from benchmarks.decisions_lab import judged_high
from benchmarks.decisions_plan import LookCounts
from mlflow_istio.core.analysis import betting
from mlflow_istio.core.analysis.hypergeometric import log_normaliser
from mlflow_istio.core.analysis.latency import LATENCY_MARGIN
from mlflow_istio.core.analysis.rate_test import is_informative

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Alarms = NDArray[np.bool_]

ALPHA = 0.05
ERRORS, SLOW = 0, 2
"""Columns of the counts that the formulas judge."""

POINT, JUDGEMENT = 6, 30
"""Looks of one of Kayenta's points, and between two of its judgements."""

WARMUP_LOOKS = 3
"""Intervals of a warm-up of 30 s: the formulas leave them out, too."""


class Recorded:
    """The counts of every look after the warm-up: `mine` and `others` of shape (runs, looks), the events (runs, looks, 4)."""

    def __init__(self, recorded: Sequence[LookCounts], runs: int) -> None:
        looks = recorded[WARMUP_LOOKS:]
        self.mine = np.stack([look.mine[:runs] for look in looks], axis=1)
        self.events = np.stack([look.events[:runs] for look in looks], axis=1)
        self.others = np.stack([look.others[:runs] for look in looks], axis=1)
        self.other_events = np.stack([look.other_events[:runs] for look in looks], axis=1)


def flagger(traffic: Recorded, *, success: float, checks: int = 5, every: int = 6) -> Alarms:
    """Roll back at the fifth check, one a minute, whose success rate is below the minimum."""
    looks = traffic.mine.shape[1] // every * every
    total = traffic.mine[:, :looks].reshape(len(traffic.mine), -1, every).sum(axis=2)
    failed = traffic.events[:, :looks, ERRORS].reshape(len(traffic.mine), -1, every).sum(axis=2)
    return np.asarray(((failed > (1 - success) * total + 1e-9) & (total > 0)).sum(axis=1) >= checks)


def _each(traffic: Recorded, judge: Callable[[Counts, Counts, Counts, Counts], Alarms]) -> Alarms:
    alarms = [
        judge(traffic.mine, traffic.events[..., column], traffic.others, traffic.other_events[..., column])
        for column in (ERRORS, SLOW)
    ]
    return np.asarray(alarms[0] | alarms[1])


def z_test(traffic: Recorded) -> Alarms:
    """Roll back at any look at which the pooled z-test of all requests so far says worse at one-sided 95%."""

    def judge(mine: Counts, events: Counts, others: Counts, other_events: Counts) -> Alarms:
        n, x, m, y = (count.cumsum(axis=1) for count in (mine, events, others, other_events))
        pooled = (x + y) / (n + m)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (x / n - y / m) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        return np.asarray((z > norm.ppf(1 - ALPHA)).any(axis=1))

    return _each(traffic, judge)


def kayenta(traffic: Recorded) -> Alarms:
    """Judge all points so far, a point a minute, every five minutes."""

    def judge(mine: Counts, events: Counts, others: Counts, other_events: Counts) -> Alarms:
        points = mine.shape[1] // POINT
        sums = [
            count[:, : points * POINT].reshape(len(mine), points, POINT).sum(axis=2)
            for count in (mine, events, others, other_events)
        ]
        own, theirs = sums[1] / np.maximum(sums[0], 1), sums[3] / np.maximum(sums[2], 1)
        ends = range(JUDGEMENT // POINT, points + 1, JUDGEMENT // POINT)
        return np.asarray(np.any([judged_high(own[:, :end], theirs[:, :end]) for end in ends], axis=0))

    return _each(traffic, judge)


def growthbook(traffic: Recorded, *, tuning: float = 5000) -> Alarms:
    """Roll back when the one-sided confidence sequence of the difference of all rates so far is above 0."""

    def judge(mine: Counts, events: Counts, others: Counts, other_events: Counts) -> Alarms:
        n, x, m, y = (count.cumsum(axis=1) for count in (mine, events, others, other_events))
        both = n + m
        with np.errstate(divide="ignore", invalid="ignore"):
            rate, other = x / n, y / m
            variance = both * (rate * (1 - rate) / n + other * (1 - other) / m)
            alpha = 2 * ALPHA
            rho = tuning * variance / (2 * np.log(1 / alpha) + np.log(1 + 2 * np.log(1 / alpha)))
            spread = variance * both + rho
            radius = np.sqrt(spread * np.log(spread / (rho * alpha**2))) / both
            return np.asarray(((rate - other > radius) & (variance > 0)).any(axis=1))

    return _each(traffic, judge)


def first_rule(traffic: Recorded) -> Alarms:
    """Our own first rule: every request independent, the average of the e-values of errors, latency and a candidate alone."""
    alarms = np.zeros(len(traffic.mine), dtype=np.bool_)
    for run in range(len(alarms)):
        alarms[run] = _first_rule_alarms(
            traffic.mine[run], traffic.events[run], traffic.others[run], traffic.other_events[run]
        )
    return alarms


def _first_rule_alarms(mine: Counts, events: Counts, others: Counts, other_events: Counts) -> bool:
    margins = (1.0, LATENCY_MARGIN, LATENCY_MARGIN, LATENCY_MARGIN)
    stakes = [betting.opening_stake(betting.LATE) for _ in margins]
    intervals = [0] * len(margins)
    for look in range(len(mine)):
        logs = []
        for test, margin in enumerate(margins):
            counts = int(mine[look]), int(others[look]), int(events[look, test] + other_events[look, test])
            if is_informative(*counts):
                points = np.log(margin) + np.concatenate([[0.0], betting.ALTERNATIVES])
                normaliser = log_normaliser(*counts, points)
                ratios = events[look, test] * betting.ALTERNATIVES - (normaliser[1:] - normaliser[0])
                stakes[test] = betting.bet(stakes[test], ratios, intervals=intervals[test], late=betting.LATE)
                intervals[test] += 1
            logs.append(float(betting.log_evidence(stakes[test], intervals=intervals[test], late=betting.LATE)))
        latency = float(logsumexp(logs[1:])) - np.log(len(logs) - 1)
        if logsumexp([logs[0], latency, 0.0]) - np.log(3) >= -np.log(ALPHA):
            return True
    return False


PEERS: dict[str, Callable[[Recorded], Alarms]] = {
    "Flagger, success >= 99%": lambda traffic: flagger(traffic, success=0.99),
    "Flagger, success >= 97%": lambda traffic: flagger(traffic, success=0.97),
    "z-test, peeking": z_test,
    "Kayenta's judge": kayenta,
    "GrowthBook's sequence": growthbook,
}
