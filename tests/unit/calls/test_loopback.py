"""A proxy that the environment names is not told of calls to this machine."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.calls.scoring import score
from mlflow_istio.errors import ClusterError
from mlflow_istio.ports.cluster import Address


class Model(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"predictions": [1]}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_prediction_on_this_machine_goes_past_the_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens: a proxy that is asked refuses
        monkeypatch.setenv(variable, f"http://127.0.0.1:{taken.getsockname()[1]}")
        server = HTTPServer(("127.0.0.1", 0), Model)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(requests.exceptions.ProxyError):
            requests.post(url, timeout=5)
        answer = score(Address(url=url), [[1.0]], headers={}, timeout=5.0)
        thread.join()
        server.server_close()
        assert answer == {"predictions": [1]}
        with pytest.raises(ClusterError, match="ProxyError"):
            score(Address(url="http://model.example"), [[1.0]], headers={}, timeout=5.0)


@pytest.mark.parametrize(
    ("url", "past"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8/x", True),
        ("http://localhost:80", True),
        ("http://churn.localhost", True),
        ("https://[::1]:8", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_are_this_machine(url: str, past: bool) -> None:
    assert bool(proxies_for(url)) is past
