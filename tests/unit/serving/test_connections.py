"""A caller who takes his time is let go: over real sockets, with short limits."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, suppress

import pytest
import uvicorn
from starlette.responses import Response

from mlflow_istio.serving.connections import patient_protocol
from mlflow_istio.serving.listener import bind, listen

TIMEOUT = 0.3
ANSWER_BYTES = 64 * 1024 * 1024  # more than the kernel's buffers hold


async def app(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(4 * TIMEOUT)
    await Response(b"x" * (ANSWER_BYTES if scope["path"] == "/large" else 2))(scope, receive, send)


@pytest.fixture(scope="module")
def address():
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(
            app, http=patient_protocol(TIMEOUT), ws="none", lifespan="off", log_level="error", loop="asyncio"
        )
    )
    listen(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def connected(address):
    connection = socket.create_connection(address, timeout=30)
    return closing(connection)


def test_a_connection_that_says_nothing_is_closed(address):
    with connected(address) as connection:
        assert connection.recv(1) == b""


def test_headers_that_trickle_in_are_given_up(address):
    with connected(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):  # a new header again and again buys no time
                connection.sendall(b"x-more: 1\r\n")
                time.sleep(TIMEOUT / 10)
            pytest.fail("the connection is still there")


def test_a_second_request_has_its_own_time(address):
    with connected(address) as connection:
        for _ in range(2):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nxx"):
                answer += connection.recv(4096)
            time.sleep(2 * TIMEOUT)  # resting between two requests is allowed
        connection.sendall(b"GET / HT")
        assert connection.recv(1) == b""


def test_an_answer_may_take_its_time(address):
    with connected(address) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_headers_without_end_are_refused(address):
    with connected(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 70_000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_an_answer_that_nobody_takes_is_dropped(address):
    with connected(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(20 * TIMEOUT)  # a busy machine lets the server look at its connections late
        got = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                got += len(part)
        assert got < ANSWER_BYTES


def test_an_answer_that_is_taken_slowly_arrives(address):
    with connected(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        got, started = 0, time.monotonic()
        while part := connection.recv(1 << 20):
            got += len(part)
            if time.monotonic() < started + 4 * TIMEOUT:
                time.sleep(TIMEOUT / 10)
        assert got > ANSWER_BYTES
