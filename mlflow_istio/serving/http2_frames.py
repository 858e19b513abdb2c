"""Frames of HTTP/2, as far as who passes them on has to know them (RFC 9113). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a caller's connection begins with."""
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
UNREADABLE = -1
"""No type of a frame: what stands in it is not told apart."""
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
FRAME_BYTES = 16_384
"""Most bytes of a frame's payload that everybody takes."""
WINDOW_BYTES = 65_535
"""What may be sent before anything is said about it."""
INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0x2, 0x7, 0x8

_INITIAL_WINDOW_SIZE = 0x4
_HEAD = 9
_MOST_HELD = 1024 * 1024
_ID = 0x7FFF_FFFF

Headers = Sequence[tuple[bytes, bytes]]


class UnreadableFrames(ValueError):
    """What came is not what a reader of ours goes on with; whoever it is for may judge it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A frame, or a part of the payload of one of data.

    Attributes:
        kind: The frame's type.
        flags: Its flags.
        stream: Its stream; 0: the connection.
        payload: What it carries.
        raw: As it came.
        ends: Whether the frame is whole with it.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes
    raw: bytes
    ends: bool = True

    def has(self, flag: int) -> bool:
        """Whether a flag is set."""
        return bool(self.flags & flag)


class FrameReader:
    """Tells frames apart as bytes come. Data go on as they come; other frames once they are whole."""

    def __init__(self) -> None:
        self._left = 0
        self._flags = 0
        self._stream = 0
        self.held = b""

    @property
    def inside(self) -> bool:
        """Whether a frame's beginning was given out, and its end was not."""
        return self._left > 0

    def feed(self, data: bytes) -> list[Piece]:
        """What can be given out, with what came now; from a frame on that is too large to be held, one piece ``UNREADABLE``."""
        held = self.held + data if self.held else data
        pieces = []
        at = 0
        while at < len(held):
            if self._left:
                part = held[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                pieces.append(self._part(part, part))
                continue
            if len(held) - at < _HEAD:
                break
            size, kind, flags = int.from_bytes(held[at : at + 3], "big"), held[at + 3], held[at + 4]
            stream = int.from_bytes(held[at + 5 : at + _HEAD], "big") & _ID
            if kind == DATA and not flags & PADDED:
                self._flags, self._stream = flags, stream
                part = held[at + _HEAD : at + _HEAD + size]
                self._left = size - len(part)
                pieces.append(self._part(part, held[at : at + _HEAD + len(part)]))
                at += _HEAD + len(part)
                continue
            whole = at + _HEAD + size
            if size > _MOST_HELD:
                self.held = b""
                return [*pieces, Piece(kind=UNREADABLE, flags=0, stream=0, payload=b"", raw=held[at:])]
            if len(held) < whole:
                break
            raw = held[at:whole]
            pieces.append(Piece(kind=kind, flags=flags, stream=stream, payload=raw[_HEAD:], raw=raw))
            at = whole
        self.held = held[at:]
        return pieces

    def _part(self, payload: bytes, raw: bytes) -> Piece:
        return Piece(kind=DATA, flags=self._flags, stream=self._stream, payload=payload, raw=raw, ends=not self._left)


def unpadded(piece: Piece) -> bytes:
    """A frame's payload without padding and priority.

    Raises:
        UnreadableFrames: It is shorter than that.
    """
    start, end = 0, len(piece.payload)
    if piece.has(PADDED):
        if not piece.payload:
            raise UnreadableFrames("a padded frame is empty")
        start, end = 1, end - piece.payload[0]
    if piece.kind == HEADERS and piece.has(HAS_PRIORITY):
        start += 5
    if start > end:
        raise UnreadableFrames("a frame has more padding than payload")
    return piece.payload[start:end]


def number_of(piece: Piece) -> int:
    """The increment of a WINDOW_UPDATE, without the reserved bit."""
    return int.from_bytes(piece.payload[:4], "big") & _ID


def initial_window(payload: bytes) -> int | None:
    """How much may be sent on each stream, where a SETTINGS frame says it."""
    settings = dict(struct.iter_unpack(">HI", payload[: len(payload) // 6 * 6]))
    return settings.get(_INITIAL_WINDOW_SIZE)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def window_update(stream: int, increment: int) -> bytes:
    """A frame that lets the other side send more."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def header_frames(stream: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool, tables: bool = True) -> bytes:
    """Frames with headers that need no table at the other side (RFC 7541, 6.2.2).

    Args:
        stream: The stream.
        headers: Names and values.
        end: Whether nothing follows on the stream.
        tables: Whether others' headers go the same way and need the table as it is; else it is emptied, which is right whatever
            its size was set to.
    """
    block = (b"" if tables else b"\x20") + b"".join(_literal(name, value) for name, value in headers)
    parts = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)] or [b""]
    last = len(parts) - 1
    return b"".join(
        frame(
            CONTINUATION if number else HEADERS,
            (END_HEADERS if number == last else 0) | (END_STREAM if end and not number else 0),
            stream,
            part,
        )
        for number, part in enumerate(parts)
    )


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    head, length = bytearray((127,)), length - 127
    while length >= 128:
        head.append(length % 128 + 128)
        length //= 128
    head.append(length)
    return bytes(head) + text
