"""Events of streams, counted wherever their bytes are parted. Streams that pass are in test_recording_proxy.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.serving.passing_streams import Events, is_stream

# As OpenAI's API reference shows it, with a comment as servers send to keep a connection open, and usage at the end.
OPENAI = (
    b": ping\n\n"
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "error: {\\"error\\": 1}"}}]}\n\n'
    b"event: thread.message\r\nid: 7\r\ndata: two lines\r\ndata: are one event\r\n\r\n"
    b": ping\n\n"
    b"data:[DONE]\n\n"
)
LINES = b'{"response": "a"}\n\n{"response": "b"}\n{"response": "c", "error": null}'


def fed(data: bytes, cuts: list[int], *, by_line: bool) -> Events:
    events = Events(by_line=by_line)
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        events.feed(data[start:end])
    events.end()
    return events


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_events_are_counted_wherever_they_are_parted(cuts: list[int]) -> None:
    events = fed(OPENAI, cuts, by_line=False)
    assert (events.count, events.failed) == (3, False)
    lines = fed(LINES, cuts, by_line=True)
    assert (lines.count, lines.failed) == (3, False)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8), st.booleans())
def test_any_bytes_are_counted_the_same_whole_and_in_parts(data: bytes, cuts: list[int], by_line: bool) -> None:
    whole, parts = fed(data, [], by_line=by_line), fed(data, cuts, by_line=by_line)
    assert (whole.count, whole.failed) == (parts.count, parts.failed)


@pytest.mark.parametrize(
    ("said", "by_line"),
    [
        (b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n', False),  # vLLM
        (b'error: {"code": 500, "message": "context"}\n\n', False),  # llama.cpp, in its older versions
        (b'event: error\ndata: {"type": "overloaded"}\n\n', False),  # Anthropic
        (b'{"response": "a"}\n{"error": "model runner stopped"}\n', True),  # Ollama
    ],
)
def test_a_server_that_says_that_it_failed_is_heard(said: bytes, by_line: bool) -> None:
    assert fed(said, [7], by_line=by_line).failed


def test_a_model_that_talks_about_errors_has_not_failed() -> None:
    said = b'data: {"choices": [{"delta": {"content": "x"}}], "error": {"a": 1}}\n\ndata: {"error": null}\n\n'
    assert not fed(said, [], by_line=False).failed
    assert not fed(b"data: event: error\n\n", [], by_line=False).failed


@pytest.mark.parametrize(
    ("status", "kind", "is_one"),
    [
        (200, b"text/event-stream", True),
        (200, b"Text/Event-Stream; charset=utf-8", True),
        (200, b"application/x-ndjson", True),
        (500, b"text/event-stream", False),
        (200, b"application/json", False),
        (200, b"\xff", False),
    ],
)
def test_a_stream_is_known_by_its_type(status: int, kind: bytes, is_one: bool) -> None:
    assert is_stream(status, [(b"Content-Type", kind)]) is is_one
    assert not is_stream(status, [])
