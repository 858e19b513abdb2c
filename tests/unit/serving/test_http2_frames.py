"""Frames of HTTP/2 out of bytes that come in any portions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hpack import Decoder

from mlflow_istio.serving import http2_frames as http2
from mlflow_istio.serving.http2_frames import FrameReader, frame, header_frames


def _split(data: bytes, size: int) -> Sequence[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 5, 9, 10, 1000, 100_000])
def test_frames_are_told_apart_however_they_come(size: int) -> None:
    headers = [(b"a" * 40, b"b" * 40_000), (b":status", b"200")]
    whole = (
        header_frames(1, headers, end=False)
        + frame(http2.DATA, http2.END_STREAM, 1, b"x" * 3000)
        + frame(http2.PING, 0, 0)
    )
    reader = FrameReader()
    pieces = [piece for part in _split(whole, size) for piece in reader.feed(part)]
    assert b"".join(piece.raw for piece in pieces) == whole
    block = b"".join(piece.payload for piece in pieces if piece.kind in (http2.HEADERS, http2.CONTINUATION))
    assert list(Decoder().decode(block, raw=True)) == headers
    data = [piece for piece in pieces if piece.kind == http2.DATA]
    assert b"".join(piece.payload for piece in data) == b"x" * 3000
    assert [piece.ends for piece in data] == [False] * (len(data) - 1) + [True]
    assert (reader.held, reader.inside) == (b"", False)
