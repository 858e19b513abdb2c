r"""Evidence that survives slow phases: sums over blocks of time, each taken as one observation.

Requests of one replica are not independent: it collects garbage, its neighbours are busy, its disk is slow, for seconds or
minutes. Whatever counts requests as independent takes such a phase for a difference (`docs/analysis.md` has the figures). Here
the observations are blocks of time at least about as long as the longest phase, so that a phase moves one or two of them, and
how much blocks differ is measured and not assumed: the method of batch means (Schmeiser 1982, Oper. Res. 30), made sequential.

**What is summed.** A guard gives for each interval numbers `a` and `b` whose *estimating function* `z = a - theta b` has mean 0 at
the true `theta`: Mantel-Haenszel's for an odds ratio (1959, J. Natl. Cancer Inst. 22), `a = x_c (n_b - x_b) / N`,
`b = x_b (n_c - x_c) / N`. It is linear in `theta`, doesn't need the events' rate, which may change from interval to interval as
long as it does so for both versions, and has mean 0 at odds ratio 1 whenever both sides' phases have the same law, whatever the
shares of traffic: a phase of the candidate adds as much as one of the stable takes away.

**Evidence** against `theta <= theta_0`, of `n` blocks with `S = sum z`, `Q = sum z^2`: the Bayes factor of the t-test with a
half-normal prior on the standardised effect (Gonen, Johnson, Lu & Westfall 2005, Amer. Statist. 59), under the right-Haar prior
on the unknown scale. That makes it a martingale in the filtration of the scale-free statistic, so Ville's inequality holds for
normal blocks (Wang & Ramdas 2025, anytime-valid t-tests, arXiv 2310.03722). With `g = tau^2 n` it is

    2 (1+g)^(-1/2) (1 - S^2/(n Q) g/(1+g))^(-n/2) F_n(w),    w = sqrt(g/(1+g)) S / sqrt(Q - S^2/n g/(1+g)),

`F_n` the distribution function of Student's t with `n` degrees of freedom. It depends on the blocks through `S^2/(n Q)` alone,
which for symmetric blocks of whatever unequal spread has tails no heavier than normal ones (Efron 1969, J. Amer. Statist. Assoc.
64).

**Bounds.** `{theta : two-sided factor < 1/alpha}` is `S(theta)^2 <= n c Q(theta)`, a quadratic in `theta` (Fieller 1954), with
`c = (1 - (alpha^2/(1+g))^(1/n)) (1+g)/g`; nothing is bounded while `c >= 1`.

**Merging.** At `CAPACITY` blocks, neighbours are merged: the state stays small, and blocks grow with time, so that dependence
between neighbours (a phase that lies in two) matters ever less. `g` goes on by time, not by the number of blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from mlflow_istio.core.analysis.interval import check_alpha, check_positive
from mlflow_istio.core.analysis.packing import PACKED, PACKED_SINGLE, single
from mlflow_istio.errors import InvalidInput

Floats = NDArray[np.float64]

CAPACITY = 64
"""Closed blocks that are kept; a power of two."""

BLOCK_SHARE = 5 / 6
"""Length of a block as a share of the longest phase. Measured: no more false alarms than with 1, and a sixth fewer requests until
a rollback (`make bench-decisions`)."""

PROOF_BLOCKS = 3
"""So many blocks are one observation where something is to be proven: its error is paid by users for months."""

EVIDENCE_SPREAD = 1.0
"""tau^2 for evidence: a standardised effect of 1 per block, such as ten times the errors at 2 requests a second."""

LONG = 24
"""From so many blocks on, evidence must hold for threefold blocks, too: a phase that lies in two neighbours makes them alike, which
adds up over hours. Measured: a third fewer false alarms where phases are as long as said, and no later rollback in the median."""

FARTHEST = 400.0
"""How many times the traffic so far a forecast looks ahead."""

PROOF_SPREAD = 0.4
"""tau^2 for bounds, per observation of `PROOF_BLOCKS` blocks: less makes the first bounds wider, more makes them wrong where one
side's phases are rarer than the other's (both measured by `make bench-decisions`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """Rows of numbers, summed over blocks of time.

    Attributes:
        phase: The longest slow phase, in seconds; as long as a look, if that is longer.
        closed: The rows of the closed blocks, one after the other; all have as many numbers as `open`, of single precision: seven
            digits are plenty for how much blocks differ, and the state stays half as long.
        open: The row of the block that isn't complete yet; its last number says how much it can tell (0: nothing).
        seconds: How long the open block has lasted.
        span: How many first blocks one closed block stands for, after merging.
        elapsed: Seconds that all blocks have lasted.
    """

    phase: float
    closed: tuple[float, ...] = field(default=(), metadata=PACKED_SINGLE)
    open: tuple[float, ...] = field(metadata=PACKED)
    seconds: float = 0.0
    span: int = 1
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        check_positive("phase (seconds)", self.phase)
        if not self.open or len(self.closed) % len(self.open) or self.span < 1:
            raise InvalidInput(
                f"{len(self.closed)} numbers are no rows of {len(self.open)}, or span {self.span} is below 1"
            )

    @classmethod
    def of(cls, phase: float, columns: int) -> "Blocks":
        """Return blocks that hold nothing.

        Args:
            phase: The longest slow phase, in seconds.
            columns: How many numbers a row has.
        """
        return cls(phase=phase, open=(0.0,) * columns)

    def update(self, row: tuple[float, ...], seconds: float) -> "Blocks":
        """Return the blocks after an interval.

        An interval whose last number is 0 (no traffic on one side) can tell nothing: neither it nor its time counts.

        Args:
            row: The interval's numbers.
            seconds: How long it was.

        Raises:
            InvalidInput: The row has another number of numbers, or the time isn't positive.
        """
        if len(row) != len(self.open):
            raise InvalidInput(f"a row of these blocks has {len(self.open)} numbers, got {len(row)}")
        check_positive("an interval's seconds", seconds)
        if not row[-1]:
            return self
        # Where looks are longer than blocks they are the blocks, and all of one length.
        phase = self.phase if self.elapsed else max(self.phase, seconds / BLOCK_SHARE)
        grown = tuple(before + more for before, more in zip(self.open, row, strict=True))
        lasted, elapsed = self.seconds + seconds, self.elapsed + seconds
        if lasted < phase * BLOCK_SHARE * self.span * (1 - 1e-9):
            return replace(self, phase=phase, open=grown, seconds=lasted, elapsed=elapsed)
        closed, span = self.closed + single(grown), self.span
        if len(closed) == CAPACITY * len(row):
            merged = np.asarray(closed).reshape(-1, 2, len(row)).sum(axis=1)
            closed, span = single(merged.ravel().tolist()), 2 * span
        return replace(
            self, phase=phase, closed=closed, open=(0.0,) * len(row), seconds=0.0, span=span, elapsed=elapsed
        )

    @property
    def room(self) -> int:
        """How many characters of its stored text are still to come, at most."""
        return -(-4 * 4 * (CAPACITY * len(self.open) - len(self.closed)) // 3)

    @property
    def total(self) -> Floats:
        """The sum of all rows, shape (columns,)."""
        return np.asarray(self._closed_rows().sum(axis=0) + np.asarray(self.open))

    def rows(self, group: int = 1) -> Floats:
        """Return the observations, shape (n, columns); an incomplete one is part of the one before it.

        Args:
            group: How many first blocks make one observation, where the blocks are not longer already.
        """
        rows = self._closed_rows()
        size = -(-group // self.span)
        whole = len(rows) // size
        if whole == 0:
            return np.asarray(self.total[None, :])
        grouped = rows[: whole * size].reshape(whole, size, -1).sum(axis=1)
        grouped[-1] += rows[whole * size :].sum(axis=0) + np.asarray(self.open)
        return np.asarray(grouped)

    def log_evidence(self, theta: float, *, a: Sequence[float], b: Sequence[float]) -> float:
        """Return the log evidence that the true theta is larger; 0 before there are two observations.

        Args:
            theta: The value under test.
            a: How a row's numbers make up `a`: a coefficient for each.
            b: Likewise `b`.
        """
        function = np.asarray(a) - theta * np.asarray(b)
        g = EVIDENCE_SPREAD * self._units
        evidence = log_t_factor(self.rows() @ function, g)
        if self._units < LONG or self.span >= PROOF_BLOCKS or evidence <= 0:
            return evidence
        return min(evidence, log_t_factor(self.rows(PROOF_BLOCKS) @ function, g))

    def bounds(self, alpha: float, *, a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
        """Return the ends of the interval that holds the true theta at every look, with probability 1 - alpha.

        Args:
            alpha: Error probability of both ends together.
            a: How a row's numbers make up `a`: a coefficient for each.
            b: Likewise `b`, which is never negative.

        Returns:
            Lower and upper end; minus infinity and infinity while nothing is known.

        Raises:
            InvalidInput: If `alpha` isn't between 0 and 1.
        """
        check_alpha(alpha)
        rows = self.rows(PROOF_BLOCKS)
        return _ends(rows @ np.asarray(a), rows @ np.asarray(b), alpha, PROOF_SPREAD * self._units / PROOF_BLOCKS)

    def remaining(self, allowed: float, alpha: float, *, a: Sequence[float], b: Sequence[float]) -> float | None:
        """Return about how many more seconds it takes until the upper end is below what is allowed.

        The blocks so far are taken as what is to come, so it is a guess, and a poor one at first.

        Args:
            allowed: What the upper end must get below.
            alpha: As in `bounds`, and so are the others.
            a: Coefficients of `a`.
            b: Coefficients of `b`.

        Returns:
            Infinity where the estimate itself isn't below; None while there are fewer than two observations.
        """
        rows = self.rows(PROOF_BLOCKS)
        first, second = rows @ np.asarray(a), rows @ np.asarray(b)
        if len(rows) < 2 or not second.sum() > 0:
            return None
        if first.sum() / second.sum() >= allowed:
            return float("inf")
        g = PROOF_SPREAD * self._units / PROOF_BLOCKS

        def met(factor: float) -> bool:
            return _ends(first, second, alpha, g * factor, factor)[1] < allowed

        near, far = 1.0, FARTHEST
        if not met(far):
            return float("inf")
        while far > 1.1 * near:  # a tenth is exact enough for a guess
            middle = float(np.sqrt(near * far))
            near, far = (near, middle) if met(middle) else (middle, far)
        return float(self.elapsed * (far - 1))

    @property
    def _units(self) -> float:
        """How many first blocks there have been."""
        width = len(self.open)
        return len(self.closed) / width * self.span + self.seconds / (self.phase * BLOCK_SHARE)

    def _closed_rows(self) -> Floats:
        return np.asarray(self.closed, dtype=np.float64).reshape(-1, len(self.open))


def first_bound(phase: float, interval: float, alpha: float) -> float:
    """Return the seconds of traffic before which `Blocks.bounds` is infinite, however good the figures are.

    The least time with `c < 1` (see the module), which is `(n - 1) log(1+g) > -2 log alpha`.

    Args:
        phase: The longest slow phase, in seconds.
        interval: Seconds between two looks; a block is as long at least.
        alpha: As in `bounds`.
    """
    check_alpha(alpha)
    n = 2
    # All that follows until one more observation is whole counts as part of the last one.
    while (n - 1) * np.log1p(PROOF_SPREAD * (n + 1)) <= -2 * np.log(alpha):
        n += 1
    return n * PROOF_BLOCKS * max(phase * BLOCK_SHARE, interval)


def log_t_factor(observations: Floats, g: float) -> float:
    """Return the log of the one-sided Bayes factor of the t-test for "the mean is above 0".

    Args:
        observations: Shape (n,).
        g: Information so far relative to the prior's.

    Returns:
        0 with fewer than two observations, or where all are 0.
    """
    n = observations.size
    total, squares = float(observations.sum()), float(observations @ observations)
    if n < 2 or not squares > 0:
        return 0.0
    shrunk = g / (1 + g)
    explained = total * total / (n * squares) * shrunk
    left = squares * (1 - explained) / n
    quantile = shrunk * (total / n) / np.sqrt(left * shrunk / n)
    chance = max(float(stdtr(n, quantile)), 1e-300)
    return float(np.log(2 * chance) - 0.5 * np.log1p(g) - n / 2 * np.log1p(-explained))


def _ends(a: Floats, b: Floats, alpha: float, g: float, repeated: float = 1.0) -> tuple[float, float]:
    """The ends; of the observations `repeated` so many times, for a forecast."""
    n = a.size * repeated
    nothing = (-np.inf, np.inf)
    if a.size < 2:
        return nothing
    c = -np.expm1((2 * np.log(alpha) - np.log1p(g)) / n) * (1 + g) / g
    if c >= 1:
        return nothing
    sum_a, sum_b = float(a.sum()), float(b.sum())
    # S(theta)^2 - n c Q(theta) = square theta^2 - 2 half theta + constant
    needed = a.size * c  # of sums over n observations, both sides divided by `repeated` squared
    square = sum_b**2 - needed * float(b @ b)
    half = sum_a * sum_b - needed * float(a @ b)
    constant = sum_a**2 - needed * float(a @ a)
    root = half**2 - square * constant
    if not square > 0 or root < -1e-9 * half**2:
        return nothing
    spread = float(np.sqrt(max(root, 0.0)))
    return float((half - spread) / square), float((half + spread) / square)
