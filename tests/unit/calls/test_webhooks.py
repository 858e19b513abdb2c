"""A webhook agrees with 2xx and nothing else, on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlflow_istio.calls.webhooks import ask


class Gate(HTTPServer):
    """Answers with these statuses in turn, and keeps what it was asked."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)
        self.asked: list[dict[str, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/gate"


class Handler(BaseHTTPRequestHandler):
    server: Gate

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append(json.loads(body))
        self.send_response(self.server.statuses.pop(0))
        self.end_headers()
        self.wfile.write(b"not\n now")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    with Gate(*request.param) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("gate", "words", "times"),
    [
        ((200,), "", 1),
        ((204,), "", 1),
        ((409,), "409 not now", 1),
        ((302,), "302 not now", 1),
        ((500, 200), "", 2),
        ((503, 503, 503), "503 not now", 3),
    ],
    indirect=["gate"],
)
def test_only_2xx_agrees_and_5xx_is_tried_again(gate: Gate, words: str, times: int) -> None:
    assert ask(gate.url, {"event": "start"}, 5) == words
    assert gate.asked == [{"event": "start"}] * times


def test_nobody_there_is_no_answer() -> None:
    with Gate() as closed:
        url = closed.url
    assert ask(url, {}, 1) == "no answer (ConnectionError)"
