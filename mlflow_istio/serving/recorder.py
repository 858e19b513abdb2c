"""Records a sample of the invocations, so that a shadow's answers can be compared with stable's.

Istio throws a mirror's answer away, but the mirrored request carries the same ``x-request-id``. The sample is chosen
by a hash of that id: both sides keep the same requests, and a reader joins them by it.

Requests never wait for the recorder: they hand over what they saw, and one thread writes it. What can't be
written is dropped and counted.
"""

from __future__ import annotations

import json
import threading
import time
from hashlib import blake2b
from queue import SimpleQueue
from typing import Protocol

from starlette.types import Message, Receive, Scope

from mlflow_istio.serving.compressed import UnreadableBody, coding_of, plain
from mlflow_istio.serving.configuration import RecordSettings
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.payloads import Json, recorded_input, recorded_output
from mlflow_istio.serving.record_log import RecordLog

MAX_RECORD_BYTES = 1024 * 1024
"""Most bytes of the bodies of one record; larger ones are dropped."""
MAX_PENDING_BYTES = 8 * 1024 * 1024
"""Most bytes that may wait to be written; what would pass it is dropped."""

_PAUSE = 0.01
"""Seconds in which what comes is gathered: a thread that woke for each record would take its turn within each next request."""
_BASE_BYTES = 512  # about what a waiting record takes beside its bodies, so that empty ones are bounded too
PIN_HEADER = b"x-mlflow-deployment"
_DIGEST_BYTES = 16
_HASH_BYTES = 8
_HASHES: int = 2 ** (8 * _HASH_BYTES)


