"""The promise, row by row: what is simulated for each, its limit, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions_families import FAMILIES, LOOK, Family
from benchmarks.decisions_peers import PEERS, Recorded, first_rule
from benchmarks.decisions_plan import EDGES, NEVER, Plan, simulate
from benchmarks.decisions_watch import HOURS, WATCHED, taken_back

Floats = NDArray[np.float64]

CHUNK = 125
"""Releases that are simulated at once: their state fits the caches, and both cores are busy to the end."""

PEER_LOOKS = 361
"""An hour: what the first rule and the peers' formulas are shown."""

FIRST_RULE_RUNS = 40
"""The exact sums of the first rule cost most; a standard error of 8 points shows what there is to show."""

ALLOWED = 1.5
THREE_TIMES = 3 * ALLOWED
BAD_HOURS = 24
ONLY_ODDS = Plan(allowed_differences=None)
AT_A_FIFTH = Plan(steps=(20.0,), allowed_differences=None)
FREQUENT, FREQUENT_IN_PHASE = np.array([0.05, 0.5, 0.2, 0.05]), np.array([0.29, 0.85, 0.6, 0.35])
"""Rates of the rows on promotion: what is compared happens to at least one request in twenty."""

BAD = {
    "errors": np.array([THREE_TIMES, 1.0, 1.0, 1.0]),
    "slow answers": np.array([1.0] + [THREE_TIMES] * EDGES),
    "the slowest hundredth": np.array([1.0, 1.0, 1.0, THREE_TIMES]),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """What one worker simulates at once.

    Attributes:
        kind: ``equal``, ``bad``, ``promoted`` or ``watch``.
        family: The traffic.
        number: Of the chunk, from 0: a part of its seed.
        runs: How many releases.
        hours: How long.
        what: ``bad``: what is worse; a key of `BAD`. ``watch``: `TURNS_BAD`, or nothing.
    """

    kind: str
    family: Family
    number: int
    runs: int
    hours: float
    what: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """So many of so many."""

    hits: int
    runs: int

    @property
    def rate(self) -> float:
        """The share."""
        return self.hits / self.runs

    @property
    def error(self) -> float:
        """Its standard error; not 0 where nothing was seen."""
        shrunk = (self.hits + 1) / (self.runs + 2)
        return float(np.sqrt(shrunk * (1 - shrunk) / self.runs))

    def __str__(self) -> str:
        """Such as ``2.4 ±0.5%``."""
        return f"{100 * self.rate:.1f} ±{100 * self.error:.1f}%"


@dataclass(kw_only=True)
class Found:
    """Hits by name, of so many runs: what workers bring and what is added up."""

    hits: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, hits: NDArray[np.bool_]) -> None:
        """Count the hits of some runs."""
        self.hits[name] = self.hits.get(name, 0) + int(hits.sum())
        self.runs[name] = self.runs.get(name, 0) + len(hits)

    def merge(self, other: Found) -> None:
        """Add those of another worker."""
        for name, hits in other.hits.items():
            self.hits[name] = self.hits.get(name, 0) + hits
            self.runs[name] = self.runs.get(name, 0) + other.runs[name]

    def share(self, name: str) -> Share:
        """The share under a name."""
        return Share(hits=self.hits[name], runs=self.runs[name])


def looks_in(hours: float) -> int:
    """Return the number of the last look: the first one only starts the release."""
    return round(hours * 3600 / LOOK) + 1


def at_hours(hours: float) -> tuple[float, ...]:
    """Return at which times the first rows are read: 1, 4 and 24 hours as far as there are so many, or what there is."""
    return tuple(time for time in (1.0, 4.0, 24.0) if time <= hours) or (hours,)


