"""Passes calls of gRPC on to the server beside, as they come, and records what is asked of a model on the way.

A caller's connection has one connection to the server for its own. What comes on either goes on as it is, frame by frame:
metadata, messages, trailers, cancellations, pings and windows are the server's and its callers', and no limit is ours. Beside
that, the headers are read to know which streams are calls of the V2 protocol's ModelInfer.

Only GETs of records are answered here. The server never sees them, so from the first on its caller's headers are written anew for
it, without the tables of which it missed a part; and what an answer of ours takes of the caller's window is taken off what the
server is told of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

from hpack import Decoder, HPACKError
from starlette.types import ASGIApp, Message, Scope

from mlflow_istio.serving import http2_frames as http2
from mlflow_istio.serving.grpc_answers import status_of
from mlflow_istio.serving.http2_frames import FrameReader, Headers, Piece, UnreadableFrames
from mlflow_istio.serving.passing_sides import Side, connected
from mlflow_istio.serving.recorder import Recording
from mlflow_istio.serving.recording_proxy import Caller, Passage

METHOD = b"/inference.GRPCInferenceService/ModelInfer"
"""The calls that are recorded."""
_MOST_HEADERS = 1024 * 1024
_MOST_OWN = 8
_MOST_REMEMBERED = 1000
"""Streams of ours of which the server is told nothing. Of older ones it ignores what comes late, as it has seen newer ones."""
_ROOM_SECONDS = 60.0


class Door(asyncio.Protocol):
    """A connection of somebody who has not said yet what it speaks: HTTP/2, or HTTP/1.1, in which records may be read, too."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self._transport: asyncio.Transport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first words."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand the connection over to who speaks like that."""
        self._early += data
        if http2.PREFACE.startswith(self._early) and len(self._early) < len(http2.PREFACE):
            return
        if self._transport is None:
            return
        speaks = GrpcCaller if self._early.startswith(http2.PREFACE) else Caller
        caller = speaks(self._passage)
        self._transport.set_protocol(caller)
        caller.connection_made(self._transport)
        caller.data_received(self._early)


@dataclass(kw_only=True, slots=True)
class _Call:
    """A stream that goes on to the server."""

    recording: Recording | None
    arrived: float


@dataclass(kw_only=True, slots=True)
class _Own:
    """A stream that is answered here."""

    window: int
    task: asyncio.Task[None] | None = None


@dataclass(kw_only=True, slots=True)
class _Block:
    """Headers of which more is to come."""

    stream: int
    ends_stream: bool
    fragments: list[bytes] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def add(self, fragment: bytes, raw: bytes) -> None:
        if sum(map(len, self.fragments)) + len(fragment) > _MOST_HEADERS:
            raise UnreadableFrames("headers are too large")
        self.fragments.append(fragment)
        self.raw.append(raw)


class GrpcCaller(Side):
    """A connection of somebody who calls."""

    def __init__(self, passage: Passage) -> None:
        super().__init__()
        self._passage = passage
        self._server: _Server | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._early = b""
        self._reader = FrameReader()
        self._headers = _decoder()
        self._block: _Block | None = None
        self._calls: dict[int, _Call] = {}
        self._own: dict[int, _Own] = {}
        self._never_seen: dict[int, None] = {}
        self._leaving = False
        self._blind = False
        self._rewrites = False
        self._window = http2.WINDOW_BYTES
        self._said: deque[int | None] = deque()
        self._credit = 0
        self._owed = 0
        self._first_update = True
        self._room = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server before more is taken."""
        super().connection_made(transport)
        self._passage.callers.add(self)
        self.hold(True)
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self._server is None:
            self._early += data
            return
        if self._blind:
            self._server.write(self._held() + data)
            return
        pieces, passed = self._reader.feed(data), []
        for number, piece in enumerate(pieces):
            try:
                passed.append(self._of_caller(piece))
            except (UnreadableFrames, HPACKError):
                self.go_blind()
                rest = [later.raw for later in pieces[number + 1 :]]
                # A piece whose headers were whole and wrong is among what was held.
                is_held = self._block is not None and self._block.raw[-1:] == [piece.raw]
                passed.append(self._held(b"".join([b"" if is_held else piece.raw, *rest])))
                break
        self._server.write(b"".join(passed))

    def other_side(self) -> Side | None:
        """The server."""
        return self._server

    def connection_lost(self, _reason: Exception | None) -> None:
        """The caller went away: the server learns it as it would without us."""
        self._transport = None
        self._passage.callers.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        for own in self._own.values():
            if own.task is not None:
                own.task.cancel()
        for call in self._calls.values():
            _give_up(call)
        self._calls.clear()
        if self._server is not None:
            self._server.close()

    def leave(self) -> None:
        """Let the calls that are open end, and no other begin."""
        self._leaving = True
        self._end_if_idle()

    def go_blind(self) -> None:
        """Pass everything on and read nothing of it: somebody sent what nobody here understands, and the other side judges it."""
        if self._rewrites:
            self.abort()  # without us the server could not read its caller's headers any more
        self._blind = True
        for call in self._calls.values():
            _give_up(call)

    @property
    def is_blind(self) -> bool:
        """Whether nothing is read any more."""
        return self._blind

    def answered(self, stream: int, headers: Headers, *, ends: bool) -> None:
        """The server sent headers."""
        call = self._calls.get(stream)
        if call is None:
            return
        if call.recording is not None:
            words = dict(headers)
            if ends:
                call.recording.grpc_status, status = status_of(words)
                call.recording.finish(status, perf_counter() - call.arrived)
                call.recording = None
            elif not words.get(b":status", b"").startswith(b"1"):
                call.recording.output_coding = _coding(headers)
        if ends:
            self._ended(stream)

    def answered_data(self, piece: Piece, payload: bytes) -> None:
        """The server sent a part of an answer."""
        call = self._calls.get(piece.stream)
        if call is not None and call.recording is not None:
            call.recording.add_output(payload)
        if piece.ends and piece.has(http2.END_STREAM):
            self._ended(piece.stream)

    def acknowledged(self) -> None:
        """The server took settings: their windows hold from here on, and not before (RFC 9113, 6.5.3), for answers of ours, too."""
        window = self._said.popleft() if self._said else None
        if window is None:
            return
        for stream in self._own.values():
            stream.window += window - self._window
        self._window = window
        self._room.set()

    def reset(self, stream: int) -> None:
        """One of both sides gave a call up."""
        self._ended(stream)

    def _held(self, pieces: bytes = b"") -> bytes:
        """What was kept until it would be whole, around the pieces that stand between."""
        block, self._block = self._block, None
        held, self._reader.held = self._reader.held, b""
        return b"".join((*(block.raw if block is not None else ()), pieces, held))

    def _ended(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            _give_up(call)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._leaving and not self._calls and not self._own:
            self.close()

    async def _connect(self) -> None:
        server = await connected(lambda: _Server(self), self._passage.port)
        if server is None:
            self.abort()  # as if nobody listened
            return
        self._server = server
        server.write(http2.PREFACE)
        early, self._early = self._early[len(http2.PREFACE) :], b""
        self.data_received(early)
        self.hold(False)

    def _of_caller(self, piece: Piece) -> bytes:
        """What of a piece goes on to the server."""
        if piece.kind == http2.UNREADABLE or (self._block is not None and piece.kind != http2.CONTINUATION):
            raise UnreadableFrames("a frame is too large, or stands between headers")
        own = self._own.get(piece.stream)
        if piece.kind == http2.HEADERS:
            self._block = _Block(stream=piece.stream, ends_stream=piece.has(http2.END_STREAM))
        if piece.kind in (http2.HEADERS, http2.CONTINUATION):
            if self._block is None:
                raise UnreadableFrames("headers go on that never began")
            self._block.add(http2.unpadded(piece) if piece.kind == http2.HEADERS else piece.payload, piece.raw)
            if not piece.has(http2.END_HEADERS):
                return b""
            return self._of_headers(self._block)
        if piece.kind == http2.WINDOW_UPDATE and piece.stream == 0:
            return self._of_window(piece)
        if piece.kind == http2.SETTINGS and not piece.has(http2.ACK):
            self._said.append(http2.initial_window(piece.payload))
        if piece.stream not in self._never_seen:
            self._note(piece)
            return piece.raw
        if piece.kind == http2.DATA and piece.payload:
            self._insert(http2.window_update(0, len(piece.payload)))  # the server won't
        if own is None:
            return b""
        if piece.kind == http2.WINDOW_UPDATE:
            own.window += http2.number_of(piece)
            self._room.set()
        elif piece.kind == http2.RST_STREAM and own.task is not None:
            own.task.cancel()
        return b""

    def _note(self, piece: Piece) -> None:
        if piece.kind == http2.DATA:
            call = self._calls.get(piece.stream)
            if call is not None and call.recording is not None:
                call.recording.add_input(http2.unpadded(piece) if piece.has(http2.PADDED) else piece.payload)
        elif piece.kind == http2.RST_STREAM:
            self.reset(piece.stream)

    def _of_headers(self, block: _Block) -> bytes:
        headers = cast(Headers, self._headers.decode(b"".join(block.fragments), raw=True))
        raw, self._block = b"".join(block.raw), None
        if block.stream in self._never_seen:
            return b""
        if block.stream not in self._calls:
            words = {name: value for name, value in headers if name.startswith(b":")}
            path = words.get(b":path", b"")
            answers = self._passage.own.get(path.partition(b"?")[0])
            if answers is not None and words.get(b":method") == b"GET":
                self._rewrites = True
                self._answer_here(block.stream, answers, headers, path)
                return b""
            recording = self._begun(headers) if path == METHOD else None
            self._calls[block.stream] = _Call(recording=recording, arrived=perf_counter())
        if not self._rewrites:
            return raw
        return http2.header_frames(block.stream, headers, end=block.ends_stream, tables=False)

    def _begun(self, headers: Headers) -> Recording | None:
        if self._passage.recorder is None:
            return None
        recording = self._passage.recorder.begin({"headers": list(headers)})
        if recording is not None:
            recording.input_coding = _coding(headers)
        return recording

    def _of_window(self, piece: Piece) -> bytes:
        """What the server is told of a larger window: all of it but what answers of ours take, for which half is kept at first.

        Who reads tells of what it has read once that is a half of its window: neither side may have less, or it might use all of
        it up and never get it back.
        """
        increment = http2.number_of(piece)
        if self._first_update:
            self._first_update = False
            self._owed = (http2.WINDOW_BYTES + increment) // 2 if self._passage.own else 0
        kept = min(increment, self._owed)
        self._owed -= kept
        self._credit += kept
        self._room.set()
        if not kept:
            return piece.raw
        return http2.window_update(0, increment - kept) if increment > kept else b""

    def _answer_here(self, stream: int, answers: ASGIApp, headers: Headers, path: bytes) -> None:
        self._never_seen[stream] = None
        if len(self._never_seen) > _MOST_REMEMBERED:
            del self._never_seen[next(iter(self._never_seen))]
        if len(self._own) >= _MOST_OWN:
            self._insert(http2.frame(http2.RST_STREAM, 0, stream, http2.REFUSED_STREAM.to_bytes(4, "big")))
            return
        own = self._own[stream] = _Own(window=self._window)
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": path.partition(b"?")[0].decode("latin-1"),
            "query_string": path.partition(b"?")[2],
            "headers": [(name, value) for name, value in headers if not name.startswith(b":")],
        }
        own.task = asyncio.ensure_future(self._answer(stream, own, answers, scope))
        own.task.add_done_callback(lambda done: self._own_ended(stream, done))

    def _own_ended(self, stream: int, task: asyncio.Task[None]) -> None:
        self._own.pop(stream, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"mlflow_istio.serving.beside: no answer to {stream}: {error!r}", file=sys.stderr)
            self._insert(http2.frame(http2.RST_STREAM, 0, stream, http2.INTERNAL_ERROR.to_bytes(4, "big")))
        self._end_if_idle()

    async def _answer(self, stream: int, own: _Own, answers: ASGIApp, scope: Scope) -> None:
        body: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower(), value) for name, value in message["headers"]]
                status = (b":status", str(message["status"]).encode())
                self._insert(http2.header_frames(stream, [status, *headers], end=False))
            else:
                body.append(message.get("body", b""))

        await answers(scope, receive, send)
        left = b"".join(body)
        if not left:
            self._insert(http2.frame(http2.DATA, http2.END_STREAM, stream))
        while left:
            room = min(len(left), own.window, self._credit, http2.FRAME_BYTES)
            if room <= 0:
                self._room.clear()
                try:
                    await asyncio.wait_for(self._room.wait(), _ROOM_SECONDS)
                except asyncio.TimeoutError:
                    self._insert(http2.frame(http2.RST_STREAM, 0, stream, http2.CANCEL.to_bytes(4, "big")))
                    return
                continue
            own.window -= room
            self._credit -= room
            self._owed += room
            ends = http2.END_STREAM if room == len(left) else 0
            self._insert(http2.frame(http2.DATA, ends, stream, left[:room]))
            left = left[room:]

    def _insert(self, frames: bytes) -> None:
        if self._server is not None:
            self._server.insert(frames)


