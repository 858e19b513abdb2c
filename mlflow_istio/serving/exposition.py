"""What one model server tells Prometheus, through ``prometheus_client``."""

from __future__ import annotations

from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from mlflow_istio.serving.stream_exposition import SECONDS, StreamSeries

PATH_CLASSES = frozenset({"/invocations", "/ping", "/health", "/version", "/metrics", "/records"})
"""The paths that are counted by name; every other is ``other``, so callers can't grow the number of series."""

DROPPED = "mlflow_istio_records_dropped_total"


class ServerMetrics:
    """The series of one model server.

    - ``mlflow_istio_requests_total{path, code}``: answered requests; ``path`` is in :data:`PATH_CLASSES` or ``other``
    - ``mlflow_istio_invocation_seconds``: histogram, from the request's arrival to its answer's last byte
    - ``mlflow_istio_invocations_in_flight``
    - ``mlflow_istio_model_info{deployment, model, version}``: always 1
    - those of ``StreamSeries``: ``mlflow_istio_streams_total`` and the rest
    - ``mlflow_istio_records_total`` and ``mlflow_istio_records_dropped_total{reason}``

    Args:
        registry: Where the series live.
        deployment: Name of the deployment.
        model: Name of the registered model.
        version: Its version.
    """

    def __init__(self, registry: CollectorRegistry, *, deployment: str, model: str, version: str) -> None:
        self.registry = registry
        self.in_flight = Gauge(
            "mlflow_istio_invocations_in_flight", "Invocations that have no full answer yet", registry=registry
        )
        self.records = Counter("mlflow_istio_records", "Requests written to the record log", registry=registry)
        self._requests = Counter(
            "mlflow_istio_requests", "Answered requests by path and status code", ["path", "code"], registry=registry
        )
        self._seconds = Histogram(
            "mlflow_istio_invocation_seconds",
            "Seconds from an invocation's arrival to its answer's last byte",
            buckets=SECONDS,
            registry=registry,
        )
        self.streams = StreamSeries(registry, "mlflow_istio")
        self._dropped = Counter(
            "mlflow_istio_records_dropped", "Sampled requests that were not recorded", ["reason"], registry=registry
        )
        Info("mlflow_istio_model", "The model version that answers here", registry=registry).info(
            {"deployment": deployment, "model": model, "version": version}
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            path: The request's path.
            status: The answer's status code.
            seconds: Time from arrival to the answer's last byte.
        """
        self._requests.labels(path if path in PATH_CLASSES else "other", str(status)).inc()
        if path == "/invocations":
            self._seconds.observe(seconds)

    def count_dropped(self, reason: str) -> None:
        """Count one request that should have been recorded and was not."""
        self._dropped.labels(reason).inc()

    def dropped(self) -> dict[str, int]:
        """Requests that should have been recorded and were not, by reason, since the process started."""
        return {
            sample.labels["reason"]: int(sample.value)
            for metric in self._dropped.collect()
            for sample in metric.samples
            if sample.name == DROPPED
        }

    def of_recorder(self) -> tuple[CollectorRegistry, StreamSeries]:
        """The series that a recorder has of itself and of what passes it, without those of a model server that it is not.

        Returns:
            They, and of them those of streams, whose names begin with ``mlflow_istio_recorder``.
        """
        streams = StreamSeries(self.registry, "mlflow_istio_recorder")
        kept = ("mlflow_istio_model_info", "mlflow_istio_records_total", DROPPED, *streams.names)
        return cast(CollectorRegistry, self.registry.restricted_registry(kept)), streams
