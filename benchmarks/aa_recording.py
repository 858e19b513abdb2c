"""A recording of equal deployments, second by second, and releases that are made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_counts, latency_series
from mlflow_istio.testing import Counts, Replay, replay
from mlflow_istio.testing.replays import Traffic

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LOOK_SECONDS = 10
BLOCK_SECONDS = 180
"""What is resampled at once: three times the longest phase that the product reckons with."""

FEWEST_BLOCKS = 6
"""A recording that is shorter than so many blocks is cut into shorter ones."""


def appended(path: Path, second: Mapping[str, Mapping[str, float]]) -> None:
    """Add what each deployment's counters have grown by in one second, as one line.

    Of a histogram only the edges are written at which there is more than at the one before: the others say nothing.
    """
    grown = {name: _needed(growth) for name, growth in second.items()}
    with path.open("a") as file:
        file.write(json.dumps(grown, separators=(",", ":"), sort_keys=True) + "\n")


def _needed(growth: Mapping[str, float]) -> dict[str, float]:
    needed = {series: growth[series] for series in (REQUESTS, ERRORS) if growth.get(series)}
    last = 0
    for edge, count in sorted(_histogram(growth).items()):
        if count > last:
            needed[latency_series(edge)] = last = count
    return needed


def read_seconds(path: Path) -> list[dict[str, dict[str, float]]]:
    """Return the whole lines of a recording; a last one that was cut off when its run died is taken off the file, too."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Counts of every second.

    Attributes:
        edges: Bucket edges in milliseconds that part the answers, rising.
        answers: How many answers lie between two edges (below the first, ..., above the last), shape (seconds, deployments,
            edges + 1).
        errors: Failed ones, shape (seconds, deployments).
    """

    edges: tuple[float, ...]
    answers: Integers
    errors: Integers

    @property
    def seconds(self) -> int:
        """How long it is."""
        return len(self.answers)

    @property
    def block(self) -> int:
        """Seconds that are resampled at once, whole looks."""
        return max(1, min(BLOCK_SECONDS, self.seconds // FEWEST_BLOCKS) // LOOK_SECONDS) * LOOK_SECONDS

    def odds(self, quantile: float) -> list[float]:
        """Return each deployment's odds of an answer over the edge nearest to a quantile of all, relative to all together."""
        summed = self.answers.sum(axis=0)
        below = summed.cumsum(axis=1)[:, :-1]
        edge = int(np.argmin(np.abs(below.sum(axis=0) / summed.sum() - quantile)))
        fast = below[:, edge].astype(np.float64)
        slow = summed.sum(axis=1) - fast
        return [float(odds) for odds in (slow / fast) / (slow.sum() / fast.sum())]

    def quantiles(self, quantile: float) -> list[float]:
        """Return the upper edge of each deployment's quantile."""
        summed = self.answers.sum(axis=0).cumsum(axis=1)
        edges = (*self.edges, math.inf)
        return [edges[int(np.searchsorted(row, quantile * row[-1]))] for row in summed]


def recording_of(seconds: Sequence[Mapping[str, Mapping[str, float]]]) -> Recording:
    """Return what was recorded, as arrays.

    Raises:
        ValueError: It is empty or too short for a single block, or says of nobody that there were answers.
    """
    names = sorted({name for second in seconds for name in second})
    if len(seconds) < 2 * LOOK_SECONDS or len(names) < 2:
        raise ValueError(
            f"a recording of {len(seconds)} s and {len(names)} deployments: record at least 20 s of two deployments"
        )
    histograms = [[_histogram(second.get(name, {})) for name in names] for second in seconds]
    edges = sorted({math.inf}.union(*(histogram for row in histograms for histogram in row)))
    if not any(histogram for row in histograms for histogram in row):
        raise ValueError("a recording without answers: was there any load?")
    cumulative = np.array([[_filled(histogram, edges) for histogram in row] for row in histograms], dtype=np.int64)
    answers = np.diff(cumulative, axis=2, prepend=0)
    used = np.flatnonzero(answers.sum(axis=(0, 1)))
    first, last = int(used[0]), int(used[-1])
    # Edges that part nothing only cost time: what lies below the first answer and above the last one is left out.
    kept = answers[:, :, first : last + 1]
    errors = [[round(second.get(name, {}).get(ERRORS, 0.0)) for name in names] for second in seconds]
    return Recording(
        edges=tuple(edges[first:last]), answers=kept, errors=np.minimum(np.array(errors), kept.sum(axis=2))
    )


