"""Passes requests on to the server beside, as they come, and records them on the way.

A caller's connection has one connection to the server for its own, which opens with it and ends with it: what a proxy in
front sees (an idle connection closed, a reset) is what it would see of the server itself. Nothing waits for more: each part
of a body goes on when it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, cast

import h11
from starlette.types import ASGIApp, Message, Scope

from mlflow_istio.serving.compressed import CODINGS, coding_of
from mlflow_istio.serving.passing_sides import Side, connected
from mlflow_istio.serving.passing_streams import PassingStream, is_stream
from mlflow_istio.serving.recorder import PIN_HEADER, Recorder, Recording
from mlflow_istio.serving.stream_exposition import StreamEnd, StreamSeries

_MOST_HEADERS = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """Where requests go, and what is made of them.

    Attributes:
        port: The server's, on this machine.
        recorder: Records each POST; None: nothing is recorded.
        streams: Where streamed answers are counted; None: nowhere.
        own: What answers in the server's place, by path.
        callers: The connections that are open.
    """

    port: int
    recorder: Recorder | None
    streams: StreamSeries | None = None
    own: Mapping[bytes, ASGIApp] = field(default_factory=dict)
    callers: set[Leaving] = field(default_factory=set, compare=False)


class Leaving(Protocol):
    """A connection that can be asked to end."""

    def leave(self) -> None:
        """Answer what is being answered to its end, and nothing after it."""


class Caller(Side):
    """A connection of somebody who asks."""

    def __init__(self, passage: Passage) -> None:
        super().__init__()
        self._passage = passage
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEADERS)
        self._server: _Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = False
        self._is_own = False
        self._leaving = False
        self._recording: Recording | None = None
        self._stream: PassingStream | None = None
        self._counts = False
        self._arrived = 0.0
        self._asked = 0.0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        super().connection_made(transport)
        self._passage.callers.add(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        self._http.receive_data(data)
        self._pass_on()

    def other_side(self) -> Side | None:
        """The server, once it was asked."""
        return self._server

    def connection_lost(self, _reason: Exception | None) -> None:
        """The caller went away: the server learns it as it would without us."""
        self._transport = None
        self._passage.callers.discard(self)
        self._give_up_recording()
        self._end_stream("caller")
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            self._server.close()

    def answer(self, event: h11.Event) -> None:
        """Pass on a part of the server's answer."""
        recording = self._recording
        if isinstance(event, h11.Response):
            self._status = event.status_code
            if event.http_version != b"1.1":
                headers = list(event.headers.raw_items())
                event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
            streams = self._passage.streams
            if streams is not None and self._counts and is_stream(event.status_code, event.headers):
                self._stream = PassingStream(streams, event.headers, self._asked)
            if recording is not None:
                recording.output_coding = coding_of(event.headers)
                if recording.output_coding and recording.output_coding not in CODINGS:
                    recording.drop("encoded")
                    self._recording = None
        elif isinstance(event, h11.Data):
            if self._stream is not None:
                self._stream.feed(bytes(event.data))
            if recording is not None:
                recording.add_output(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            # Before the last byte leaves, so that whoever has the answer finds it counted, and recorded soon.
            self._end_stream("whole")
            if recording is not None:
                recording.finish(self._status, perf_counter() - self._arrived)
                self._recording = None
        self._send(event)

    def next_request(self) -> None:
        """The answer is whole: take what is asked next."""
        self._busy = False
        if self._leaving or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self.close()
            return
        self._http.start_next_cycle()
        self._pass_on()

    def leave(self) -> None:
        """Answer what is being answered to its end, and nothing after it."""
        self._leaving = True
        if not self._busy:
            self.close()

    def abort(self) -> None:
        """Break off: the server did, too."""
        self._end_stream("model")
        super().abort()

    def refuse(self, status: int, text: str) -> None:
        """Answer in the server's place, and end the connection."""
        body = text.encode()
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [("content-length", str(len(body))), ("content-type", "text/plain"), ("connection", "close")]
            self._send(h11.Response(status_code=status, headers=headers))
            self._send(h11.Data(data=body))
            self._send(h11.EndOfMessage())
        self.close()

    def _pass_on(self) -> None:
        while self._transport is not None:
            if self._is_own or (self._busy and self._server is None):
                return  # the answer is our own, or the connection to the server is being made
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self.refuse(error.error_status_hint, "the request is no HTTP")
                return
            if event in (h11.NEED_DATA, h11.PAUSED):
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.ConnectionClosed):
                self.close()
                return
            elif self._server is not None:
                if isinstance(event, h11.Data) and self._recording is not None:
                    self._recording.add_input(bytes(event.data))
                self._asked = perf_counter()
                self._server.send(cast(h11.Event, event))

    def _begin(self, request: h11.Request) -> None:
        self._busy = True
        self._arrived = self._asked = perf_counter()
        # Who pins is not among those that the weights dealt, and figures of a release are of these alone; a GET asks no model.
        self._counts = request.method == b"POST" and all(name != PIN_HEADER for name, _ in request.headers)
        if request.http_version != b"1.1":
            request = h11.Request(method=request.method, target=request.target, headers=_named_host(request))
        path = request.target.partition(b"?")[0]
        if path in self._passage.own:
            self._is_own = True
            self._spawn(self._answer_in_its_place(self._passage.own[path], request))
            return
        if self._passage.recorder is not None and request.method == b"POST":
            self._recording = self._passage.recorder.begin({"headers": list(request.headers)})
        if self._server is None:
            self._spawn(self._connect(request))
        else:
            self._server.send(request)

    async def _connect(self, request: h11.Request) -> None:
        server = await connected(lambda: _Server(self), self._passage.port)
        if server is None:
            self._give_up_recording()
            self.refuse(503, "the model server does not answer yet, or no longer")
            return
        self._server = server
        server.send(request)
        self._pass_on()

    async def _answer_in_its_place(self, own: ASGIApp, request: h11.Request) -> None:
        path, _, query = request.target.partition(b"?")
        scope: Scope = {
            "type": "http",
            "method": request.method.decode("ascii"),
            "path": path.decode("ascii"),
            "query_string": query,
            "headers": list(request.headers),
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._send(h11.Response(status_code=message["status"], headers=message["headers"]))
            else:
                self._send(h11.Data(data=message.get("body", b"")))

        await own(scope, receive, send)
        self._send(h11.EndOfMessage())
        while self._http.their_state is h11.SEND_BODY and isinstance(
            self._http.next_event(), h11.Data | h11.EndOfMessage
        ):
            pass
        self._is_own = False
        self.next_request()

    def _give_up_recording(self) -> None:
        """There will be no whole answer: the server or the caller broke off, or the server does not answer at all."""
        if self._recording is not None:
            self._recording.drop("unanswered")
            self._recording = None

    def _end_stream(self, how: StreamEnd) -> None:
        if self._stream is not None:
            self._stream.end(how)
            self._stream = None

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(cast("asyncio.Future[None]", work))
        self._tasks.add(cast("asyncio.Task[None]", task))
        task.add_done_callback(lambda done: self._tasks.discard(cast("asyncio.Task[None]", done)))

    def _send(self, event: h11.Event) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        data = self._http.send(event)
        if data:
            self._transport.write(data)


class _Server(Side):
    """A caller's connection to the server."""

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self._caller = caller
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEADERS)

    def other_side(self) -> Side | None:
        """The caller."""
        return self._caller

    def send(self, event: h11.Event) -> None:
        """Pass on a part of a request."""
        try:
            data = self._http.send(event)
        except h11.LocalProtocolError:
            if isinstance(event, h11.Request):
                self._caller.abort()  # nobody would ever answer it
            return  # the server has answered and closes, whatever else comes
        if data and self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Pass on what the server answers."""
        self._http.receive_data(data)
        self._answer()

    def eof_received(self) -> None:
        """The server says no more; of an answer without a length, that is its end."""
        self._http.receive_data(b"")
        self._answer()

    def connection_lost(self, _reason: Exception | None) -> None:
        """The server ended the connection: between two requests in peace, within an answer it is broken off."""
        self._transport = None
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR) or self._http.our_state is h11.SEND_BODY:
            self._caller.abort()
        else:
            self._caller.close()

    def _answer(self) -> None:
        while True:
            try:
                event = self._http.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                    return
                self._caller.answer(cast(h11.Event, event))
            except h11.ProtocolError:
                self._caller.abort()
                return
            if isinstance(event, h11.EndOfMessage):
                again = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
                if not again:
                    self._caller.close()
                    return
                self._http.start_next_cycle()
                self._caller.next_request()
                return


def _named_host(request: h11.Request) -> list[tuple[bytes, bytes]]:
    """The headers of a request of HTTP 1.0 as 1.1 must have them."""
    headers = list(request.headers.raw_items())
    return headers if any(name == b"host" for name, _ in request.headers) else [(b"Host", b"localhost"), *headers]
