"""Servers with slow phases: replicas that answer badly for a while and well again, as real ones do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Phases:
    """How replicas are slow: phases of a length, at random times.

    Attributes:
        seconds: How long each lasts; 0: there are none.
        every: Seconds from one to the next, on average.
        replicas: How many replicas share the load, each with phases of its own.
        rate: Requests a second in all.
        usual: Share of events outside of phases.
        slow: Share of events inside.
    """

    seconds: float = 0.0
    every: float = 60.0
    replicas: int = 1
    rate: float = 30.0
    usual: float = 0.05
    slow: float = 0.35


def in_phase(rng: np.random.Generator, seconds: int, phases: Phases) -> Floats:
    """How much of each second one replica is in a phase, shape (seconds,)."""
    fine = np.zeros(seconds * 10)
    at = -rng.uniform(0, phases.every)
    while phases.seconds and at < seconds:
        at += rng.exponential(phases.every - phases.seconds)
        fine[max(0, round(10 * at)) : max(0, round(10 * (at + phases.seconds)))] = 1
        at += phases.seconds
    return np.asarray(fine.reshape(seconds, 10).mean(axis=1))


def shares(rng: np.random.Generator, seconds: int, *kinds: Phases) -> Floats:
    """Probability of an event in each second, shape (seconds,); of several kinds of phases the worst counts."""
    first = kinds[0]
    total = np.zeros(seconds)
    for _ in range(first.replicas):
        slow = np.max([in_phase(rng, seconds, kind) for kind in kinds], axis=0)
        total += first.usual + (first.slow - first.usual) * slow
    return total / first.replicas


def history(rng: np.random.Generator, seconds: int, interval: int, *kinds: Phases, probability: Any = None) -> Floats:
    """Events and requests of each interval, shape (intervals, 2)."""
    requests = rng.poisson(kinds[0].rate, seconds)
    events = rng.binomial(requests, shares(rng, seconds, *kinds) if probability is None else probability)
    whole = seconds // interval * interval
    counts = np.column_stack([events, requests])[:whole]
    return np.asarray(counts.reshape(-1, interval, 2).sum(axis=1), dtype=np.float64)
