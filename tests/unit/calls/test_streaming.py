"""Server-sent events as they come from servers: in any parts, with what the standard allows; and how a stream is asked for."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.calls.request_body import CSV, RequestBody, body_of
from mlflow_istio.calls.streaming import asking_for_stream, events_of
from mlflow_istio.errors import InvalidInput

OPENAI = (
    b': ping\r\n\r\nevent: message\r\ndata: {"choices": [{"delta": {"content": "\xc3\xa4"}}]}\r\n\r\n'
    b"data:no blank\n\ndata: two\ndata: lines\nid: 7\n\n\ndata: [DONE]\n\n"
)
EVENTS = ['{"choices": [{"delta": {"content": "ä"}}]}', "no blank", "two\nlines", "[DONE]"]


@given(st.lists(st.integers(0, len(OPENAI)), max_size=30))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(OPENAI)]
    assert list(events_of(OPENAI[a:b] for a, b in pairwise(edges))) == EVENTS


def test_an_event_is_there_as_soon_as_its_blank_line() -> None:
    parts = iter([b"data: one\n", b"\n", b"data: two\n\n"])
    events = events_of(parts)
    assert next(events) == "one"
    assert next(parts) == b"data: two\n\n"


@pytest.mark.parametrize(
    "payload", [{"messages": []}, {"messages": [], "stream": False}, {"inputs": 12345678901234567890}]
)
def test_a_body_asks_for_a_stream_and_is_otherwise_as_it_was(payload: dict[str, Any]) -> None:
    assert json.loads(asking_for_stream(body_of(payload)).content) == {**payload, "stream": True}


def test_numbers_stay_as_they_were_written() -> None:
    body = RequestBody(content=b'{"messages": [], "temperature": 0.10}')
    assert asking_for_stream(body).content == b'{"stream": true, "messages": [], "temperature": 0.10}'
    assert asking_for_stream(RequestBody(content=b"{}")).content == b'{"stream": true}'


@pytest.mark.parametrize("body", [RequestBody(content=b"a,b\n1,2\n", content_type=CSV), RequestBody(content=b"[1]")])
def test_what_is_no_object_can_not_ask_for_a_stream(body: RequestBody) -> None:
    with pytest.raises(InvalidInput, match="a stream is asked for in a JSON object"):
        asking_for_stream(body)
