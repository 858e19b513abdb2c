"""What one version has answered, step by step, from raw counters that a source of metrics has kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import CounterState, Reading
from mlflow_istio.core.analysis.latency import choose_edges
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_counts
from mlflow_istio.core.analysis.phase import learn_phase
from mlflow_istio.errors import InvalidInput

Whole: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class History:
    """Counts by step; a step without data has none of anything.

    Attributes:
        step: Seconds of a step.
        known: Whether there are data of a step, shape (steps,).
        requests: Answers given in each step.
        errors: Of these, the failed ones.
        slower_than: Edge in milliseconds to the answers that took longer. What a histogram lacks of the requests counts as fast.
    """

    step: float
    known: NDArray[np.bool_]
    requests: Whole
    errors: Whole
    slower_than: Mapping[float, Whole] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How much time there are data of."""
        return float(self.known.sum() * self.step)

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds of each stretch without data between two with data."""
        steps = np.flatnonzero(self.known)
        missing = np.diff(steps) - 1 if len(steps) else steps
        return tuple(float(length * self.step) for length in missing[missing > 0])

    def phase(self) -> float | None:
        """The longest slow phase in seconds; 0: there are none; None: too little is known (see ``learn_phase``)."""
        events = {
            "errors": self.errors,
            **{f"slower than {edge:g} ms": slow for edge, slow in self.slower_than.items()},
        }
        return learn_phase({name: np.column_stack([count, self.requests]) for name, count in events.items()}, self.step)


def history_of(readings: Sequence[Reading], step: float, edges: Sequence[float] = ()) -> History:
    """Difference readings that were taken so many seconds apart.

    A counter that fell has started anew, as live. Of a step that begins or ends without a reading nothing is known.

    Args:
        readings: Raw counters, oldest first; empty where there are none.
        step: Seconds between two.
        edges: Latency edges in milliseconds to have, where the source knows them, beside those that are chosen from the answers,
            as a release does.
    """
    grown: list[dict[str, float]] = []
    state = CounterState()
    for reading in readings:
        if not reading:
            state = CounterState()
            grown.append({})
            continue
        state, growth = state.advanced(reading)
        grown.append(growth)
    steps = grown[1:]
    total: dict[str, int] = {}
    for growth in steps:
        for edge, count in latency_counts({series: round(value) for series, value in growth.items()}).items():
            total[edge] = total.get(edge, 0) + count
    known = {float(edge) for edge in total}
    chosen = {*_chosen_edges(total), *(float(edge) for edge in edges if edge in known)}
    requests = np.array([round(growth.get(REQUESTS, 0)) for growth in steps], dtype=np.int64)
    errors = np.array([round(growth.get(ERRORS, 0)) for growth in steps], dtype=np.int64)
    return History(
        step=step,
        known=np.array([bool(before and after) for before, after in pairwise(readings)], dtype=bool),
        requests=requests,
        errors=np.minimum(errors, requests),
        slower_than=_slower(steps, requests, chosen),
    )


def _chosen_edges(total: Mapping[str, int]) -> tuple[float, ...]:
    try:
        return choose_edges(Buckets.from_cumulative(total))
    except InvalidInput:  # no histogram, or no edge that parts the answers
        return ()


def _slower(steps: Sequence[Mapping[str, float]], requests: Whole, edges: Collection[float]) -> dict[float, Whole]:
    """Of each step, the answers slower than each edge; never more than of the edge before, nor than requests."""
    slower: dict[float, Whole] = {}
    most = requests
    buckets = [_buckets(growth) for growth in steps]
    for edge in sorted(edges):
        counts = [each.slower_than(edge) if each is not None and edge in each.edges else 0 for each in buckets]
        most = np.minimum(np.array(counts, dtype=np.int64), most)
        slower[edge] = most
    return slower


def _buckets(growth: Mapping[str, float]) -> Buckets | None:
    counts = latency_counts({series: round(value) for series, value in growth.items()})
    return Buckets.from_cumulative(counts) if "+Inf" in counts else None
