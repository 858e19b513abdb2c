"""What a plan would do to an endpoint's own traffic: its recorded counts, dealt out again as if the same version were released.

Blocks of time are drawn at random and put one after the other, so that slow phases stay whole (the moving blocks bootstrap:
Kuensch 1989, Ann. Statist. 17). Stable and candidate get two different blocks, as two deployments have their slow phases at
different times, but of the same hours, whose load and rates they share. Each request of an interval goes to the candidate with
the probability of its weight; what it is answered is drawn from the candidate's block without putting back, so that
thinning adds no noise of its own.

It is as if the candidate ran as the stable does: as many replicas, each with the same load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlflow_istio.core.analysis.history import History, Whole
from mlflow_istio.core.analysis.measures import STREAM_MEASURES
from mlflow_istio.core.release.edges import missing_edge
from mlflow_istio.core.release.kpi_kinds import KPI_KINDS
from mlflow_istio.core.release.plan import PHASE_UNKNOWN, ReleasePlan
from mlflow_istio.core.release.replay import Counts, Replay, replayed
from mlflow_istio.errors import InvalidInput

SHORTEST_BLOCK = 60.0
"""Seconds of a block at least."""

BLOCK_PHASES = 3
"""How many times as long as the longest phase a block is."""

ENOUGH_BLOCKS = 8
"""Blocks' length of data that a history must have at least."""

NEAR = 1800.0
"""Seconds that the two blocks of an interval lie apart at most: the same hour has the same load."""

ODDS = (1.0, 2.0, 4.0)
"""The odds of an error, as a multiple of the stable's, of the versions that are rehearsed."""


Cells: TypeAlias = NDArray[np.int64]
Told: TypeAlias = Callable[[int, int], None]
"""Told how many of how many releases are over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """How releases of one kind of version went.

    Attributes:
        odds: Its odds of an error, as a multiple of the stable's.
        runs: How many were rehearsed.
        promoted: Of these, the promoted ones.
        rolled_back: Of these, the ones rolled back.
        inconclusive: Of these, the ones that the deadline ended.
        seconds: Of each that was promoted (of an equal version) or rolled back (of a worse one), how long that took; in order.
    """

    odds: float
    runs: int
    promoted: int
    rolled_back: int
    inconclusive: int
    seconds: tuple[float, ...]

    def share(self, count: int) -> tuple[float, float]:
        """A count as a share of the runs, and its standard error.

        The error is taken with two runs of either outcome added (Agresti and Coull 1998): none of five is no proof of never.
        """
        added = (count + 2) / (self.runs + 4)
        return count / self.runs, math.sqrt(added * (1 - added) / (self.runs + 4))

    def within(self, share: float) -> float | None:
        """Seconds within which such a share of all runs was there; None where fewer ever were."""
        needed = math.ceil(share * self.runs)
        return self.seconds[needed - 1] if len(self.seconds) >= needed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a plan would do.

    Attributes:
        phase: The longest slow phase that the history shows, in seconds; None: it shows too little.
        block: Seconds of a block.
        horizon: Seconds that each rehearsed release could last.
        cases: An equal version first, then worse ones.
    """

    phase: float | None
    block: float
    horizon: float
    cases: tuple[Case, ...]


