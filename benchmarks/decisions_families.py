"""How servers are slow and fail: the families of traffic that the promise is kept for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Shares = NDArray[np.float32]

LOOK = 10.0
"""Seconds between two looks."""

REQUESTS_PER_SECOND = 30.0

CALM = np.array([0.01, 0.5, 0.08, 0.01])
"""Rates while all is well: of errors, and of answers over the edges nearest to the median, the 90th and the 99th percentile."""

IN_PHASE = np.array([0.07, 0.85, 0.40, 0.10])
"""Rates of a replica in a slow phase."""

IN_BURST = np.array([0.5, 0.5, 0.08, 0.01])
"""Rates of a replica in a burst of errors."""

COLD = np.array([0.01, 0.85, 0.30, 0.07])
"""Rates of the candidate's first requests."""

COLD_REQUESTS = 300
LOAD = 3.0
"""Odds of a slow answer on a replica with all the traffic, against those on an idle one: a queue at about half its capacity."""

DAY = 86400.0

INCIDENT = (3600.0, 120.0, 10.0)
"""Every so many seconds an incident of so many seconds that multiplies the odds on both sides by so much."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Family:
    """One kind of traffic.

    Attributes:
        name: The row's heading.
        seconds: Mean length of a phase of one replica (they begin at random); 0: none.
        every: Seconds from the start of one to the start of the next, on average.
        spread: How far the length of a phase is from the mean at most, as a part of it; 0: all are equally long.
        besides: Phases of another kind, in seconds as `seconds` and `every` are; (0, 0): none.
        wave: How many times the requests of the busiest hour are those of the quietest, through a day of `DAY` seconds.
        replicas: The candidate's and the stable's.
        calm: Rates outside phases: errors, then three edges.
        phase: Rates in one.
        incidents: Whether incidents hit both sides alike.
        cold: Whether the candidate's first requests are slow.
        control: Whether the candidate is compared with a control of its own replicas and share, not with the stable.
        load: How many times the odds of a slow answer grow from an idle replica to one that has all the traffic; 1: they don't.
    """

    name: str
    seconds: float = 0.0
    every: float = 0.0
    spread: float = 0.0
    besides: tuple[float, float] = (0.0, 0.0)
    wave: float = 1.0
    replicas: tuple[int, int] = (1, 1)
    calm: Floats
    phase: Floats
    incidents: bool = False
    cold: bool = False
    load: float = 1.0
    control: bool = False

    @property
    def compared(self) -> tuple[int, int]:
        """Replicas of the candidate, and of what it is compared with."""
        return (self.replicas[0], self.replicas[0] if self.control else self.replicas[1])


def _family(name: str, **what: object) -> Family:
    return Family(**{"name": name, "calm": CALM, "phase": IN_PHASE, **what})  # type: ignore[arg-type]


FAMILIES = (
    _family("independent"),
    _family("1 s every 20 s", seconds=1.0, every=20.0),
    _family("5 s every minute", seconds=5.0, every=60.0),
    _family("20 s every 5 min", seconds=20.0, every=300.0),
    _family("20 s every 5 min, 3 replicas", seconds=20.0, every=300.0, replicas=(3, 3)),
    _family("60 s every 15 min", seconds=60.0, every=900.0),
    _family("60 s every 15 min, 3 replicas", seconds=60.0, every=900.0, replicas=(3, 3)),
    _family("60 s every 15 min, 5 replicas", seconds=60.0, every=900.0, replicas=(5, 5)),
    _family("60 s every 15 min, 1 against 4", seconds=60.0, every=900.0, replicas=(1, 4)),
    _family("60 s every 15 min, 4 against 1", seconds=60.0, every=900.0, replicas=(4, 1)),
    _family(
        "errors 0.2%, bursts of 3 s every 10 min",
        seconds=3.0,
        every=600.0,
        calm=np.array([0.002, 0.5, 0.08, 0.01]),
        phase=IN_BURST,
    ),
    _family("incidents on both, 2 min every hour", incidents=True),
    _family("cold start", cold=True),
    _family("load, 1 against 1", load=LOAD),
    _family("load, 1 against 4", load=LOAD, replicas=(1, 4)),
    _family("60 s every 15 min, 1 against 4, a control", seconds=60.0, every=900.0, replicas=(1, 4), control=True),
    _family("60 s every 15 min, 4 against 1, a control", seconds=60.0, every=900.0, replicas=(4, 1), control=True),
    _family("load, 1 against 4, a control", load=LOAD, replicas=(1, 4), control=True),
)
"""Of those with load one version's replica has up to four times (and at 5% a nineteenth of) the load of the other's, but for a
control's."""