def is_sampled(request_id: bytes, rate: float) -> bool:
    """Whether a request is in the sample.

    Args:
        request_id: Value of ``x-request-id``.
        rate: Share of the ids that is in the sample, 0 to 1.

    Returns:
        The same for the same id and rate, everywhere; a smaller rate's sample is part of a larger one's.
    """
    digest = blake2b(request_id, digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") < rate * _HASHES


class Recording:
    """What is seen of one sampled request while it is answered."""

    __slots__ = (
        *("_digest", "_input", "_limit", "_output", "_recorder"),
        *("arrived", "grpc_status", "input_coding", "ms", "output_coding", "pinned", "request_id", "size", "status"),
    )

    def __init__(self, recorder: Recorder, request_id: bytes, limit: int, *, pinned: bool = False) -> None:
        self._digest = blake2b(request_id, digest_size=_DIGEST_BYTES)
        self.pinned = pinned
        self._recorder = recorder
        self._limit = limit
        self._input: list[bytes] = []
        self._output: list[bytes] = []
        self.request_id = request_id
        self.arrived = time.time()
        self.size = 0
        self.status = 0
        self.ms = 0.0
        self.input_coding = ""
        self.output_coding = ""
        self.grpc_status = ""

    def tap(self, receive: Receive) -> Receive:
        """The same ``receive``, with the request's body noted on the way: all of it if it is to be recorded, else a digest."""

        async def noted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.add_input(message.get("body", b""))
            return message

        return noted

    def add_input(self, body: bytes) -> None:
        """Note a part of the request's body."""
        self._digest.update(body)
        if self._recorder.settings.fields.input:
            self._note(self._input, body)

    def add_output(self, body: bytes) -> None:
        """Note a part of the answer's body."""
        if self._recorder.settings.fields.output:
            self._note(self._output, body)

    def finish(self, status: int, seconds: float) -> None:
        """Hand the recording over to be written.

        Args:
            status: The answer's status code.
            seconds: Time from arrival to the answer's last byte.
        """
        self.status = status
        self.ms = round(seconds * 1000, 3)
        self._recorder.submit(self)

    def drop(self, reason: str) -> None:
        """Give the recording up, and count it as dropped."""
        self._recorder.count_dropped(reason)

    @property
    def is_too_large(self) -> bool:
        """Whether the bodies passed the limit, so that they are not held in full."""
        return self.size > self._limit

    @property
    def body(self) -> str:
        """A digest of the request's id and body: equal for the copies of one request."""
        return self._digest.hexdigest()

    @property
    def input(self) -> bytes:
        """The request's body."""
        return b"".join(self._input)

    @property
    def output(self) -> bytes:
        """The answer's body."""
        return b"".join(self._output)

    def _note(self, parts: list[bytes], body: bytes) -> None:
        self.size += len(body)
        if self.is_too_large:
            self._input.clear()
            self._output.clear()
        else:
            parts.append(body)


class Bodies(Protocol):
    """How the bodies of a recording are read: as JSON, or as the texts that they are."""

    def input(self, recording: Recording, most: int) -> bytes:
        """The request's, of at most so many bytes.

        Raises:
            UnreadableBody: Nothing here reads it.
            ValueError: It is larger.
        """

    def output(self, recording: Recording, most: int) -> bytes:
        """The answer's, likewise."""


class HttpBodies:
    """Bodies of HTTP, which are read when they are no longer compressed."""

    def input(self, recording: Recording, most: int) -> bytes:
        """See ``Bodies``."""
        return plain(recording.input, recording.input_coding, most)

    def output(self, recording: Recording, most: int) -> bytes:
        """See ``Bodies``."""
        return plain(recording.output, recording.output_coding, most)


class Recorder:
    """Writes the sampled invocations of one server.

    A record is a JSON object: ``request_id``, ``time`` (arrival, Unix seconds), ``deployment``, ``model_version``
    (``MODEL/VERSION``), ``status`` (of a call of gRPC the one of HTTP that it is like, and ``grpc_status``), ``ms``, ``body`` (a
    digest of the request's), ``pinned`` where the caller chose who answers, and ``output`` and ``input`` where they are kept.

    Args:
        settings: What to record.
        log: Where to.
        metrics: Counts what was recorded and what was dropped, by reason: ``no_request_id``, ``too_large``,
            ``backlog`` (the disk is too slow), ``write_error`` (the disk is full), ``encoded`` (a body is
            compressed in a way that is not read, or damaged), ``unreadable`` (a message that is none of the V2 protocol's),
            ``datatype NAME`` (a tensor of a kind that is not read), ``unanswered`` (of a recorder beside its server: one of
            both sides broke off).
        deployment: Name of the deployment.
        model_version: ``MODEL/VERSION``.
        bodies: How bodies are read.
    """

    def __init__(
        self,
        settings: RecordSettings,
        log: RecordLog,
        metrics: ServerMetrics,
        *,
        deployment: str,
        model_version: str,
        bodies: Bodies | None = None,
    ) -> None:
        self._bodies = bodies or HttpBodies()
        self.settings = settings
        self.log = log
        self._metrics = metrics
        self._deployment = deployment
        self._model_version = model_version
        self._limit = min(MAX_RECORD_BYTES, log.max_line_bytes)
        self._queue: SimpleQueue[Recording | None] = SimpleQueue()
        self._pending_bytes = 0
        self._pending_lock = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def begin(self, scope: Scope) -> Recording | None:
        """Begin to record a request, or None when it is not in the sample."""
        request_id = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        if not request_id:
            self._metrics.count_dropped("no_request_id")
            return None
        if not is_sampled(request_id, self.settings.rate):
            return None
        pinned = any(name == PIN_HEADER for name, _ in scope["headers"])
        recording = Recording(self, request_id, self._limit, pinned=pinned)
        recording.input_coding = coding_of(scope["headers"])
        return recording

    def submit(self, recording: Recording) -> None:
        """Have a finished recording written. Never waits."""
        if recording.is_too_large:
            self._metrics.count_dropped("too_large")
            return
        size = recording.size + _BASE_BYTES
        with self._pending_lock:
            fits = self._pending_bytes + size <= MAX_PENDING_BYTES
            if fits:
                self._pending_bytes += size
        if fits:
            self._queue.put(recording)
        else:
            self._metrics.count_dropped("backlog")

    def count_dropped(self, reason: str) -> None:
        """Count a request that was in the sample and can't be recorded."""
        self._metrics.count_dropped(reason)

    def dropped(self) -> dict[str, int]:
        """How many requests were in the sample and not recorded since the process started, by reason."""
        return self._metrics.dropped()

    def close(self, timeout: float = 10) -> None:
        """Write what waits, and close the log.

        Args:
            timeout: Most seconds to wait for a slow disk; the rest is lost.
        """
        self._queue.put(None)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self.log.close()

    def _write_all(self) -> None:
        while (recording := self._queue.get()) is not None:
            try:
                self.log.append(self._line(recording))
            except OSError:
                self._metrics.count_dropped("write_error")
            except UnreadableBody as error:
                self._metrics.count_dropped(error.reason)
            except (ValueError, RecursionError):
                # Escaped characters can make a line longer than the bodies were, and JSON can be nested too deep.
                self._metrics.count_dropped("too_large")
            else:
                self._metrics.records.inc()
            with self._pending_lock:
                self._pending_bytes -= recording.size + _BASE_BYTES
            if self._queue.empty():
                time.sleep(_PAUSE)

    def _line(self, recording: Recording) -> bytes:
        fields = self.settings.fields
        record: dict[str, Json] = {
            "request_id": recording.request_id.decode("latin-1"),
            "time": round(recording.arrived, 3),
            "deployment": self._deployment,
            "model_version": self._model_version,
            "status": recording.status,
            "ms": recording.ms,
            "body": recording.body,
            **({"pinned": True} if recording.pinned else {}),
            **({"grpc_status": recording.grpc_status} if recording.grpc_status else {}),
        }
        if fields.output:
            body = self._bodies.output(recording, self._limit)
            record["output"] = recorded_output(body, recording.status, fields.dropped)
        if fields.input:
            record["input"] = recorded_input(self._bodies.input(recording, self._limit), fields.dropped)
        return json.dumps(record, separators=(",", ":")).encode("ascii")
