"""What every Metrics must do, as tests that any implementation can run.

Each implementation gives the fixture ``traffic``: a ``CountedTraffic``, through which the tests send requests to two
deployments of an endpoint and do harm to the source.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import pytest

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import CounterState, Reading
from mlflow_istio.core.analysis.history import history_of
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS, latency_counts
from mlflow_istio.core.release.edges import edges_in
from mlflow_istio.errors import MetricsError
from mlflow_istio.ports.metrics import KnownEdges, Metrics, MetricsHistory

PATIENCE = 120.0
"""Seconds until a source must show what was served."""


class CountedTraffic(Protocol):
    """An endpoint with traffic, and the source that counts it."""

    metrics: Metrics
    endpoint: str
    deployments: tuple[str, str]

    def serve(self, deployment: str, requests: int, errors: int = 0) -> None:
        """Have so many requests answered by the deployment, `errors` of them failing."""

    def settle(self) -> None:
        """Wait until the source shows everything that was served."""

    def restart(self) -> None:
        """Restart whatever counts, so that the counters begin again at 0; the next `serve` works again."""

    def stop(self) -> None:
        """Make the source unreachable for good."""


class Watch:
    """Adds up what the source reports, as the engine does."""

    def __init__(self, traffic: CountedTraffic) -> None:
        self._traffic = traffic
        self.metrics = traffic.metrics
        self._states: dict[str, CounterState] = {}
        self.seen: dict[str, dict[str, int]] = {}

    def look(self) -> Mapping[str, Mapping[str, int]]:
        """Read once more."""
        return self._take(self._read())

    def begin(self, *series: str) -> None:
        """Take the base line from the first reading in which some deployment has each of these series."""
        deadline = time.monotonic() + PATIENCE
        while True:
            readings = self._read()
            names = {name for reading in readings.values() for counters in reading.values() for name in counters}
            if names >= set(series):
                self._take(readings)
                return
            assert time.monotonic() < deadline, f"never had {series}, only {sorted(names)}"
            time.sleep(0.1)

    def _read(self) -> Mapping[str, Reading]:
        return self.metrics.read(self._traffic.endpoint, self._traffic.deployments)

    def _take(self, readings: Mapping[str, Reading]) -> Mapping[str, Mapping[str, int]]:
        for deployment, reading in readings.items():
            state, grown = self._states.get(deployment, CounterState()).advanced(reading)
            self._states[deployment] = state
            total = self.seen.setdefault(deployment, {})
            for series, count in grown.items():
                total[series] = total.get(series, 0) + count
        return self.seen

    def until(self, condition: Callable[[Mapping[str, Mapping[str, int]]], bool]) -> Mapping[str, Mapping[str, int]]:
        """Read until the condition holds; fails with what was seen instead."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.look()):
            assert time.monotonic() < deadline, f"never seen; counted so far: {self.seen}"
            time.sleep(0.1)
        return self.seen


class HistoryContract:
    """What a source remembers is what was counted, step by step."""

    WINDOW = 10.0

    def answered(self, traffic: CountedTraffic, deployment: str) -> tuple[int, int] | None:
        """Requests and errors within the window, as the source remembers them; None while it remembers no step."""
        assert isinstance(traffic.metrics, MetricsHistory)
        readings = traffic.metrics.history(traffic.endpoint, deployment, self.WINDOW, 1.0)
        assert len(readings) <= self.WINDOW + 1
        history = history_of(readings, 1.0)
        return (int(history.requests.sum()), int(history.errors.sum())) if history.known.any() else None

    def until(self, traffic: CountedTraffic, deployment: str, expected: tuple[int, int]) -> None:
        deadline = time.monotonic() + PATIENCE
        while (seen := self.answered(traffic, deployment)) != expected:
            assert time.monotonic() < deadline, f"remembers {seen}, not {expected}"
            traffic.settle()
            time.sleep(0.1)

    def test_it_remembers_what_each_deployment_has_answered(self, traffic: CountedTraffic) -> None:
        stable, candidate = traffic.deployments
        for deployment in traffic.deployments:
            traffic.serve(deployment, 1)
        traffic.settle()
        self.until(traffic, stable, (0, 0))  # nobody has asked anything for as long as the window
        traffic.serve(stable, 9, errors=2)
        self.until(traffic, stable, (9, 2))
        assert self.answered(traffic, candidate) == (0, 0)

    def test_of_a_deployment_that_never_was_it_remembers_nothing(self, traffic: CountedTraffic) -> None:
        assert isinstance(traffic.metrics, MetricsHistory)
        assert list(traffic.metrics.history(traffic.endpoint, "never-served", 60.0, 1.0)) == []

    def test_history_of_a_source_that_is_gone_is_one_clear_line(self, traffic: CountedTraffic) -> None:
        assert isinstance(traffic.metrics, MetricsHistory)
        traffic.stop()
        with pytest.raises(MetricsError) as caught:
            traffic.metrics.history(traffic.endpoint, traffic.deployments[0], 60.0, 1.0)
        assert "\n" not in caught.value.message
        assert traffic.metrics.name in caught.value.message