class _Server(Side):
    """A caller's connection to the server."""

    def __init__(self, caller: GrpcCaller) -> None:
        super().__init__()
        self._caller = caller
        self._reader = FrameReader()
        self._headers = _decoder()
        self._block: _Block | None = None
        self._waiting: deque[bytes] = deque()
        self._has_begun = False

    def other_side(self) -> Side | None:
        """The caller."""
        return self._caller

    def data_received(self, data: bytes) -> None:
        """Pass on what the server sends, and read it after that."""
        if self._caller.is_blind:
            self._caller.write(b"".join((self._reader.held, data)))
            self._reader.held = b""
            return
        pieces = self._reader.feed(data)
        self._caller.write(b"".join(piece.raw for piece in pieces))
        self._has_begun = self._has_begun or bool(pieces)  # its settings come first, whatever is asked (RFC 9113, 3.4)
        for piece in pieces:
            try:
                self._read(piece)
            except (UnreadableFrames, HPACKError):
                self._caller.go_blind()
                return
        self.insert(b"")

    def connection_lost(self, reason: Exception | None) -> None:
        """The server ended the connection, or broke it off."""
        self._transport = None
        if reason is None:
            self._caller.close()
        else:
            self._caller.abort()

    def insert(self, frames: bytes) -> None:
        """Send frames of ours to the caller, between two of the server's."""
        if frames:
            self._waiting.append(frames)
        if self._has_begun and not self._reader.inside and self._block is None and not self._caller.is_blind:
            while self._waiting:
                self._caller.write(self._waiting.popleft())

    def _read(self, piece: Piece) -> None:
        if piece.kind in (http2.UNREADABLE, http2.PUSH_PROMISE) or (
            self._block is not None and piece.kind != http2.CONTINUATION
        ):
            raise UnreadableFrames("a frame is too large, of no use for gRPC, or stands between headers")
        if piece.kind == http2.DATA:
            self._caller.answered_data(piece, http2.unpadded(piece) if piece.has(http2.PADDED) else piece.payload)
        elif piece.kind == http2.RST_STREAM:
            self._caller.reset(piece.stream)
        elif piece.kind == http2.SETTINGS and piece.has(http2.ACK):
            self._caller.acknowledged()
        elif piece.kind in (http2.HEADERS, http2.CONTINUATION):
            if piece.kind == http2.HEADERS:
                self._block = _Block(stream=piece.stream, ends_stream=piece.has(http2.END_STREAM))
            if self._block is None:
                raise UnreadableFrames("headers go on that never began")
            self._block.add(http2.unpadded(piece) if piece.kind == http2.HEADERS else piece.payload, b"")
            if piece.has(http2.END_HEADERS):
                block, self._block = self._block, None
                headers = cast(Headers, self._headers.decode(b"".join(block.fragments), raw=True))
                self._caller.answered(block.stream, headers, ends=block.ends_stream)


def _decoder() -> Decoder:
    decoder = Decoder(max_header_list_size=_MOST_HEADERS)
    decoder.max_allowed_table_size = 2**31  # the two sides agree on it; neither asks us
    return decoder


def _coding(headers: Headers) -> str:
    word = next((value for name, value in headers if name == b"grpc-encoding"), b"").decode("latin-1").strip().lower()
    return "" if word == "identity" else word


def _give_up(call: _Call) -> None:
    if call.recording is not None:
        call.recording.drop("unanswered")
        call.recording = None
