"""A caller of gRPC and a reader of records that writes its frames itself."""

from __future__ import annotations

import socket
import struct
from collections import defaultdict

from hpack import Decoder, Encoder

from mlflow_istio.serving import http2_frames as http2
from mlflow_istio.serving.http2_frames import FrameReader, frame
from tests.support.grpc_callers import MODEL_INFER


class Bare:
    """A caller that writes frames itself, as Envoy does for a reader of records: one connection for calls and reading alike."""

    def __init__(self, port: int, window: int = 4 * 1024 * 1024, stream_window: int = 65_535) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._encoder, self._decoder, self._reader = Encoder(), Decoder(), FrameReader()
        self._next = 1
        self._stream_window = stream_window
        self._unread = 0
        self._half = window // 2
        self.left = window
        settings = struct.pack(">HI", 4, stream_window)
        update = http2.window_update(0, window - 65_535) if window > 65_535 else b""
        self._socket.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, settings) + update)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        stream, self._next = self._next, self._next + 2
        named = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "m-shadow")]
        said = [(name.replace("_", "-"), value) for name, value in headers.items()]
        # Indexed in the table: whoever loses a block reads the next ones wrong.
        block = self._encoder.encode([*named, *said])
        end = 0 if body else http2.END_STREAM
        data = frame(http2.DATA, http2.END_STREAM, stream, body) if body else b""
        self._socket.sendall(frame(http2.HEADERS, http2.END_HEADERS | end, stream, block) + data)
        return stream

    def infer(self, request_id: str, message: bytes) -> int:
        body = b"\0" + len(message).to_bytes(4, "big") + message
        return self.ask(
            "POST", MODEL_INFER, body, te="trailers", content_type="application/grpc", x_request_id=request_id
        )

    def send(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def receive(self, count: int) -> bytes:
        """The next bytes as they come."""
        return self._socket.recv(count, socket.MSG_WAITALL)

    def receive_some(self) -> bytes:
        """What has come, at least a byte."""
        return self._socket.recv(65536)

    def answers(self, *streams: int) -> dict[int, tuple[dict[str, str], bytes]]:
        """Wait until all have ended; headers and trailers together, and the body."""
        headers: dict[int, dict[str, str]] = defaultdict(dict)
        bodies: dict[int, bytes] = defaultdict(bytes)
        of_stream: dict[int, int] = defaultdict(int)
        waiting = set(streams)
        while waiting:
            data = self._socket.recv(65536)
            assert data, f"closed with {waiting} open"
            for piece in self._reader.feed(data):
                if piece.kind == http2.SETTINGS and not piece.has(http2.ACK):
                    self.send(frame(http2.SETTINGS, http2.ACK, 0))
                elif piece.kind == http2.PING and not piece.has(http2.ACK):
                    self.send(frame(http2.PING, http2.ACK, 0, piece.payload))
                elif piece.kind == http2.HEADERS:
                    headers[piece.stream] |= {str(k): str(v) for k, v in self._decoder.decode(piece.payload)}
                elif piece.kind == http2.DATA:
                    bodies[piece.stream] += piece.payload
                    self.left -= len(piece.payload)
                    self._unread += len(piece.payload)
                    of_stream[piece.stream] += len(piece.payload)
                    assert self.left >= 0, "more came than the connection's window has"
                    assert of_stream[piece.stream] <= self._stream_window, "more came than the stream's window has"
                    if of_stream[piece.stream] > self._stream_window // 2:
                        self.send(http2.window_update(piece.stream, of_stream[piece.stream]))
                        of_stream[piece.stream] = 0
                    if self._unread >= self._half:  # as nghttp2 and Envoy do
                        self.send(http2.window_update(0, self._unread))
                        self.left += self._unread
                        self._unread = 0
                elif piece.kind == http2.RST_STREAM:
                    headers[piece.stream]["reset"] = str(int.from_bytes(piece.payload, "big"))
                    waiting.discard(piece.stream)
                if piece.ends and piece.kind in (http2.DATA, http2.HEADERS) and piece.has(http2.END_STREAM):
                    waiting.discard(piece.stream)
        return {stream: (headers[stream], bodies[stream]) for stream in streams}

    def close(self) -> None:
        self._socket.close()
