"""The package's `Blocks` for many runs at once: the same sums, evidence and bounds, held to it by a unit test.

Items (a run's guard or edge) may close their blocks at different looks. What depends on closed blocks only is computed when one
closes, which is ever rarer as blocks are merged; a look costs a few operations on arrays of one number an item.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from mlflow_istio.core.analysis.blocks import BLOCK_SHARE, CAPACITY, EVIDENCE_SPREAD, LONG, PROOF_BLOCKS, PROOF_SPREAD

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COLUMNS = 3
ABOVE, INSIDE, BELOW = 1, 0, -1
"""Where an interval lies: all of it above a value, around it (or not known), all of it below."""


class _Observations:
    """Moments of the observations of every item: all but the last, which is still growing, and the last."""

    def __init__(self, items: int) -> None:
        self.number = np.zeros(items)
        self.last = np.zeros((items, COLUMNS))
        self.moments = np.zeros((items, COLUMNS, COLUMNS))

    def rebuild(self, items: NDArray[np.int64], rows: Floats, number: NDArray[np.int64], remainder: Floats) -> None:
        """Take the observations of some items: `rows` (items, most, COLUMNS), 0 from `number` on."""
        last = rows[np.arange(len(items)), np.maximum(number - 1, 0)]
        self.moments[items] = np.einsum("ikc,ikd->icd", rows, rows) - last[:, :, None] * last[:, None, :]
        self.last[items] = last + remainder
        self.number[items] = number


class ManyBlocks:
    """`Blocks` of `items` items."""

    def __init__(self, items: int, phase: float) -> None:
        self.phase = phase
        self.closed = np.zeros((items, CAPACITY, COLUMNS))
        self.count = np.zeros(items, dtype=np.int64)
        self.open = np.zeros((items, COLUMNS))
        self.seconds = np.zeros(items)
        self.span = np.ones(items, dtype=np.int64)
        self.total = np.zeros((items, COLUMNS))
        self._each = _Observations(items)
        self._grouped = _Observations(items)

    def update(self, rows: Floats, seconds: float, counts: Bools) -> None:
        """Take in an interval: rows of shape (items, COLUMNS); not where `counts` is false, or the last number 0."""
        taken = counts & (rows[:, -1] > 0)
        self.open += rows * taken[:, None]
        self.total += rows * taken[:, None]
        self.seconds += seconds * taken
        wanted = self.phase * BLOCK_SHARE * self.span * (1 - 1e-9)
        closing = np.flatnonzero(taken & (self.seconds >= wanted))
        if closing.size:
            self._close(closing)

    def _close(self, items: NDArray[np.int64]) -> None:
        self.closed[items, self.count[items]] = _single(self.open[items])
        self.count[items] += 1
        self.open[items] = 0.0
        self.seconds[items] = 0.0
        full = items[self.count[items] == CAPACITY]
        if full.size:
            merged = self.closed[full].reshape(len(full), -1, 2, COLUMNS).sum(axis=2)
            self.closed[full] = 0.0
            self.closed[full, : CAPACITY // 2] = _single(merged)
            self.count[full] = CAPACITY // 2
            self.span[full] *= 2
        self.total[items] = self.closed[items].sum(axis=1)
        self._each.rebuild(items, self.closed[items], self.count[items], np.zeros((len(items), COLUMNS)))
        sizes = -(-PROOF_BLOCKS // self.span[items])
        for size in np.unique(sizes).tolist():
            self._regroup(items[sizes == size], size)

    def _regroup(self, items: NDArray[np.int64], size: int) -> None:
        most = CAPACITY // size
        whole = self.count[items] // size
        rows = self.closed[items, : most * size].reshape(len(items), most, size, COLUMNS).sum(axis=2)
        rows[np.arange(most)[None, :] >= whole[:, None]] = 0.0
        remainder = self.closed[items].sum(axis=1) - rows.sum(axis=1)
        self._grouped.rebuild(items, rows, whole, remainder)

    def _units(self) -> Floats:
        return np.asarray(self.count * self.span + self.seconds / (self.phase * BLOCK_SHARE))

    def log_evidence(self, theta: Floats, floor: float | Floats = -np.inf) -> Floats:
        """Return `Blocks.log_evidence(theta, **ODDS)` of each item; 0 instead where it is below `floor` for sure."""
        floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), theta.shape)
        evidence = self._factor(self._each, theta, floors)
        twice = (self._units() >= LONG) & (self.span < PROOF_BLOCKS) & (evidence > 0)
        if twice.any():
            threefold = self._factor(self._grouped, theta, np.where(twice, floors, np.inf))
            evidence = np.where(twice, np.minimum(evidence, threefold), evidence)
        return evidence

    def _factor(self, observations: _Observations, theta: Floats, floor: Floats) -> Floats:
        """`log_t_factor` of each item; 0 where it is below the floor for sure."""
        n = observations.number
        last = observations.last + self.open
        moments = observations.moments
        squares = moments[:, 0, 0] - 2 * theta * moments[:, 0, 1] + theta**2 * moments[:, 1, 1]
        squares = squares + (last[:, 0] - theta * last[:, 1]) ** 2
        total = self.total[:, 0] - theta * self.total[:, 1]
        g = EVIDENCE_SPREAD * self._units()
        known = (n >= 2) & (squares > 0)
        n, squares = np.where(known, n, 2.0), np.where(known, squares, 1.0)
        shrunk = g / (1 + g)
        explained = np.where(known, total**2 / (n * squares) * shrunk, 0.0)
        body = -0.5 * np.log1p(g) - n / 2 * np.log1p(-np.minimum(explained, 1 - 1e-15))
        logs = np.zeros(len(n))
        at = np.flatnonzero(known & (body + np.log(2) >= floor))
        if at.size:
            left = squares[at] * (1 - explained[at]) / n[at]
            quantile = shrunk[at] * (total[at] / n[at]) / np.sqrt(left * shrunk[at] / n[at])
            logs[at] = np.log(2 * np.maximum(stdtr(n[at], quantile), 1e-300)) + body[at]
        return logs

    def side(self, theta: float, alpha: float, a: tuple[float, ...], b: tuple[float, ...]) -> NDArray[np.int64]:
        """Return where `Blocks.bounds(alpha, a=a, b=b)` of each item lies: `ABOVE` theta, `BELOW` it, or `INSIDE`."""
        first, second = np.asarray(a), np.asarray(b)
        n = self._grouped.number
        last = self._grouped.last + self.open
        moments = self._grouped.moments

        def product(left: Floats, right: Floats) -> Floats:
            return np.asarray((moments @ right) @ left + (last @ left) * (last @ right))

        g = PROOF_SPREAD * self._units() / PROOF_BLOCKS
        safe = np.maximum(n, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            c = -np.expm1((2 * np.log(alpha) - np.log1p(g)) / safe) * (1 + g) / g
            needed = n * c
            sum_a, sum_b = self.total @ first, self.total @ second
            square = sum_b**2 - needed * product(second, second)
            half = sum_a * sum_b - needed * product(first, second)
            constant = sum_a**2 - needed * product(first, first)
            known = (n >= 2) & (c < 1) & (square > 0) & (half**2 - square * constant >= -1e-9 * half**2)
            outside = known & (square * theta**2 - 2 * half * theta + constant > 0)
            return np.where(outside, np.where(half > square * theta, ABOVE, BELOW), INSIDE)


def _single(rows: Floats) -> Floats:
    """The nearest numbers of single precision, as closed blocks are kept."""
    return np.asarray(rows.astype(np.float32).astype(np.float64))
