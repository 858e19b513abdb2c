"""Bodies that are compressed, as ``content-encoding`` says it (RFC 9110, 8.4): Triton, for one, answers so whoever takes it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""What the standard library reads."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_BARE = -zlib.MAX_WBITS


class UnreadableBody(ValueError):
    """A body that is compressed in a way that nothing here reads, or damaged.

    Attributes:
        reason: What it counts as, among what was not recorded.
    """

    def __init__(self, message: str, reason: str = "encoded") -> None:
        super().__init__(message)
        self.reason = reason


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """How a body is compressed; empty when it isn't."""
    words = [value.decode("latin-1").strip().lower() for name, value in headers if name.lower() == b"content-encoding"]
    return ", ".join(word for word in words if word not in ("", "identity"))


def plain(body: bytes, coding: str, most: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        body: The body.
        coding: One of ``CODINGS``; empty: it is not compressed.
        most: Most bytes it may have.

    Raises:
        UnreadableBody: It is damaged, or compressed in another way.
        ValueError: It is larger.
    """
    if not coding:
        return body
    if coding not in CODINGS:
        raise UnreadableBody(f"nothing here reads a body in {coding}")
    try:
        return _inflated(body, _GZIP_OR_ZLIB, most)
    except zlib.error:
        if coding != "deflate":
            raise UnreadableBody("the body is damaged") from None
    try:  # some send it without zlib's frame, against the standard
        return _inflated(body, _BARE, most)
    except zlib.error:
        raise UnreadableBody("the body is damaged") from None


def _inflated(body: bytes, window: int, most: int) -> bytes:
    work = zlib.decompressobj(window)
    result = work.decompress(body, most + 1)
    if len(result) > most:
        raise ValueError("the body is too large")
    if not work.eof:
        raise UnreadableBody("the body is cut off")
    return result
