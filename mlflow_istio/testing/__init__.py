"""In-memory ports and a replay of releases, for this package's tests and for yours.

May import options, ports, core and errors. Never in here: an assertion, or behaviour that the real adapters don't have.

Example:
    >>> from mlflow_istio.testing import InMemoryCluster, InMemoryRegistry
    >>> cluster, registry = InMemoryCluster(), InMemoryRegistry({"churn": [1, 2]})

    Once an endpoint stands there, ``cluster.answers("churn", Request(path="/invocations"))`` says who answers with which share.
"""

from __future__ import annotations

from mlflow_istio.core.matching.requests import Request
from mlflow_istio.testing.clock import StillClock
from mlflow_istio.testing.cluster import InMemoryCluster
from mlflow_istio.testing.metrics import InMemoryMetrics
from mlflow_istio.testing.registry import InMemoryRegistry, InMemoryRuns
from mlflow_istio.testing.replays import Counts, Replay, replay
from mlflow_istio.testing.routing import Answer, Answers

__all__ = [
    "Answer",
    "Answers",
    "Counts",
    "InMemoryCluster",
    "InMemoryMetrics",
    "InMemoryRegistry",
    "InMemoryRuns",
    "Replay",
    "Request",
    "StillClock",
    "replay",
]
