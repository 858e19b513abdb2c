"""The in-memory Metrics passes the contract."""

from __future__ import annotations

import pytest

from mlflow_istio.testing import InMemoryMetrics
from tests.contract.metrics_contract import CountedTraffic, HistoryContract, MetricsContract


class InMemoryTraffic:
    def __init__(self) -> None:
        self.metrics = InMemoryMetrics()
        self.endpoint = "churn"
        self.deployments = ("churn-v1", "churn-v2")

    def serve(self, deployment: str, requests: int, errors: int = 0) -> None:
        self.metrics.serve(deployment, requests, errors=errors)

    def settle(self) -> None:
        """It shows everything at once; a step of its history is over."""
        for deployment, reading in self.metrics.read(self.endpoint, self.deployments).items():
            self.metrics.past.setdefault(deployment, []).append(reading)

    def restart(self) -> None:
        for deployment in self.deployments:
            self.metrics.restart(deployment)

    def stop(self) -> None:
        self.metrics.down = True


class TestInMemory(MetricsContract, HistoryContract):
    @pytest.fixture
    def traffic(self) -> CountedTraffic:
        return InMemoryTraffic()
