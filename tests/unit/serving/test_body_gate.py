"""A body is bounded in size and time before anybody behind the gate sees it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from mlflow_istio.serving.body_gate import BodyGate

JSON = {"content-type": "application/json"}


class Scoring:
    """Says what it received."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.seen.append(message["body"])
        await PlainTextResponse("ok")(scope, receive, send)


@pytest.fixture
def scoring():
    return Scoring()


def post(call, scoring, body, headers=JSON, max_bytes=100):
    return call(
        BodyGate(scoring, max_bytes=max_bytes, timeout=60), "/invocations", method="POST", headers=headers, body=body
    )


def test_a_body_in_parts_reaches_the_app_as_one(call, scoring):
    assert post(call, scoring, [b'{"inputs"', b": [1]}", b""]).status == 200
    assert scoring.seen == [b'{"inputs": [1]}']


def test_a_body_that_says_its_size_is_refused_before_it_is_read(call, scoring):
    answer = post(call, scoring, [], headers={**JSON, "content-length": "101"})
    assert (answer.status, answer.header("connection"), scoring.seen) == (413, "close", [])


def test_a_chunked_body_is_read_no_further_than_the_limit(scoring):
    parts = [{"type": "http.request", "body": b"[" * 60, "more_body": True}] * 10
    sent = []

    async def receive():
        return parts.pop()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
    asyncio.run(BodyGate(scoring, max_bytes=100, timeout=60)(scope, receive, send))
    assert (sent[0]["status"], len(parts), scoring.seen) == (413, 8, [])


def test_a_large_body_is_checked_too(call, scoring):
    assert post(call, scoring, [b"[" * 200_000], max_bytes=10**6).status == 400
    assert post(call, scoring, [b'{"inputs": [' + b"1," * 50_000 + b"1]}"], max_bytes=10**6).status == 200


def test_only_invocations_pass_the_gate(call, scoring):
    gate = BodyGate(scoring, max_bytes=1, timeout=60)
    assert call(gate, "/ping", body=[b"anything"]).status == 200
    assert call(gate, "/invocations", method="PUT", body=[b"anything"]).status == 200


def test_a_body_that_does_not_come_is_given_up(call, scoring):
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
    asyncio.run(BodyGate(scoring, max_bytes=100, timeout=0.01)(scope, receive, send))
    assert (sent[0]["status"], scoring.seen) == (408, [])


def test_nobody_is_answered_who_went_away(scoring):
    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
    asyncio.run(BodyGate(scoring, max_bytes=100, timeout=60)(scope, receive, send))
    assert scoring.seen == []
