"""Streamed answers: what a model's ``predict_stream`` gives, chunk by chunk, to who asks with ``"stream": true``.

MLflow's scoring app has no streams; its server for agents has, and what callers see here is the same: server-sent events, each
chunk as ``data: JSON``, then ``data: [DONE]``. A model that raises before its first chunk answers with an error's status as it
would without a stream; afterwards its error is an event, ``{"error": ...}``, since the status has left.

A stream has a thread of its own, which reads the model's generator from beginning to end: what a model keeps for its thread or
in its context (MLflow does) is there for each chunk, and long streams take no thread from other requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.stream_exposition import StreamEnd

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

_PIN_HEADER = b"x-mlflow-deployment"
DONE = b"data: [DONE]\n\n"
_AHEAD = 64
"""Chunks that a model may be ahead of what was sent: a slow caller holds no more of its answer than that."""
_AT_ONCE = 256
"""Streams at once; who comes later waits for one to end."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_NOT_STREAMED = 'this model does not stream its answers (it has no predict_stream): ask without "stream": true'

_logger = logging.getLogger("uvicorn.error")


class Streams:
    """The scoring app, and beside it the answers that are asked for as a stream.

    Args:
        scoring: MLflow's scoring app.
        model: Its model.
        metrics: Counts streams.
    """

    def __init__(self, scoring: ASGIApp, model: PyFuncModel, metrics: ServerMetrics) -> None:
        self._scoring = scoring
        self._model = model
        self._metrics = metrics
        self._schema = model.metadata.get_input_schema()
        self._known = _known_keys(model)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/invocations":
            await self._scoring(scope, receive, send)
            return
        message = await receive()  # the whole body: ``BodyGate`` has seen to it
        body: bytes = message.get("body", b"")
        asked = _asked_for_stream(body, dict(scope["headers"]).get(b"content-type", b""))
        if asked is None:
            pending = [message]

            async def received() -> Any:
                return pending.pop() if pending else await receive()

            await self._scoring(scope, received, send)
        elif getattr(self._model, "_predict_stream_fn", None) is None:
            await _not_streamed()(scope, receive, send)
        else:
            async with self._slots:
                await self._answer(asked, scope, receive, send)

    async def _answer(self, asked: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        arrived = perf_counter()
        chunks = _Chunks(lambda: self._events(asked))
        gone = asyncio.ensure_future(receive())
        gone.add_done_callback(lambda _: chunks.end("caller"))
        end: StreamEnd = "server"
        count, first, last = 0, arrived, arrived
        begun = False
        # Who pins, as proofs and warm-ups do, is not among those that the weights dealt: figures of a release are of these alone.
        counted = all(name != _PIN_HEADER for name, _ in scope["headers"])
        try:
            try:
                events = await asyncio.wait_for(chunks.next(), MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
            except asyncio.TimeoutError:
                answer = Response("Request processing time exceeded limit", 504, media_type="application/json")
                await answer(scope, receive, send)
                return
            if chunks.failure is not None and not events:
                await _failed(chunks.failure)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            begun = True
            first = perf_counter()
            if events and counted:
                self._metrics.streams.count_first_chunk(first - arrived)
            while events or not chunks.ended:
                if events:
                    count += len(events)
                    last = perf_counter()
                    await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
                events = await chunks.next()
            end = chunks.ended
            if chunks.failure is not None:
                await send({"type": "http.response.body", "body": _event(_told(chunks.failure)), "more_body": True})
        finally:
            chunks.end("server")
            gone.cancel()
            if begun and counted:
                # Before the last byte leaves, so that whoever has the answer finds it counted.
                self._metrics.streams.count_stream(end, count, last - first)
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    def _events(self, asked: dict[str, Any]) -> Iterator[bytes]:
        """The model's chunks as events, as the thread of the stream reads them."""
        if not scoring_server.is_unified_llm_input(asked) or "stream" not in self._known:
            asked = {key: value for key, value in asked.items() if key != "stream"}
        # A text, since MLflow looks for its parameters in the body as it came.
        parsed = scoring_server._parse_json_data(json.dumps(asked), self._model.metadata, self._schema)
        for chunk in self._model.predict_stream(parsed.data, params=parsed.params):
            yield _event(chunk)


class _Chunks:
    """What a thread reads from an iterator, for a coroutine that takes all there is at a time.

    Attributes:
        ended: How the stream ended; empty while it goes on.
        failure: What the iterator raised.
    """

    def __init__(self, events: Callable[[], Iterator[bytes]]) -> None:
        self.ended: StreamEnd | Any = ""
        self.failure: Exception | None = None
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._ready: list[bytes] = []
        self._news = asyncio.Event()
        self._room = threading.Semaphore(_AHEAD)
        self._stopped = threading.Event()
        # Daemons: a model that hangs in a chunk does not keep the process from ending.
        threading.Thread(target=copy_context().run, args=(self._read,), name="stream", daemon=True).start()

    async def next(self) -> list[bytes]:
        """All events that have come, at least one unless the stream has ended."""
        await self._news.wait()
        self._news.clear()
        events, self._ready = self._ready, []
        for _ in events:
            self._room.release()
        if self.ended:
            self._news.set()
        return events

    def end(self, how: StreamEnd) -> None:
        """Say how the stream ended, unless it has: nobody reads the iterator any more."""
        if not self.ended:
            self.ended = how
        self._stopped.set()
        self._room.release()
        self._news.set()

    def _read(self) -> None:
        events = self._events()
        try:
            for event in events:
                self._room.acquire()
                if self._stopped.is_set():
                    break
                self._tell(self._came, event)
        except Exception as exc:  # noqa: BLE001  # a model's own code: anything can come out
            _logger.error("A streamed answer failed: %s", "".join(traceback.format_exception(exc)))
            self._tell(self._fail, exc)
        else:
            self._tell(self.end, "whole")
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # the server has ended meanwhile
            self._stopped.set()

    def _came(self, event: bytes) -> None:
        self._ready.append(event)
        self._news.set()

    def _fail(self, exc: Exception) -> None:
        self.failure = exc
        self.end("model")


def _asked_for_stream(body: bytes, content_type: bytes) -> dict[str, Any] | None:
    """The body, if it asks for a stream; else None."""
    if b'"stream"' not in body or content_type.partition(b";")[0].strip().lower() != b"application/json":
        return None
    asked = json.loads(body.decode("utf-8-sig"))
    return asked if isinstance(asked, dict) and asked.get("stream") is True else None


def _known_keys(model: PyFuncModel) -> frozenset[str]:
    """What the model's signature has names for: a chat model's knows ``stream``, and is to see it."""
    inputs, params = model.metadata.get_input_schema(), model.metadata.get_params_schema()
    named = () if inputs is None or not inputs.has_input_names() else inputs.input_names()
    return frozenset((*named, *(() if params is None else (param.name for param in params.params))))


def _event(chunk: Any) -> bytes:
    plain = chunk.model_dump(exclude_none=True) if hasattr(chunk, "model_dump") else chunk
    return b"data: " + json.dumps(plain, cls=scoring_server.NumpyEncoder).encode() + b"\n\n"


def _told(failure: Exception) -> dict[str, str]:
    return {"error": failure.message if isinstance(failure, MlflowException) else str(failure)}


def _failed(failure: Exception) -> Response:
    """As MLflow's scoring app says a failure of ``predict``; ``ModelFailures`` knows whose it is."""
    if isinstance(failure, NotImplementedError):
        return _not_streamed()
    told: Any = failure  # MLflow has no types
    if not isinstance(failure, MlflowException):
        told = MlflowException(f"the model failed before its first chunk: {failure}", error_code=BAD_REQUEST)
    return Response(told.serialize_as_json(), told.get_http_status_code(), media_type="application/json")


def _not_streamed() -> JSONResponse:
    return JSONResponse({"error_code": "BAD_REQUEST", "message": _NOT_STREAMED}, 400)
