"""An in-memory Metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, latency_series
from mlflow_istio.errors import MetricsError

_RETRIES = 10


class InMemoryMetrics:
    """A Metrics in a dict: tell it what each deployment has answered.

    Attributes:
        down: Whether every read fails as if the source were gone.
        silent: Deployments whose data are missing or too old.
        edges: Upper edges of the latency histogram in milliseconds, without infinity.
        reads: How often it was read.
        counts_chosen: Whether it can't tell requests whose caller chose the deployment, as Istio's series can't.
        past: What ``history`` gives of each deployment: readings a step apart, oldest first.
    """

    def __init__(self, edges: Sequence[float] = (5, 10, 25, 50, 100, 250, 500, 1000)) -> None:
        self._counters: dict[str, dict[str, float]] = {}
        self.down = False
        self.silent: set[str] = set()
        self.edges = tuple(edges)
        self.reads = 0
        self.counts_chosen = False
        self.past: dict[str, list[Reading]] = {}

    @property
    def name(self) -> str:
        """See ``ports.Metrics``."""
        return "the in-memory metrics"

    def serve(self, deployment: str, requests: int, *, errors: int = 0, milliseconds: float = 7.0) -> None:
        """Count answers that all took the same time."""
        slow_enough = [edge for edge in (*self.edges, float("inf")) if milliseconds <= edge]
        self.count(deployment, {REQUESTS: requests, ASSIGNMENTS: requests, ERRORS: errors})
        self.count(deployment, {latency_series(edge): 0 for edge in self.edges})
        self.count(deployment, {latency_series(edge): requests for edge in slow_enough})

    def count(self, deployment: str, growth: Mapping[str, float]) -> None:
        """Let any series grow, such as a KPI's (``core.measures.KpiCounts.series``)."""
        counters = self._counters.setdefault(deployment, {})
        for series, value in growth.items():
            counters[series] = counters.get(series, 0.0) + value

    def restart(self, deployment: str) -> None:
        """Let the deployment's counters start again from 0."""
        self._counters[deployment] = dict.fromkeys(self._counters.get(deployment, {}), 0.0)

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:  # noqa: ARG002
        """See ``ports.MetricsHistory``."""
        if self.down:
            raise MetricsError(f"{self.name} can't be reached (in-memory, down)")
        return self.past.get(deployment, [])[-int(seconds / step) - 1 :]

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:  # noqa: ARG002
        """See ``ports.Metrics``."""
        self.reads += 1
        if self.down:
            raise MetricsError(f"{self.name} can't be reached (in-memory, down)")
        return {
            name: {"in-memory": dict(self._counters[name])}
            for name in deployments
            if name in self._counters and name not in self.silent
        }