def counted(seen: Mapping[str, Mapping[str, int]], deployment: str, series: str) -> int:
    """How much a series grew."""
    return seen.get(deployment, {}).get(series, 0)


class MetricsContract:
    """Counts are counts: complete, of the right deployment, and never made up."""

    @pytest.fixture
    def watch(self, traffic: CountedTraffic) -> Watch:
        """A watch whose base line is taken after both deployments have served one request."""
        for deployment in traffic.deployments:
            traffic.serve(deployment, 1)
        traffic.settle()
        watch = Watch(traffic)
        assert set(traffic.deployments) <= set(traffic.metrics.read(traffic.endpoint, traffic.deployments))
        watch.look()
        return watch

    def test_it_is_a_metrics_with_a_name(self, traffic: CountedTraffic) -> None:
        assert isinstance(traffic.metrics, Metrics)
        assert traffic.metrics.name

    def test_a_deployment_without_data_is_absent(self, traffic: CountedTraffic) -> None:
        traffic.serve(traffic.deployments[0], 1)
        assert "never-served" not in traffic.metrics.read(traffic.endpoint, [traffic.deployments[0], "never-served"])

    def test_each_deployment_gets_its_own_requests_errors_and_latencies(
        self, traffic: CountedTraffic, watch: Watch
    ) -> None:
        stable, candidate = traffic.deployments
        traffic.serve(stable, 9)
        traffic.serve(candidate, 7, errors=3)

        def all_in(seen: Mapping[str, Mapping[str, int]]) -> bool:
            return all(
                counted(seen, name, REQUESTS) >= requests and counted(seen, name, "le/+Inf") >= requests
                for name, requests in ((stable, 9), (candidate, 7))
            )

        seen = watch.until(all_in)
        assert counted(seen, stable, REQUESTS) == 9
        assert counted(seen, candidate, REQUESTS) == 7
        assert counted(seen, stable, ERRORS) == 0
        assert counted(seen, candidate, ERRORS) == 3
        for name in (stable, candidate):
            buckets = Buckets.from_cumulative(latency_counts(dict(seen[name])))
            assert buckets.edges[-1] == math.inf
            assert len(buckets.edges) > 3
            assert buckets.at_most(buckets.edges[-2]) == buckets.total, "local answers take less than the last edge"
        if isinstance(traffic.metrics, KnownEdges) and traffic.metrics.latency_edges:
            read = traffic.metrics.read(traffic.endpoint, traffic.deployments)
            assert edges_in(read) == tuple(traffic.metrics.latency_edges)

    def test_reading_changes_nothing(self, traffic: CountedTraffic, watch: Watch) -> None:
        traffic.serve(traffic.deployments[0], 3)
        watch.until(lambda seen: counted(seen, traffic.deployments[0], REQUESTS) >= 3)
        before = dict(watch.seen[traffic.deployments[0]])
        for _ in range(3):
            watch.look()
        assert watch.seen[traffic.deployments[0]][REQUESTS] == before[REQUESTS]

    def test_counts_go_on_after_a_restart(self, traffic: CountedTraffic, watch: Watch) -> None:
        stable = traffic.deployments[0]
        traffic.serve(stable, 20)
        watch.until(lambda seen: counted(seen, stable, REQUESTS) >= 20)
        traffic.restart()
        traffic.serve(stable, 4)
        seen = watch.until(lambda seen: counted(seen, stable, REQUESTS) >= 24)
        assert counted(seen, stable, REQUESTS) == 24

    def test_a_source_that_is_gone_is_one_clear_line(self, traffic: CountedTraffic) -> None:
        traffic.stop()
        with pytest.raises(MetricsError) as caught:
            traffic.metrics.read(traffic.endpoint, traffic.deployments)
        assert "\n" not in caught.value.message
        assert traffic.metrics.name in caught.value.message
