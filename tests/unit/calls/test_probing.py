"""A probe is sent as it was made up: a header that a client adds by itself could be what a route matches on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

from mlflow_istio.calls.probing import confirm
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.errors import NotRouted

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


@pytest.fixture
def late() -> Iterator[list[str]]:
    """What the proxies behind the address say, one after the other, and the change for ever after."""
    said: list[str] = []

    class Late(Proxy):
        def do_GET(self) -> None:
            said.append(words[len(said)] if len(said) < len(words) else "id7")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said[-1].encode())

    words = ["id6", "id7", "id7", "id6", "id7"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    said.append(f"http://127.0.0.1:{server.server_port}")
    yield said
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("in_a_row", "asked"), [(1, 2), (2, 3), (5, 9)])
def test_several_proxies_behind_an_address_are_asked_until_so_many_in_a_row_have_the_change(
    late: list[str], in_a_row: int, asked: int
) -> None:
    url = late.pop()
    confirm(change_probe("shop", "id7"), url=url, headers={}, timeout=60, in_a_row=in_a_row)
    assert len(late) == asked


def test_a_proof_that_takes_long_is_not_repeated(late: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_istio.calls.probing._ROW_SECONDS", 0.0)
    confirm(change_probe("shop", "id7"), url=late.pop(), headers={}, timeout=60, in_a_row=5)
    assert late == ["id6", "id7"]


class Proxying(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call as Envoy does that has a direct response of status 200: UNKNOWN, with its body as the message."""

    def service(self, details: Any) -> Any:
        asked = {name: value for name, value in details.invocation_metadata if name.startswith("x-")}
        SEEN.append({":path": details.method, **asked})
        return grpc.unary_unary_rpc_method_handler(
            lambda _message, context: context.abort(grpc.StatusCode.UNKNOWN, "id7")
        )


@pytest.fixture
def http2_alone() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=(Proxying(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(grace=None).wait()


def test_the_probe_of_an_endpoint_that_speaks_grpc_is_a_call(http2_alone: str) -> None:
    SEEN.clear()
    confirm(change_probe("shop", "id7", "grpc"), url=http2_alone, headers={"Host": "shop.example"}, timeout=30)
    assert SEEN == [{":path": "/", "x-mlflow-istio-probe": "1"}]
    with pytest.raises(NotRouted, match=r"last seen: gRPC status UNKNOWN, 'id7'"):
        confirm(change_probe("shop", "id8", "grpc"), url=http2_alone, headers={}, timeout=0.3)
    with pytest.raises(NotRouted, match="did not confirm"):
        confirm(change_probe("shop", "id7"), url=http2_alone, headers={}, timeout=0.3)


def test_without_grpcio_it_is_asked_by_http(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_istio.calls.probing.can_call", lambda: False)
    probe = replace(change_probe("shop", "id7", "grpc"), method="GET")
    confirm(probe, url=url, headers={"Host": "shop.example"}, timeout=5)
