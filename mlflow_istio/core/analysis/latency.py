"""Is the candidate slower? Evidence from histogram buckets.

"Slower than edge j" is an event like an error, so it gets a `RateTest`, provided the edges are chosen before the data they judge.
A shift that moves no answer over a chosen edge can't be seen. How the edges' evidence is put together:

* Where requests count as independent, the e-values are averaged: the average of e-values is an e-value whatever their
  dependence (Vovk & Wang 2021, Ann. Statist. 49).
* The t-tests over blocks are martingales each in a filtration of its own, so no average of theirs is one (Choe & Ramdas 2024,
  combining evidence across filtrations, arXiv 2402.09698): each edge has its share of alpha instead, a union bound.
* "At every edge the odds ratio is at most U", U the largest of the edges' upper ends, needs no share at all: it is wrong only if
  the bound of the one edge with the largest true odds ratio is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from mlflow_istio.core.analysis.betting import LATE
from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest
from mlflow_istio.core.analysis.interval import Interval
from mlflow_istio.core.analysis.log_sums import log_sum_exp
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.errors import InvalidInput

LATENCY_MARGIN = 1.25
"""Odds ratio of being slower that is acceptable by default: two deployments are never equally fast."""

ATest = TypeVar("ATest", bound="LatencyTest")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTest(GuardTest):
    """An anytime-valid test that the candidate is slower, over edges fixed at the start.

    Leave warm-up out: a fresh process is slow for reasons that pass. Start with `LatencyTest.at(edges)`.

    Attributes:
        edges: Bucket edges in milliseconds, rising.
        tests: One `RateTest` for each edge.
    """

    over: ClassVar[str] = "{:g} ms"
    beyond: ClassVar[str] = "slower than"

    edges: tuple[float, ...]
    tests: tuple[RateTest, ...]

    def __post_init__(self) -> None:
        if not self.edges or list(self.edges) != sorted(set(self.edges)):
            raise InvalidInput(f"latency edges must be given and rise, got {list(self.edges)}")
        if len(self.edges) != len(self.tests):
            raise InvalidInput(f"{len(self.edges)} latency edges need as many tests, got {len(self.tests)}")

    @classmethod
    def at(
        cls: type[ATest],
        edges: Sequence[float],
        *,
        phase: float = 0.0,
        margin: float = LATENCY_MARGIN,
        overdispersion: float = 1.0,
        late: float = LATE,
    ) -> ATest:
        """Return a test over `edges` (milliseconds); the rest as in `RateTest.of`.

        Raises:
            InvalidInput: If there is no edge, they don't rise, or an option is out of its range.
        """
        test = RateTest.of(phase, margin=margin, overdispersion=overdispersion, late=late)
        return cls(edges=tuple(edges), tests=(test,) * len(edges))

    def update(self: ATest, candidate: Buckets, stable: Buckets, *, seconds: float = 1.0) -> ATest:
        """Return the test after one more interval's histograms.

        Args:
            candidate: The interval's answers of the candidate (not since the start).
            stable: The interval's answers of the stable.
            seconds: How long the interval was.

        Raises:
            InvalidInput: If a histogram lacks one of the edges.
        """
        tests = tuple(
            test.update(
                candidate.slower_than(edge), candidate.total, stable.slower_than(edge), stable.total, seconds=seconds
            )
            for edge, test in zip(self.edges, self.tests, strict=True)
        )
        return replace(self, tests=tests).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence against "odds ratio of slower <= margin at every edge"."""
        edges = [test.log_e_value for test in self.tests]
        in_blocks = any(test.blocks is not None for test in self.tests)
        return float((max(edges) if in_blocks else log_sum_exp(np.asarray(edges))) - np.log(len(edges)))

    def confidence_sequence(self, alpha: float) -> dict[float, Interval]:
        """Return for each edge the interval of the odds ratio of "slower than the edge", each at `alpha`."""
        return {edge: test.confidence_sequence(alpha) for edge, test in zip(self.edges, self.tests, strict=True)}

    @property
    def room(self) -> int:
        """What the blocks of all edges will still take."""
        return sum(test.room for test in self.tests)

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return the guard "the candidate is slower"; its sentence speaks of the edge with most evidence."""
        edge, worst = self._worst
        summary = f"{self.beyond} {self.over.format(edge)}: {worst.guard(name, alpha=alpha).summary}"
        odds = {f"{at:g}": to_json(interval) for at, interval in self.confidence_sequence(alpha).items()}
        figures = {"odds_ratio_by_edge_ms": odds, "p_value": self.p_value}
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=summary, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        """Return the bounds of each edge; all must be met, so each has the whole of alpha."""
        edges = zip(self.edges, self.tests, strict=True)
        return tuple(
            bound
            for edge, test in edges
            for bound in test.bounds(f"{name} over {self.over.format(edge)}", allowed, alpha=alpha)
        )

    def proven(self, alpha: float) -> Interval:
        """Return the interval that holds the odds ratio of every edge."""
        every = list(self.confidence_sequence(alpha).values())
        return Interval(
            lower=min(interval.lower for interval in every),
            upper=max(interval.upper for interval in every),
            estimate=self._worst[1].confidence_sequence(alpha).estimate,
        )

    def figures(self, alpha: float) -> Figures:
        """Return the figures of the edge with most evidence."""
        return self._worst[1].figures(alpha)

    @property
    def _worst(self) -> tuple[float, RateTest]:
        return max(zip(self.edges, self.tests, strict=True), key=lambda pair: pair[1].log_e_value)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensTest(LatencyTest):
    """The same of answers that have more than so many tokens."""

    over: ClassVar[str] = "{:g} tokens"
    beyond: ClassVar[str] = "more than"


def choose_edges(history: Buckets, quantiles: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[float, ...]:
    """Return the edges nearest to the given quantiles of the stable's own history.

    Nearest means that the share of answers at most as slow is closest on the log-odds scale. Call it once, on answers
    from before the release (or its warm-up), and keep the result: edges chosen after looking at the data make the
    guarantee void.

    Args:
        history: The stable's answers before the release.
        quantiles: Shares strictly between 0 and 1.

    Raises:
        InvalidInput: If a quantile is out of range or no edge parts the answers.
    """
    if not quantiles or not all(0 < quantile < 1 for quantile in quantiles):
        raise InvalidInput(f"quantiles must be strictly between 0 and 1, got {list(quantiles)}")
    log_odds = {
        edge: np.log(count) - np.log(history.total - count)
        for edge, count in zip(history.edges, history.counts, strict=True)
        if 0 < count < history.total
    }
    if not log_odds:
        raise InvalidInput(
            f"no bucket edge parts the {history.total} answers of the stable: send it traffic first, or name edges"
        )

    def nearest(quantile: float) -> float:
        target = np.log(quantile) - np.log1p(-quantile)
        return min(log_odds, key=lambda edge: abs(log_odds[edge] - target))

    return tuple(sorted({nearest(quantile) for quantile in quantiles}))