def rehearse(
    plan: ReleasePlan,
    history: History,
    *,
    runs: int,
    horizon: float,
    seed: int = 0,
    told: Told = lambda _done, _all: None,
) -> Rehearsal:
    """Rehearse releases of an equal version, and of versions with more errors, on a recorded history.

    Args:
        plan: The plan; its looks come once a step of the history. Where it leaves the phase open, the history's counts.
        history: What the stable has answered.
        runs: Releases of each kind.
        horizon: Seconds that each may last.
        seed: The same seed deals out the same.
        told: Told how far it is.

    Raises:
        InvalidInput: The history is too short for the blocks, does not hold what a guard judges, or the plan can't be replayed.
    """
    _check_guards(plan, history)
    phase = history.phase()
    reckoned = plan.phase if plan.phase is not None else PHASE_UNKNOWN if phase is None else phase
    plan = replace(plan, phase=reckoned, interval=history.step)
    blocks = Blocks.of(history, max(SHORTEST_BLOCK, BLOCK_PHASES * (PHASE_UNKNOWN if phase is None else phase)))
    looks = max(1, math.floor(min(horizon, plan.deadline + history.step) / history.step))
    rate = float(history.errors.sum() / max(1, history.requests.sum()))
    cases = []
    multiples = ODDS if 0 < rate < 1 else ODDS[:1]
    for number, odds in enumerate(multiples):
        ended = []
        for run in range(runs):
            traffic = Resampled(
                blocks, plan.deployments, np.random.default_rng((seed, number, run)), more_errors(rate, odds)
            )
            ended.append(replayed(plan, traffic, looks=looks))
            told(number * runs + run + 1, runs * len(multiples))
        cases.append(_case(odds, ended, plan.interval))
    return Rehearsal(phase=phase, block=blocks.length * history.step, horizon=looks * history.step, cases=tuple(cases))


_ELSEWHERE = KPI_KINDS | set(STREAM_MEASURES) | {"unfinished"}
"""Kinds of guards that judge what is neither a request, nor an error, nor how long an answer took."""


def _check_guards(plan: ReleasePlan, history: History) -> None:
    """Refuse a guard that would wait for its figures for ever: the rehearsal would say that nothing is ever promoted.

    Raises:
        InvalidInput: Names the guard.
    """
    leave_out = "leave it out of 'analysis' for the rehearsal"
    for guard in plan.guards:
        if guard.kind in _ELSEWHERE and not guard.streams:
            raise InvalidInput(
                f"guard '{guard.name}' ({guard.kind}) judges what a history does not hold: requests, errors and how long answers "
                f"took are dealt out; {leave_out}"
            )
        if not history.slower_than and (guard.kind == "latency" or guard.slower_than is not None):
            raise InvalidInput(
                f"guard '{guard.name}': the history does not say how long answers took, or no edge parts them; {leave_out}"
            )
    if problem := missing_edge(plan, history.slower_than, "the history"):
        raise InvalidInput(problem)


def more_errors(rate: float, odds: float) -> float:
    """The share of the requests that went well that must fail for the odds of an error to be so many times as high."""
    worse = odds * rate / (1 - rate + odds * rate)
    return (worse - rate) / (1 - rate) if rate < 1 else 0.0


