"""What a deployment has answered before a release: from a source of metrics that remembers, or from the looks of past releases."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.history import History, history_of
from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.release.look_counters import readings_kept
from mlflow_istio.errors import InvalidInput, NotFound
from mlflow_istio.ports.metrics import Metrics, MetricsHistory
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.reporting import PLAN_ARTIFACT

DAY = 86_400.0

FINEST = 10.0
"""Seconds of the finest step that a day is read by: sources rarely keep more, and their answers stay small."""


def read_history(
    metrics: Metrics | None,
    endpoint: str,
    deployment: str,
    seconds: float,
    step: float,
    edges: Sequence[float] = (),
) -> History | None:
    """A deployment's counts step by step until now; None where nobody remembers any.

    Args:
        metrics: The source.
        endpoint: The endpoint.
        deployment: The deployment.
        seconds: How far back.
        step: Seconds of a step.
        edges: Latency edges in milliseconds to have beside those that are chosen.

    Raises:
        MetricsError: The source can't be reached, refuses, or gave what can't be read.
    """
    if not isinstance(metrics, MetricsHistory):
        return None
    history = history_of(metrics.history(endpoint, deployment, seconds, step), step, edges)
    return history if history.requests.any() else None


def looks_history(context: Context, endpoint: str, interval: float, edges: Sequence[float] = ()) -> History | None:
    """What the stables of ended releases have answered, look by look; None where no release kept any.

    Only releases that looked as often count, and only those that watched the same latency edges as the newest of them.

    Args:
        context: The ports.
        endpoint: The endpoint.
        interval: Seconds between two looks.
        edges: Latency edges in milliseconds to have beside those that are chosen.

    Raises:
        RegistryError: The tracking server can't be reached.
    """
    runs = dict.fromkeys(
        change.run for change in context.registry.history(context.scope, endpoint) if change.release and change.run
    )
    readings: list[Reading] = []
    watched: set[str] | None = None
    for run in reversed(runs):
        kept = _kept(context, str(run), interval)
        series = {name for reading in kept for counters in reading.values() for name in counters}
        if series and watched in (None, series):
            watched = series
            readings = [*kept, {}, *readings]
    history = history_of(readings, interval, edges)
    return history if history.requests.any() else None


def _kept(context: Context, run: str, interval: float) -> list[Reading]:
    """The readings that a release's run keeps; none where it looked at another interval, or is gone."""
    try:
        kept = parsed(context.runs.text(run, PLAN_ARTIFACT) or "{}", f"artifact '{PLAN_ARTIFACT}' of run {run}")
        plan = kept.get("plan") if isinstance(kept, dict) else None
        if not isinstance(plan, dict) or plan.get("interval") != interval:
            return []
        figures = context.runs.figures(run)
    except (NotFound, InvalidInput):
        return []
    points = {
        name: [(figure.step, figure.time.timestamp(), figure.value) for figure in series]
        for name, series in figures.items()
    }
    return readings_kept(points, interval)
