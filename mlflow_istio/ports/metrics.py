"""Where requests are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from mlflow_istio.core.analysis.counters import Reading


@runtime_checkable
class Metrics(Protocol):
    """Where the counts of requests, errors, latencies and KPIs come from.

    The names of the series stand in ``core.measures``; all are raw cumulative counters, for ``CounterState`` to
    difference. Only live split traffic may be counted (no pinned, probe or mirrored requests) where the source can tell
    them apart; an implementation's docstring says where it can't.
    """

    @property
    def name(self) -> str:
        """What errors and warnings call it, such as ``Prometheus at http://localhost:9090``."""

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """The counters now: deployment -> {source: {series: value}}.

        A deployment without data is absent, never a zero made up; data that are too old count as absent.

        Args:
            endpoint: The endpoint.
            deployments: Names of the deployments to read.

        Raises:
            MetricsError: The source can't be reached, refuses, or gave what can't be read.
        """