def run(task: Task, seed: int) -> Found:
    """Simulate one task."""
    rng = np.random.default_rng([seed, sum(map(ord, task.kind + task.family.name + task.what)), task.number])
    found = Found()
    if task.kind == "equal":
        _equal(task, rng, found)
    elif task.kind == "bad":
        outcome = simulate(
            task.family,
            task.runs,
            looks_in(task.hours),
            rng,
            plan=ONLY_ODDS,
            odds=BAD[task.what],
            until_decided=True,
        )
        found.add("promoted", outcome.promoted < outcome.rolled_back)
    elif task.kind == "watch":
        odds = WORSE if task.what else None
        backs = [taken_back(task.family, rng, task.hours, odds) for _ in range(task.runs)]
        found.add(task.what or "stays equal", np.array([back is not None for back in backs]))
    else:
        outcome = simulate(task.family, task.runs, looks_in(task.hours), rng, plan=AT_A_FIFTH, until_decided=True)
        found.add("promoted", outcome.promoted < NEVER)
    return found


def _equal(task: Task, rng: np.random.Generator, found: Found) -> None:
    recorded = PEER_LOOKS if task.number == 0 else 0
    outcome = simulate(task.family, task.runs, looks_in(task.hours), rng, record=recorded)
    for time in at_hours(task.hours):
        last = looks_in(time)
        found.add(f"rolled back {time:g}", outcome.rolled_back <= last)
        found.add(f"missed {time:g}", outcome.missed.min(axis=1) <= last)
    found.add("gross", outcome.alarms[:, 2] < NEVER)
    found.add("stated", outcome.stated)
    if recorded:
        traffic = Recorded(outcome.recorded, task.runs)
        for name, rule in PEERS.items():
            found.add(name, rule(traffic))
        found.add("first rule", first_rule(Recorded(outcome.recorded, min(task.runs, FIRST_RULE_RUNS))))


def chunks(runs: int) -> Iterable[tuple[int, int]]:
    """Return number and size of each chunk."""
    for number, start in enumerate(range(0, runs, CHUNK)):
        yield number, min(CHUNK, runs - start)


def equal_tasks(runs: int, hours: float, families: Sequence[Family] = FAMILIES) -> list[Task]:
    """What rows 1 and 2, and the peers' rows, need."""
    return [
        Task(kind="equal", family=family, number=number, runs=size, hours=hours)
        for family in families
        for number, size in chunks(runs)
    ]


def bad_tasks(runs: int, families: Sequence[Family] = FAMILIES) -> list[Task]:
    """What row 3 needs."""
    return [
        Task(kind="bad", family=family, number=number, runs=size, hours=BAD_HOURS, what=what)
        for family in families
        for what in BAD
        for number, size in chunks(runs)
    ]


TURNS_BAD = "errors x10 halfway"
WORSE = np.array([10.0, 1.0, 1.0, 1.0])
WATCH_CHUNK = 10


def watch_tasks(runs: int, families: Sequence[Family] = WATCHED) -> list[Task]:
    """What row 7 needs; the engine itself runs it, which takes seconds a watch."""
    return [
        Task(kind="watch", family=family, number=number, runs=min(WATCH_CHUNK, many - start), hours=HOURS, what=what)
        for family in families
        for what, many in (("", runs), (TURNS_BAD, max(runs // 4, 5)))
        for number, start in enumerate(range(0, many, WATCH_CHUNK))
    ]


_THREE_REPLICAS = Family(
    name="60 s every 15 min, 3 replicas",
    seconds=60.0,
    every=900.0,
    replicas=(3, 3),
    calm=FREQUENT,
    phase=FREQUENT_IN_PHASE,
)
PROMOTED = (
    (Family(name="independent", calm=FREQUENT, phase=FREQUENT_IN_PHASE), 0.75, 0.95),
    (_THREE_REPLICAS, 1.0, 0.4),
    (FAMILIES[0], 0.75, None),
)
"""Traffic of row 4, hours, and the share that must be promoted by then; the last is no promise: it shows what rare events cost."""


def promoted_tasks(runs: int) -> list[Task]:
    """What row 4 needs."""
    return [
        Task(kind="promoted", family=family, number=10 * place + number, runs=size, hours=hours, what=str(place))
        for place, (family, hours, _) in enumerate(PROMOTED)
        for number, size in chunks(runs)
    ]