def _histogram(growth: Mapping[str, float]) -> dict[float, int]:
    counts = latency_counts({series: round(value) for series, value in growth.items()})
    return {math.inf if edge == "+Inf" else float(edge): count for edge, count in counts.items()}


def _filled(histogram: Mapping[float, int], edges: Sequence[float]) -> list[int]:
    """The cumulative counts at every edge: an edge that is not written had no more than the one before it."""
    filled, last = [], 0
    for edge in edges:
        last = max(last, histogram.get(edge, 0))
        filled.append(last)
    return filled


def release_of(recording: Recording, rng: np.random.Generator) -> Traffic:
    """Return a release of an equal version: two recorded deployments in random blocks of time, thinned to the weights.

    Both keep what they did in the same seconds. Who plays whom is drawn for each block: what one of them happened to be like
    throughout would else be the truth of a release that goes through the recording again and again, and they would not be equal.
    With the weights w and 1 - w there is so much traffic that each has been seen to answer its part; which of its answers are
    kept is random.
    """
    deployments = recording.answers.shape[1]
    blocks: list[tuple[int, int, int]] = []
    per_block = recording.block // LOOK_SECONDS

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        block, place = divmod(look - 1, per_block)
        while len(blocks) <= block:
            mine, others = rng.permutation(deployments)[:2].tolist()
            blocks.append((int(rng.integers(recording.seconds)), mine, others))
        start, mine, others = blocks[block]
        at = (start + place * LOOK_SECONDS + np.arange(LOOK_SECONDS)) % recording.seconds
        answers, errors = recording.answers[at].sum(axis=0), recording.errors[at].sum(axis=0)
        share = weights["candidate"] / 100
        seen = answers.sum(axis=1)
        total = seen[others] if not share else min(seen[others] / (1 - share), seen[mine] / share)
        wanted = int(rng.binomial(int(total), share))
        found = {"stable": _thinned(recording.edges, answers[others], errors[others], int(total) - wanted, rng)}
        if share:
            found["candidate"] = _thinned(recording.edges, answers[mine], errors[mine], wanted, rng)
        return found

    return traffic


def _thinned(edges: tuple[float, ...], answers: Integers, errors: int, wanted: int, rng: np.random.Generator) -> Counts:
    """So many of the answers, at random."""
    seen = int(answers.sum())
    wanted = min(wanted, seen)
    kept = rng.multivariate_hypergeometric(answers, wanted)
    slower = (wanted - kept.cumsum()[:-1]).tolist()
    failed = int(rng.hypergeometric(errors, seen - errors, wanted)) if errors and wanted else 0
    return Counts(requests=wanted, errors=failed, slower_than=dict(zip(edges, slower, strict=True)))


@dataclass(kw_only=True)
class Tally:
    """How resampled releases ended.

    Attributes:
        ended: Outcome to how many.
        excluded: How many had a proven interval without the truth.
        looks: Looks until each promotion.
        reasons: Why those were rolled back.
    """

    ended: dict[str, int] = field(default_factory=dict)
    excluded: int = 0
    looks: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, release: Replay) -> None:
        """Count one."""
        self.ended[release.outcome] = self.ended.get(release.outcome, 0) + 1
        self.excluded += excludes_equal(release.proven)
        if release.outcome == "promoted":
            self.looks.append(release.look)
        if release.outcome == "rolled-back":
            self.reasons.append(release.reason)

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.ended.values())


def excludes_equal(proven: Mapping[str, tuple[float, float]]) -> bool:
    """Tell whether an interval of odds ratios excludes 1."""
    return any(lower > 1 or upper < 1 for lower, upper in proven.values())


def resampled(recording: Recording, number: int, *, looks: int, seed: int, config: Mapping[str, Any]) -> Replay:
    """Replay one release of the recording."""
    traffic = release_of(recording, np.random.default_rng([seed, number]))
    return replay(config, traffic, looks=looks)
