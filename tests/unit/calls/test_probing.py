"""A probe is sent as it was made up: a header that a client adds by itself could be what a route matches on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from mlflow_istio.calls.probing import confirm
from mlflow_istio.core.matching.probe import change_probe

SEEN: list[dict[str, str]] = []


class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        SEEN.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"id7")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_probe_carries_its_own_headers_alone(url: str) -> None:
    SEEN.clear()
    confirm(change_probe("shop", "id7"), url=url, headers={"Host": "shop.example"}, timeout=5)
    assert SEEN == [{"host": "shop.example", "x-mlflow-istio-probe": "1", "connection": "close"}]
