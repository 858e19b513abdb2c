"""Compressed bodies, as recorders find them."""

from __future__ import annotations

import gzip
import zlib

import pytest

from mlflow_istio.serving.compressed import coding_of, plain

BODY = b'{"outputs": [{"name": "answer", "data": [1.0]}]}' * 20


def bare(body: bytes) -> bytes:
    work = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return work.compress(body) + work.flush()


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (BODY, ""),
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), "x-gzip"),
        (zlib.compress(BODY), "deflate"),
        (bare(BODY), "deflate"),
    ],
)
def test_each_is_read_as_it_was(body: bytes, coding: str) -> None:
    assert plain(body, coding, len(BODY)) == BODY


@pytest.mark.parametrize(
    ("body", "coding", "most"),
    [
        (gzip.compress(BODY), "gzip", len(BODY) - 1),
        (gzip.compress(b"0" * 10**7), "gzip", 1000),  # a bomb is not blown up
        (gzip.compress(BODY)[:-9], "gzip", len(BODY)),
        (b"no gzip", "gzip", 100),
        (b"no deflate", "deflate", 100),
        (BODY, "br", 10**6),
    ],
)
def test_what_can_not_be_read_is_no_body(body: bytes, coding: str, most: int) -> None:
    with pytest.raises(ValueError, match="body|reads"):
        plain(body, coding, most)


def test_the_coding_is_what_the_headers_say() -> None:
    assert coding_of([(b"Content-Encoding", b" GZip "), (b"content-type", b"application/json")]) == "gzip"
    assert coding_of([(b"content-encoding", b"identity")]) == ""
    assert coding_of([(b"content-encoding", b"gzip"), (b"content-encoding", b"br")]) == "gzip, br"
    assert coding_of([]) == ""
