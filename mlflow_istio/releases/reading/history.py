"""What a deployment has answered before a release, from a source of metrics that remembers."""

from __future__ import annotations

from mlflow_istio.core.analysis.history import History, history_of
from mlflow_istio.ports.metrics import Metrics, MetricsHistory

DAY = 86_400.0

FINEST = 10.0
"""Seconds of the finest step that a day is read by: sources rarely keep more, and their answers stay small."""


def read_history(
    metrics: Metrics | None, endpoint: str, deployment: str, seconds: float, step: float
) -> History | None:
    """A deployment's counts step by step until now; None where nobody remembers any.

    Args:
        metrics: The source.
        endpoint: The endpoint.
        deployment: The deployment.
        seconds: How far back.
        step: Seconds of a step.

    Raises:
        MetricsError: The source can't be reached, refuses, or gave what can't be read.
    """
    if not isinstance(metrics, MetricsHistory):
        return None
    history = history_of(metrics.history(endpoint, deployment, seconds, step), step)
    return history if history.requests.any() else None
