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
"""Requests of the candidate that a look needs; looks with fewer are joined until there are."""

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

NOTHING_GATHERED = (0, 0, 0, 0)

Counts = tuple[int, int]
"""Events, requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrossFailure(GuardTest):
    """Whether the candidate fails, or is slow, beyond any doubt.

    Attributes:
        edge: Milliseconds of a grossly slow answer; None: not known, or the source has no histogram.
        failing: How many of the last looks in a row had gross failures.
        slow: How many had grossly slow answers.
        failed_gathered: Failures and requests of the candidate, then of the stable, of looks too small to count for one.
        slow_gathered: Likewise slow answers and answers.
        fired: What it fired for, as a clause; empty: it has not.
    """

    edge: float | None = None
    failing: int = 0
    slow: int = 0
    failed_gathered: tuple[int, ...] = field(default=NOTHING_GATHERED, metadata=stored(sparse=True))
    slow_gathered: tuple[int, ...] = field(default=NOTHING_GATHERED, metadata=stored(sparse=True))
    fired: str = field(default="", metadata=stored(sparse=True))

    def update(self, failed: tuple[Counts, Counts], slow: tuple[Counts, Counts] | None = None) -> "GrossFailure":
        """Return the rule after a look.

        Args:
            failed: The candidate's failed requests and all its requests in this interval, then the stable's.
            slow: Answers slower than the edge, and all answers, likewise; None: not known.

        Raises:
            InvalidInput: If a count is negative or events exceed the total.
        """
        gathered = _gathered(self.failed_gathered, failed)
        rule = replace(self, failed_gathered=gathered if gathered[1] < ENOUGH else NOTHING_GATHERED)
        if gathered[1] >= ENOUGH:
            bad = gathered[0] >= FAILING * gathered[1] and _sound(gathered)
            rule = replace(rule, failing=self.failing + 1 if bad else 0)
            rule = rule._fired(rule.failing, "failed", gathered)
        if slow is None:
            return rule
        gathered = _gathered(self.slow_gathered, slow)
        rule = replace(rule, slow_gathered=gathered if gathered[1] < ENOUGH else NOTHING_GATHERED)
        if gathered[1] >= ENOUGH:
            bad = gathered[0] > SLOW * gathered[1] and _sound(gathered)
            rule = replace(rule, slow=self.slow + 1 if bad else 0)
            rule = rule._fired(rule.slow, f"slower than {self.edge:g} ms", gathered)
        return rule

    def _fired(self, in_a_row: int, what: str, gathered: tuple[int, ...]) -> "GrossFailure":
        if in_a_row < IN_A_ROW or self.fired:
            return self
        events, total, others, other_total = gathered
        sentence = (
            f"{what}: {share(events, total)} on the candidate against {share(others, other_total)} on the stable "
            f"at this look, and likewise at the look before"
        )
        return replace(self, fired=sentence)

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


def _sound(gathered: tuple[int, ...]) -> bool:
    """Whether the stable is well; one without requests (all are on the candidate) counts as it, for there is none that fails."""
    return gathered[2] < SOUND * gathered[3] or not gathered[3]


def _gathered(before: tuple[int, ...], look: tuple[Counts, Counts]) -> tuple[int, ...]:
    counts = (*check_counts("candidate", *look[0]), *check_counts("stable", *look[1]))
    return tuple(old + new for old, new in zip(before, counts, strict=True))


def gross_edge(history: Buckets, edges: Sequence[float] = ()) -> float | None:
    """Return the edge nearest to ten times the stable's median, on a logarithmic scale.

    Args:
        history: The stable's answers until now.
        edges: The edges to choose from; none: all of the histogram.

    Returns:
        Milliseconds; None without answers, or where half of them are slower than every edge.
    """
    finite = [edge for edge in history.edges if np.isfinite(edge)]
    if not history.total or not finite:
        return None
    median = next((edge for edge in history.edges if history.at_most(edge) >= history.total / 2), float("inf"))
    choice = [edge for edge in (edges or finite) if edge > median] or [
        edge for edge in (edges or finite) if edge == median
    ]
    if not choice:
        return None
    return min(choice, key=lambda edge: abs(np.log(edge) - np.log(SLOWER * median)))