def _case(odds: float, ended: list[Replay], interval: float) -> Case:
    counts = {word: sum(run.outcome == word for run in ended) for word in ("promoted", "rolled-back", "inconclusive")}
    wanted = "promoted" if odds == 1 else "rolled-back"
    return Case(
        odds=odds,
        runs=len(ended),
        promoted=counts["promoted"],
        rolled_back=counts["rolled-back"],
        inconclusive=counts["inconclusive"],
        seconds=tuple(sorted(run.look * interval for run in ended if run.outcome == wanted)),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """A history by blocks.

    Attributes:
        length: Steps of a block.
        starts: Where a block may begin: all of its steps have data.
        edges: Latency edges in milliseconds.
        errors: Errors of each step.
        cells: Of each step, the answers between one edge and the next, the fastest first; shape (steps, edges + 1).
        near: Steps that two blocks lie apart at most.
    """

    length: int
    starts: Whole
    edges: tuple[float, ...]
    errors: Whole
    cells: Cells
    near: int

    @classmethod
    def of(cls, history: History, seconds: float) -> Blocks:
        """The blocks of a history, of at least so many seconds each.

        Raises:
            InvalidInput: It has too little data for them.
        """
        length = math.ceil(seconds / history.step)
        block, needed = _minutes(length * history.step), ENOUGH_BLOCKS * length * history.step
        more = "wait, or ask a source that remembers more"
        if history.seconds < needed:
            there = _minutes(history.seconds)
            raise InvalidInput(
                f"{there} of history are too short for blocks of {block}: at least {_minutes(needed)} are needed; {more}"
            )
        whole = np.convolve(history.known.astype(np.int64), np.ones(length, dtype=np.int64), mode="valid") == length
        starts = np.flatnonzero(whole)
        if len(starts) == 0 or starts[-1] - starts[0] < length:
            gaps = f"{len(history.gaps)} gaps of up to {_minutes(max(history.gaps, default=0.0))}"
            raise InvalidInput(f"the history has {gaps} and no two blocks of {block} without one: {more}")
        edges = tuple(history.slower_than)
        slower = [history.requests, *history.slower_than.values(), np.zeros_like(history.requests)]
        cells = np.stack([more - fewer for more, fewer in pairwise(slower)], axis=1)
        near = max(math.ceil(NEAR / history.step), 4 * length)
        return cls(length=length, starts=starts, edges=edges, errors=history.errors, cells=cells, near=near)

    def pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """Where two blocks begin that don't overlap and lie near each other, if there are such."""
        first = int(rng.choice(self.starts))
        low, high = np.searchsorted(self.starts, (first - self.near, first + self.near + 1))
        near = self.starts[low:high]
        for others in (near, self.starts):
            apart = others[np.abs(others - first) >= self.length]
            if len(apart):
                return first, int(rng.choice(apart))
        return int(self.starts[0]), int(self.starts[-1])  # the first one lies between the only two that are apart


class Resampled:
    """Traffic that deals a history's counts out again, for one release; see ``core.release.replay.Traffic``.

    Args:
        blocks: The history.
        names: Names of the stable and of the candidate.
        rng: Where chance comes from.
        failing: Share of the candidate's good answers that fail.
    """

    def __init__(self, blocks: Blocks, names: Sequence[str], rng: np.random.Generator, failing: float) -> None:
        self._blocks, self._rng, self._failing = blocks, rng, failing
        self._stable, self._candidate = names
        self._left, self._at = 0, (0, 0)

    def __call__(self, _look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        """The counts of the next interval."""
        if not self._left:
            self._left, self._at = self._blocks.length, self._blocks.pair(self._rng)
        own, other = self._at
        self._left, self._at = self._left - 1, (own + 1, other + 1)
        total = int(self._blocks.cells[own].sum())
        candidate = int(self._rng.binomial(total, weights[self._candidate] / 100))
        return {
            self._stable: self._dealt(own, total - candidate, 0.0),
            self._candidate: self._dealt(other, candidate, self._failing),
        }

    def _dealt(self, step: int, requests: int, failing: float) -> Counts:
        """So many answers as those of a step; where it has fewer, the rest is drawn with putting back."""
        rng, cells = self._rng, self._blocks.cells[step]
        there = int(cells.sum())
        errors = int(self._blocks.errors[step])
        taken = min(requests, there)
        failed = int(rng.hypergeometric(errors, there - errors, taken)) if taken else 0
        drawn = rng.multivariate_hypergeometric(cells, taken, method="marginals") if taken else np.zeros_like(cells)
        if requests > taken:
            share, kinds = (errors / there, cells / there) if there else self._overall()
            failed += int(rng.binomial(requests - taken, share))
            drawn = drawn + rng.multinomial(requests - taken, kinds)
        if failing:
            failed += int(rng.binomial(requests - failed, failing))
        slower = np.cumsum(drawn[::-1])[::-1][1:]
        return Counts(
            requests=requests,
            errors=failed,
            slower_than={edge: int(count) for edge, count in zip(self._blocks.edges, slower, strict=True)},
        )

    def _overall(self) -> tuple[float, NDArray[np.float64]]:
        total = self._blocks.cells.sum(axis=0)
        return float(self._blocks.errors.sum() / total.sum()), total / total.sum()


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
