"""Latency histograms as Prometheus, Istio and Envoy give them: cumulative counts by upper edge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Buckets:
    """How many answers took at most so long, in one interval or summed over several.

    Attributes:
        edges: Upper edges in milliseconds, rising; the last is infinity.
        counts: Answers at most as slow as each edge, never falling; the last is the number of answers.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.edges or len(self.edges) != len(self.counts) or self.edges[-1] != math.inf:
            raise InvalidInput("buckets need one count for each edge, and +Inf as the last edge")
        if any(left >= right for left, right in pairwise(self.edges)):
            raise InvalidInput(f"bucket edges must rise, got {list(self.edges)}")
        if self.counts[0] < 0 or any(left > right for left, right in pairwise(self.counts)):
            raise InvalidInput(f"cumulative bucket counts must not fall, got {list(self.counts)}")

    @classmethod
    def from_cumulative(cls, counts: Mapping[str, int]) -> "Buckets":
        """Read `{"le": count}` as scraped, `+Inf` included.

        A scrape isn't one instant, so a count may be a little below that of a smaller edge; it is raised to it, as
        Prometheus' own `histogram_quantile` does.

        Raises:
            InvalidInput: If an edge isn't a number or `+Inf` is missing.
        """
        try:
            by_edge = sorted((float(edge), count) for edge, count in counts.items())
        except ValueError as error:
            raise InvalidInput(f"bucket edge isn't a number: {error}") from error
        rising: list[int] = []
        for _, count in by_edge:
            rising.append(max(count, rising[-1] if rising else 0))
        return cls(edges=tuple(edge for edge, _ in by_edge), counts=tuple(rising))

    @property
    def total(self) -> int:
        """Answers in all."""
        return self.counts[-1]

    def at_most(self, edge: float) -> int:
        """Return how many answers took at most `edge` milliseconds.

        Raises:
            InvalidInput: If there is no such edge.
        """
        try:
            return self.counts[self.edges.index(edge)]
        except ValueError:
            raise InvalidInput(f"no bucket edge at {edge:g} ms; the edges are {_list(self.edges)}") from None

    def slower_than(self, edge: float) -> int:
        """Return how many answers took longer than `edge` milliseconds.

        Raises:
            InvalidInput: If there is no such edge.
        """
        return self.total - self.at_most(edge)

    def plus(self, other: "Buckets") -> "Buckets":
        """Return the sum of two histograms.

        Raises:
            InvalidInput: If their edges differ.
        """
        if self.edges != other.edges:
            raise InvalidInput(f"histograms with different edges: {_list(self.edges)} and {_list(other.edges)}")
        return Buckets(edges=self.edges, counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))


def _list(edges: tuple[float, ...]) -> str:
    return ", ".join(f"{edge:g}" for edge in edges)
