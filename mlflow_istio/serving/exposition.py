"""What one model server tells Prometheus, through ``prometheus_client``."""

from __future__ import annotations

from typing import Literal, cast, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

PATH_CLASSES = frozenset({"/invocations", "/ping", "/health", "/version", "/metrics", "/records"})
"""The paths that are counted by name; every other is ``other``, so callers can't grow the number of series."""

DROPPED = "mlflow_istio_records_dropped_total"
_CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


StreamEnd = Literal["whole", "model", "caller", "server"]
STREAM_ENDS: tuple[StreamEnd, ...] = get_args(StreamEnd)


class ServerMetrics:
    """The series of one model server.

    - ``mlflow_istio_requests_total{path, code}``: answered requests; ``path`` is in :data:`PATH_CLASSES` or ``other``
    - ``mlflow_istio_invocation_seconds``: histogram, from the request's arrival to its answer's last byte
    - ``mlflow_istio_invocations_in_flight``
    - ``mlflow_istio_model_info{deployment, model, version}``: always 1
    - ``mlflow_istio_streams_total{end}``: streamed answers that ended: ``whole``, or cut by the ``model``, which raised, by the
      ``caller``, who went away, or by this ``server``, which was told to stop and had no more time; pinned requests are in no
      series of streams
    - ``mlflow_istio_stream_first_chunk_seconds``: histogram, from a request that is there in full to its answer's first chunk
    - ``mlflow_istio_stream_chunk_seconds``: histogram, an answer's mean time for each chunk after its first
    - ``mlflow_istio_stream_chunks``: histogram, chunks of an answer, which for most models are tokens
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
            buckets=_SECONDS,
            registry=registry,
        )
        self._streams = Counter(
            "mlflow_istio_streams", "Streamed answers, by how they ended", ["end"], registry=registry
        )
        for end in STREAM_ENDS:
            self._streams.labels(end)
        self._first_chunk = Histogram(
            "mlflow_istio_stream_first_chunk_seconds",
            "Seconds until a streamed answer's first chunk",
            buckets=_SECONDS,
            registry=registry,
        )
        self._chunk_seconds = Histogram(
            "mlflow_istio_stream_chunk_seconds",
            "A streamed answer's mean seconds for each chunk after its first",
            buckets=_SECONDS,
            registry=registry,
        )
        self._chunks = Histogram(
            "mlflow_istio_stream_chunks", "Chunks of a streamed answer", buckets=_CHUNKS, registry=registry
        )
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

    def count_first_chunk(self, seconds: float) -> None:
        """Count a streamed answer that begins."""
        self._first_chunk.observe(seconds)

    def count_stream(self, end: StreamEnd, chunks: int, seconds: float) -> None:
        """Count one streamed answer that has ended.

        Args:
            end: How.
            chunks: How many chunks it had; how long and how fast an answer is, is known of whole ones.
            seconds: From its first chunk to its last.
        """
        self._streams.labels(end).inc()
        if end == "whole":
            self._chunks.observe(chunks)
            if chunks > 1:
                self._chunk_seconds.observe(seconds / (chunks - 1))

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

    def of_records(self) -> CollectorRegistry:
        """The series that a recorder has of itself, without those of a model server that it is not."""
        kept = ("mlflow_istio_model_info", "mlflow_istio_records_total", DROPPED)
        return cast(CollectorRegistry, self.registry.restricted_registry(kept))
