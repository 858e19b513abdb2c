"""Gross failure: what needs no statistics, because nobody would wait for more.

A rule, not a test: it fires when two looks in a row say the same, each with enough requests. Slow phases, error bursts and cold
starts that real servers have don't reach it (`make bench-decisions` counts how often it is wrong); a version that fails most of
what it gets does at once, long before blocks of time can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, share
from mlflow_istio.core.analysis.interval import check_counts
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.basics.stored import stored

ENOUGH = 20
"""Requests of the candidate that a look needs."""

FAILING = 0.3
"""Share of failed requests of a candidate that fails grossly,"""

SOUND = 0.1
"""while less than this is failed, or as slow, on the stable."""

SLOW = 0.5
"""More than this share of answers over the edge: a candidate that is grossly slow."""

SLOWER = 10.0
"""The edge is the one nearest to so many times the stable's median."""

IN_A_ROW = 2
"""Looks that must agree."""

Counts = tuple[int, int]
"""Events, requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrossFailure(GuardTest):
    """Whether the candidate fails, or is slow, beyond any doubt.

    Attributes:
        edge: Milliseconds of a grossly slow answer; None: not known, or the source has no histogram.
        failing: How many of the last looks in a row had gross failures.
        slow: How many had grossly slow answers.
        fired: What it fired for, as a clause; empty: it has not.
    """

    edge: float | None = None
    failing: int = 0
    slow: int = 0
    fired: str = field(default="", metadata=stored(sparse=True))

    def update(self, failed: tuple[Counts, Counts], slow: tuple[Counts, Counts] | None = None) -> "GrossFailure":
        """Return the rule after a look; one with too few requests changes nothing.

        Args:
            failed: The candidate's failed requests and all its requests in this interval, then the stable's.
            slow: Answers slower than the edge, and all answers, likewise; None: not known.

        Raises:
            InvalidInput: If a count is negative or events exceed the total.
        """
        test = self
        for name, counts, limit in (("failing", failed, FAILING), ("slow", slow, SLOW)):
            if counts is None:
                continue
            (events, total), (others, other_total) = (
                check_counts("candidate", *counts[0]),
                check_counts("stable", *counts[1]),
            )
            if total < ENOUGH:
                continue
            bad = _bad(name, events / total, limit) and others < SOUND * other_total
            in_a_row = getattr(test, name) + 1 if bad else 0
            test = replace(test, failing=in_a_row) if name == "failing" else replace(test, slow=in_a_row)
            if in_a_row >= IN_A_ROW and not test.fired:
                what = "failed" if name == "failing" else f"slower than {self.edge:g} ms"
                said = (
                    f"{what}: {share(events, total)} on the candidate against {share(others, other_total)} on the stable "
                    f"at this look, and likewise at the look before"
                )
                test = replace(test, fired=said)
        return test

    @property
    def log_e_value(self) -> float:
        """0 until it fires, infinity from then on."""
        return float("inf") if self.fired else 0.0

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:  # noqa: ARG002
        """Return what the rule says."""
        figures = {"edge_ms": self.edge, "failing_looks": self.failing, "slow_looks": self.slow}
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=self.fired, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:  # noqa: ARG002
        """Return nothing: a rule that does not fire proves nothing."""
        return ()

    def figures(self, alpha: float) -> Figures:  # noqa: ARG002
        """Return nothing: it has no figures of its own."""
        return Figures()


def _bad(name: str, rate: float, limit: float) -> bool:
    """At least so many failures; more than so many slow answers."""
    return rate >= limit if name == "failing" else rate > limit


def gross_edge(history: Buckets, edges: Sequence[float] = ()) -> float | None:
    """Return the edge nearest to ten times the stable's median, on a logarithmic scale.

    Args:
        history: The stable's answers until now.
        edges: The edges to choose from; none: all of the histogram.

    Returns:
        Milliseconds; None without answers, or where the edge would not be above the median.
    """
    finite = [edge for edge in history.edges if np.isfinite(edge)]
    if not history.total or not finite:
        return None
    median = next((edge for edge in history.edges if history.at_most(edge) >= history.total / 2), float("inf"))
    choice = [edge for edge in (edges or finite) if edge > median]
    if not choice:
        return None
    return min(choice, key=lambda edge: abs(np.log(edge) - np.log(SLOWER * median)))
