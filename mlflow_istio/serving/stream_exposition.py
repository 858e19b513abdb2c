"""What is counted of streamed answers, for Prometheus."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

StreamEnd = Literal["whole", "model", "caller", "server"]
STREAM_ENDS: tuple[StreamEnd, ...] = get_args(StreamEnd)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class StreamSeries:
    """The series of one server's streamed answers.

    - ``PREFIX_streams_total{end}``: those that ended: ``whole``, or cut by the ``model``, which failed, by the ``caller``, who went
      away, or by this ``server``, which was told to stop and had no more time; pinned requests are in no series
    - ``PREFIX_stream_first_chunk_seconds``: histogram, from a request that is there in full to its answer's first chunk
    - ``PREFIX_stream_chunk_seconds``: histogram, an answer's mean time for each chunk after its first
    - ``PREFIX_stream_chunks``: histogram, chunks of an answer, which for most models are tokens

    Args:
        registry: Where the series live.
        prefix: How their names begin.

    Attributes:
        names: Names of all samples.
    """

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self._streams = Counter(f"{prefix}_streams", "Streamed answers, by how they ended", ["end"], registry=registry)
        for end in STREAM_ENDS:
            self._streams.labels(end)
        self._first_chunk = Histogram(
            f"{prefix}_stream_first_chunk_seconds",
            "Seconds until a streamed answer's first chunk",
            buckets=SECONDS,
            registry=registry,
        )
        self._chunk_seconds = Histogram(
            f"{prefix}_stream_chunk_seconds",
            "A streamed answer's mean seconds for each chunk after its first",
            buckets=SECONDS,
            registry=registry,
        )
        self._chunks = Histogram(
            f"{prefix}_stream_chunks", "Chunks of a streamed answer", buckets=_CHUNKS, registry=registry
        )
        self.names = (
            f"{prefix}_streams_total",
            *(
                f"{prefix}_{of}_{part}"
                for of in ("stream_first_chunk_seconds", "stream_chunk_seconds", "stream_chunks")
                for part in ("bucket", "count", "sum")
            ),
        )

    def count_first_chunk(self, seconds: float) -> None:
        """Count a streamed answer that begins."""
        self._first_chunk.observe(seconds)

    def count_stream(self, end: StreamEnd, chunks: int | None, seconds: float) -> None:
        """Count one streamed answer that has ended.

        Args:
            end: How.
            chunks: How many chunks it had, None where nobody can tell; how long and how fast an answer is, is known of whole ones.
            seconds: From its first chunk to its last.
        """
        self._streams.labels(end).inc()
        if end == "whole" and chunks is not None:
            self._chunks.observe(chunks)
            if chunks > 1:
                self._chunk_seconds.observe(seconds / (chunks - 1))
