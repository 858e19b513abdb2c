"""Whole releases by the engine itself (`mlflow_istio.testing.replay`): gross failure, and a sample beside the vectorised port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions_families import CALM, LOOK, Family
from benchmarks.decisions_plan import NEVER, LookCounts, simulate
from mlflow_istio.testing import Counts, Replay, replay

EDGES_MS = (20.0, 60.0, 150.0)
"""Stand for the edges nearest to the median, the 90th and the 99th percentile."""

GROSS_EDGE_MS = 200.0
"""Nearest to ten times the median."""

HISTORY = Counts(requests=300, errors=3, slower_than={20.0: 150, 60.0: 30, 150.0: 3})
"""What the stable answers at look 1: its quantiles lie at the three edges."""

WARMUP_LOOKS = 4
"""Looks until the warm-up of 30 s is over: from the start at look 1."""

BUSY = 60.0
"""Requests a second at which 5% are enough for the rule in a single look: 20 are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """One release by the engine and by the port.

    Attributes:
        engine: How it ended by the engine.
        outcome: The same word by the port.
        look: At which look by the port.
    """

    engine: Replay
    outcome: str
    look: int

    @property
    def agrees(self) -> bool:
        """Whether both end alike, or the engine waits longer: the exact e-process must agree with it, too."""
        return self.engine.outcome == self.outcome or (self.engine.outcome == "open" and self.outcome != "open")

    @property
    def at_once(self) -> bool:
        """Whether both end alike at the same look."""
        return (self.engine.outcome, self.engine.look) == (self.outcome, self.look)


def beside(family: Family, runs: int, looks: int, seed: int, odds: NDArray[np.float64] | None = None) -> list[Beside]:
    """Run the same counts through the port and through the engine."""
    outcome = simulate(family, runs, looks, np.random.default_rng([seed, 8]), record=looks, odds=odds)
    found = []
    for run in range(runs):
        engine = replayed(outcome.recorded, run, looks)
        ended = min(outcome.rolled_back[run], outcome.promoted[run])
        word = "open" if ended == NEVER else "promoted" if outcome.promoted[run] == ended else "rolled-back"
        found.append(Beside(engine=engine, outcome=word, look=int(min(ended, looks))))
    return found


def replayed(recorded: Sequence[LookCounts], run: int, looks: int) -> Replay:
    """Return how the engine ends a release on recorded counts.

    Raises:
        RuntimeError: The engine gives the candidate another share than the port did.
    """

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        if look == 1:
            return {"stable": HISTORY}
        counts = recorded[look - 2]
        if abs(100 * counts.share[run] - weights["candidate"]) > 1e-9:
            raise RuntimeError(
                f"look {look}: {weights['candidate']:g}% by the engine, {100 * counts.share[run]:g}% by the port"
            )
        return {
            "candidate": _counts(int(counts.mine[run]), counts.events[run]),
            "stable": _counts(int(counts.others[run]), counts.other_events[run]),
        }

    return replay({}, traffic, looks=looks)


def _counts(requests: int, events: NDArray[np.int64]) -> Counts:
    errors, *slower = events.tolist()
    return Counts(requests=requests, errors=errors, slower_than=dict(zip(EDGES_MS, slower, strict=True)))


def gross_looks(runs: int, seed: int, rate: float) -> dict[str, list[int]]:
    """Return after how many looks from the warm-up a grossly bad version is rolled back, by the engine.

    Two versions: one fails 40% of its requests, the other answers 70% slower than ten times the stable's median. The first step
    gives it 5% of so many requests a second.
    """
    rng = np.random.default_rng([seed, 6])
    found: dict[str, list[int]] = {"40% fail": [], "70% are ten times slower": []}
    for name, looks in found.items():
        failing = name.endswith("fail")

        def traffic(_: int, weights: Mapping[str, float], failing: bool = failing) -> dict[str, Counts]:
            return {
                version: _gross_counts(rng, rate * percent / 100, bad=version == "candidate", failing=failing)
                for version, percent in weights.items()
                if percent
            }

        for _ in range(runs):
            ended = replay({}, traffic, looks=60)
            looks.append(ended.look - WARMUP_LOOKS if ended.outcome == "rolled-back" else NEVER)
    return found


def _gross_counts(rng: np.random.Generator, rate: float, *, bad: bool, failing: bool) -> Counts:
    requests = int(rng.poisson(LOOK * rate))
    errors = int(rng.binomial(requests, 0.4 if bad and failing else CALM[0]))
    slower = {}
    left = requests
    for edge, rate in zip((*EDGES_MS, GROSS_EDGE_MS), (*CALM[1:], 0.002), strict=True):
        wanted = 0.7 if bad and not failing else float(rate)
        left = min(left, int(rng.binomial(requests, wanted)))
        slower[edge] = left
    return Counts(requests=requests, errors=errors, slower_than=slower)
