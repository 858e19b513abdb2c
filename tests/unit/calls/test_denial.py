"""Whoever is kept out by an AuthorizationPolicy hears what it needs, in one line, wherever it asks."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from mlflow_istio.adapters.records import PinnedRecords
from mlflow_istio.calls.denial import NEED
from mlflow_istio.calls.probing import confirm
from mlflow_istio.calls.scoring import score
from mlflow_istio.core.matching.probe import pin_probe
from mlflow_istio.errors import ClusterError, NotRouted
from mlflow_istio.ports.cluster import Address


class Denied(http.server.BaseHTTPRequestHandler):
    """Answers as Envoy's RBAC filter did on the real node (tests/node/test_only_the_gateway.py)."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(403)
        self.send_header("content-length", "19")
        self.send_header("content-type", "text/plain")
        self.end_headers()
        self.wfile.write(b"RBAC: access denied")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[Address]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denied)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Address(url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_proof_of_a_pinned_route_says_what_it_needs(address: Address) -> None:
    with pytest.raises(NotRouted) as caught:
        confirm(pin_probe("churn", "churn-v2", "churn/2"), url=address.url, headers={}, timeout=0.2)
    assert "status 403" in caught.value.message
    assert NEED in caught.value.message
    assert "\n" not in caught.value.message


def test_a_prediction_says_what_it_needs(address: Address) -> None:
    with pytest.raises(ClusterError) as caught:
        score(address, {"inputs": [[1.0]]}, headers={}, timeout=5)
    assert caught.value.message == f"{address.url}/invocations answered 403: RBAC: access denied; {NEED}"


def test_a_reader_of_records_says_what_it_needs(address: Address) -> None:
    with pytest.raises(ClusterError) as caught:
        PinnedRecords(lambda _endpoint: address).read("churn", "churn-v2", 1)
    assert caught.value.message == f"the records of deployment 'churn-v2' can't be read at {address.url}: {NEED}"
