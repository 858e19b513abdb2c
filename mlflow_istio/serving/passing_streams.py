"""Counts streamed answers of another server as they pass: when the first event came, how many came, and how the stream ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from time import perf_counter

from mlflow_istio.serving.compressed import coding_of
from mlflow_istio.serving.stream_exposition import StreamEnd, StreamSeries

_BY_EVENT = "text/event-stream"
_BY_LINE = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
        "application/stream+json",
    }
)
_KEPT = 64
"""Bytes of a line that are looked at: what it is stands at its beginning."""
_DATA = b"data:"
_DONE = b"[DONE]"
_FAILURE = re.compile(rb'\{\s*"error"\s*:(?!\s*null)')


def is_stream(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer is one that comes piece by piece.

    Args:
        status: Its status code.
        headers: Its headers.
    """
    kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    media = kind.partition(b";")[0].strip().lower().decode("latin-1")
    return 200 <= status < 300 and (media == _BY_EVENT or media in _BY_LINE)


class Events:
    """Counts events in the bytes of a stream, wherever these are parted.

    Of server-sent events (HTML standard, 9.2.6) each that has data counts, but for the ``[DONE]`` that ends OpenAI's;
    comments, which keep a connection open, do not. Of newline-delimited JSON each line counts.

    Args:
        by_line: Whether each line is an event.

    Attributes:
        count: Events that have come.
        failed: Whether one of them says that the server failed: an event called ``error``, or an object whose first key is
            ``error``.
    """

    def __init__(self, *, by_line: bool) -> None:
        self.count = 0
        self.failed = False
        self._by_line = by_line
        self._line = b""
        self._within = False

    def feed(self, data: bytes) -> None:
        """Take what came."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._end_line((self._line + part[:_KEPT])[:_KEPT].strip())
            self._line = b""
        self._line = (self._line + rest[:_KEPT])[:_KEPT]

    def end(self) -> None:
        """Nothing comes any more: a last line needs no end."""
        if self._line:
            self.feed(b"\n")

    def _end_line(self, line: bytes) -> None:
        if self._by_line:
            if line:
                self._take(line)
        elif not line:
            self._within = False
        elif line.startswith(_DATA):
            value = line.removeprefix(_DATA).lstrip()
            if not self._within and value != _DONE:
                self._take(value)
            self._within = True
        elif line.replace(b" ", b"") in (b"event:error",) or line.startswith(b"error:"):
            self.failed = True

    def _take(self, value: bytes) -> None:
        if _FAILURE.match(value):
            self.failed = True
        else:
            self.count += 1


class PassingStream:
    """One streamed answer on its way.

    Args:
        series: Where it is counted.
        headers: The answer's headers.
        asked: When its request was there in full, as ``time.perf_counter`` tells it.
    """

    def __init__(self, series: StreamSeries, headers: Iterable[tuple[bytes, bytes]], asked: float) -> None:
        kept = list(headers)
        kind = next((value for name, value in kept if name.lower() == b"content-type"), b"")
        self._series = series
        self._asked = asked
        # What is compressed is not read on the way; when its first bytes came is known all the same.
        self._events = None if coding_of(kept) else Events(by_line=_BY_EVENT.encode() not in kind.lower())
        self._first: float | None = None
        self._last = asked

    def feed(self, data: bytes) -> None:
        """Take a part of the answer."""
        before = 0
        if self._events is not None:
            before = self._events.count
            self._events.feed(data)
        if self._events is None or self._events.count > before:
            self._last = perf_counter()
            if self._first is None:
                self._first = self._last
                self._series.count_first_chunk(self._first - self._asked)

    def end(self, how: StreamEnd) -> None:
        """Count the answer, which has ended.

        Args:
            how: How, as far as its connections say it.
        """
        count = None
        if self._events is not None:
            self._events.end()
            count = self._events.count
            if how == "whole" and self._events.failed:
                how = "model"
        self._series.count_stream(how, count, self._last - (self._first or self._last))
