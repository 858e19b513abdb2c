"""Which latency edges a source of figures has: a guard at another one would never be judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import latency_series
from mlflow_istio.core.release.guards.base import GuardTerms
from mlflow_istio.core.release.guards.counts import histogram_of
from mlflow_istio.core.release.plan import ReleasePlan


def edges_in(readings: Mapping[str, Reading]) -> tuple[float, ...]:
    """The edges of all histograms in some readings, rising, without infinity; none where nobody has answered yet."""
    found = {float(edge) for reading in readings.values() for edge in histogram_of(reading)}
    return tuple(sorted(found - {math.inf}))


def asks_for_edges(plan: ReleasePlan) -> bool:
    """Whether a guard of the plan names edges: what is chosen from the stable's answers is there."""
    return any(_named(guard) for guard in plan.guards)


def missing_edge(plan: ReleasePlan, edges: Iterable[float], source: str) -> str:
    """What is wrong with the first edge that a guard names and a source does not have, in one sentence; else nothing.

    Args:
        plan: The plan.
        edges: The source's edges in milliseconds; none: nobody knows them yet, so nothing is wrong.
        source: What people call the source.
    """
    known = sorted(edges)
    series = {latency_series(edge) for edge in known}
    for guard in plan.guards:
        for edge in _named(guard):
            if known and latency_series(edge) not in series:
                return (
                    f"guard '{guard.name}': {source} has no latency edge at {edge:g} ms, so it would never be judged: say "
                    f"{_nearest(edge, known)}"
                )
    return ""


def _named(guard: GuardTerms) -> tuple[float, ...]:
    return guard.edges if guard.slower_than is None else (*guard.edges, guard.slower_than)


def _nearest(edge: float, known: list[float]) -> str:
    """The edges on both sides, as a person would say them."""
    below, above = [each for each in known if each < edge][-1:], [each for each in known if each > edge][:1]
    return " or ".join(f"{each:g}" for each in (*below, *above))