HELD_OUT = (
    _family("5 to 55 s every 8 min, 2 replicas", seconds=30.0, every=480.0, spread=25 / 30, replicas=(2, 2)),
    _family("1 s every 20 s and 45 s every 12 min", seconds=1.0, every=20.0, besides=(45.0, 720.0)),
    _family("45 s every 10 min, mild", seconds=45.0, every=600.0, phase=np.array([0.02, 0.6, 0.16, 0.03])),
    _family("20 s every 5 min, 2 replicas, busy by day", seconds=20.0, every=300.0, replicas=(2, 2), wave=5.0),
    _family(
        "errors 1%, 5 to 15 s of 20% every 5 min, 3 replicas",
        seconds=10.0,
        every=300.0,
        spread=0.5,
        phase=np.array([0.2, 0.5, 0.08, 0.01]),
        replicas=(3, 3),
    ),
)
"""Families on which no constant was chosen; they were written down after the last one was."""


def shares_in_phases(rng: np.random.Generator, runs: int, looks: int, family: Family, replicas: int) -> Shares:
    """Return how much of each look the replicas of one side spend in phases of any kind, shape (looks, runs)."""
    shares = phase_shares(rng, runs, looks, family.seconds, family.every, replicas, family.spread)
    if family.besides[0]:
        shares = 1 - (1 - shares) * (1 - phase_shares(rng, runs, looks, *family.besides, replicas))
    return shares


def requests_per_look(family: Family, number: int) -> float:
    """Return how many requests a look has on average; the mean over a day is the same for all families."""
    swing = (family.wave - 1) / (family.wave + 1)
    return REQUESTS_PER_SECOND * LOOK * (1 + swing * float(np.sin(2 * np.pi * number * LOOK / DAY)))


def phase_shares(
    rng: np.random.Generator, runs: int, looks: int, seconds: float, every: float, replicas: int, spread: float = 0.0
) -> Shares:
    """Return how much of each look the replicas of one side spend in phases of one kind, shape (looks, runs)."""
    shares = np.zeros((looks, runs), dtype=np.float32)
    if not seconds:
        return shares
    edges = np.arange(looks + 1) * LOOK
    most = int(looks * LOOK / every * 1.6 + 12)
    gap = every - seconds
    for _ in range(replicas):
        # Stationary: at the start each is in a phase with the probability of any other moment.
        inside = rng.random(runs) < seconds / every
        lasts = seconds * (1 + spread * rng.uniform(-1, 1, (runs, most))) if spread else np.full((runs, most), seconds)
        first = np.where(inside, -rng.random(runs) * lasts[:, 0], rng.exponential(gap, runs))
        waits = rng.exponential(gap, (runs, most - 1))
        starts = first[:, None] + np.concatenate(
            [np.zeros((runs, 1)), np.cumsum(waits + lasts[:, :-1], axis=1)], axis=1
        )
        before = np.concatenate([np.zeros((runs, 1)), np.cumsum(lasts, axis=1)], axis=1)
        for run in range(runs):
            begun = np.searchsorted(starts[run], edges, side="right")
            last = np.maximum(begun - 1, 0)
            inside_last = np.minimum(edges - starts[run, last], lasts[run, last])
            spent = np.where(begun > 0, before[run, last] + inside_last, 0.0)
            shares[:, run] += (np.diff(spent) / (LOOK * replicas)).astype(np.float32)
    return np.clip(shares, 0.0, 1.0)


def load_factors(family: Family, share: Floats) -> tuple[Floats, Floats]:
    """Return what the odds of a slow answer are multiplied by on the candidate and on the other side, for each of its shares."""
    candidate, other = family.compared
    rest = np.minimum(share, 1 - share) if family.control else 1 - share
    return 1 + (family.load - 1) * share / candidate, 1 + (family.load - 1) * rest / other


def incident_looks(looks: int) -> Floats:
    """Return what the odds on both sides are multiplied by at each look."""
    every, lasts, factor = INCIDENT
    middle = (np.arange(looks) + 0.5) * LOOK
    return np.where(middle % every >= every - lasts, factor, 1.0)


def with_odds(rates: Floats, factor: Floats | float) -> Floats:
    """Return rates whose odds are so many times higher."""
    odds = rates / (1 - rates) * factor
    return np.asarray(odds / (1 + odds))
