"""Which edges a source of figures has, of latency and of what is measured of streams: a guard at another one is never judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import LATENCY, STREAM_MEASURES, bucket_series
from mlflow_istio.core.release.guards.base import GuardTerms
from mlflow_istio.core.release.guards.counts import histogram_of
from mlflow_istio.core.release.plan import ReleasePlan


def edges_in(readings: Mapping[str, Reading], measure: str = LATENCY) -> tuple[float, ...]:
    """The edges of a measure's histograms in some readings, rising, without infinity; none where nobody has answered yet."""
    edges = {float(edge) for reading in readings.values() for edge in histogram_of(reading, measure)}
    return tuple(sorted(edges - {math.inf}))


def measures_with_edges(plan: ReleasePlan) -> tuple[str, ...]:
    """Measures of which a guard of the plan names edges, latency first: what is chosen from the stable's answers is there."""
    named = {_measure(guard) for guard in plan.guards if _named(guard)}
    return tuple(measure for measure in (LATENCY, *STREAM_MEASURES) if measure in named)


def named_edges(plan: ReleasePlan) -> tuple[float, ...]:
    """The latency edges that guards of a plan name, rising."""
    return tuple(sorted({edge for guard in plan.guards if _measure(guard) == LATENCY for edge in _named(guard)}))


def missing_in(plan: ReleasePlan, readings: Mapping[str, Reading], source: str) -> str:
    """What is wrong with the first edge that a guard names and some readings do not have, in one sentence; else nothing."""
    problems = (
        missing_edge(plan, edges_in(readings, measure), source, measure) for measure in measures_with_edges(plan)
    )
    return next((problem for problem in problems if problem), "")


def missing_edge(plan: ReleasePlan, edges: Iterable[float], source: str, measure: str = LATENCY) -> str:
    """What is wrong with the first edge that a guard names and a source does not have, in one sentence; else nothing.

    Args:
        plan: The plan.
        edges: The source's edges of the measure, in milliseconds or tokens; none: nobody knows them yet, so nothing is wrong.
        source: What people call the source.
        measure: Of what.
    """
    known = sorted(edges)
    series = {bucket_series(measure, edge) for edge in known}
    what = {LATENCY: "latency edge at {:g} ms", "tokens": "edge at {:g} tokens"}.get(
        measure, f"{measure} edge at {{:g}} ms"
    )
    for guard in plan.guards:
        for edge in _named(guard) if _measure(guard) == measure else ():
            if known and bucket_series(measure, edge) not in series:
                return (
                    f"guard '{guard.name}': {source} has no {what.format(edge)}, so it would never be judged: say "
                    f"{_nearest(edge, known)}"
                )
    return ""


def _named(guard: GuardTerms) -> tuple[float, ...]:
    return guard.edges if guard.slower_than is None else (*guard.edges, guard.slower_than)


def _measure(guard: GuardTerms) -> str:
    return guard.kind if guard.kind in STREAM_MEASURES else LATENCY


def _nearest(edge: float, known: list[float]) -> str:
    """The edges on both sides, as a person would say them."""
    below, above = [each for each in known if each < edge][-1:], [each for each in known if each > edge][:1]
    return " or ".join(f"{each:g}" for each in (*below, *above))
