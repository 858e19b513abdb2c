"""What an experiment with a fault showed, from counters before and after it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_istio.core.analysis.counters import CounterState, Reading
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_counts
from mlflow_istio.core.basics.stored import stored


def _edge_or_words(edge: float | None) -> float | str | None:
    return "over the last edge" if edge == math.inf else edge


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers counted during an experiment.

    Attributes:
        requests: How many.
        errors: Failed ones among them.
        median_ms: Upper edge of the bucket that holds the median; None without a histogram, infinity beyond its last edge.
        p99_ms: The same for the 99th percentile.
    """

    requests: int
    errors: int
    median_ms: float | None = field(default=None, metadata=stored(write=_edge_or_words))
    p99_ms: float | None = field(default=None, metadata=stored(write=_edge_or_words))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChaosReport:
    """What callers saw, and what the deployments did meanwhile.

    Attributes:
        seconds: How long the fault was on.
        interrupted: Whether it was ended before its time.
        callers: All answers at the endpoint; None where no proxy's count of them can be read.
        aborted: Requests that the fault answered; None where nobody counts them.
        delayed: Requests that it held back; None where nobody counts them.
        deployments: Answers of the deployments' own servers; empty without a source of metrics.
        problem: Why something could not be read; empty when all was.
    """

    seconds: float = field(metadata=stored(write=lambda seconds: round(seconds, 1)))
    interrupted: bool = False
    callers: Answers | None = None
    aborted: int | None = None
    delayed: int | None = None
    deployments: Mapping[str, Answers] = field(default_factory=dict)
    problem: str = ""


def deployment_answers(before: Mapping[str, Reading], after: Mapping[str, Reading]) -> dict[str, Answers]:
    """What each deployment answered between two readings; one without data is left out, one without any before counts from 0."""
    answers = {}
    for name, reading in after.items():
        state, _ = CounterState().advanced(before.get(name, {}))
        _, growth = state.advanced(reading)
        answers[name] = _answers(growth, requests=growth.get(REQUESTS, 0.0), errors=growth.get(ERRORS, 0.0))
    return answers


def caller_answers(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Answers, int, int]:
    """What callers saw between two readings of a listener, and how many requests were aborted and delayed."""
    growth = {series: value - before.get(series, 0.0) for series, value in after.items()}
    if any(value < 0 for value in growth.values()):  # Envoy started again meanwhile
        growth = dict(after)
    classes = {series: value for series, value in growth.items() if series.endswith("xx")}
    answers = _answers(growth, requests=sum(classes.values()), errors=classes.get("5xx", 0.0))
    return answers, int(growth.get("aborted", 0)), int(growth.get("delayed", 0))


def _answers(growth: Mapping[str, float], *, requests: float, errors: float) -> Answers:
    counts = latency_counts({series: int(value) for series, value in growth.items()})
    edges = sorted((math.inf if edge == "+Inf" else float(edge), count) for edge, count in counts.items())
    return Answers(requests=int(requests), errors=int(errors), median_ms=_edge(edges, 0.5), p99_ms=_edge(edges, 0.99))


def _edge(edges: list[tuple[float, int]], quantile: float) -> float | None:
    if not edges or not edges[-1][1]:
        return None
    return next(edge for edge, count in edges if count >= quantile * edges[-1][1])
