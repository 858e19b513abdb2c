"""A gateway for gRPC alone: its server is said to speak GRPC, and its listener takes nothing but HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from kubernetes import client

from mlflow_istio.calls.grpc_calls import call
from mlflow_istio.calls.grpc_infer import request_message
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.context import address_of
from tests.control_plane.foreign_servers import V2, deployed
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office, open_office

pytestmark = pytest.mark.control_plane

NAMESPACE, PORT = "istio-system", 8090
ADDRESS = "10.244.0.2"
_SELECTED = {"istio": "ingressgateway"}
_TYPES = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_MANAGER = "envoy.filters.network.http_connection_manager"


def objects() -> dict[str, dict[str, Any]]:
    """The Gateway, and what makes its listener one for HTTP/2 alone."""
    listener = {"portNumber": PORT, "filterChain": {"filter": {"name": _MANAGER}}}
    codec = {"typed_config": {"@type": _TYPES, "codec_type": "HTTP2"}}
    patch = {
        "applyTo": "NETWORK_FILTER",
        "match": {"context": "GATEWAY", "listener": listener},
        "patch": {"operation": "MERGE", "value": codec},
    }
    server = {"port": {"number": PORT, "name": "grpc", "protocol": "GRPC"}, "hosts": ["*"]}
    return {
        "gateways": {"kind": "Gateway", "spec": {"selector": _SELECTED, "servers": [server]}},
        "envoyfilters": {
            "kind": "EnvoyFilter",
            "spec": {"workloadSelector": {"labels": _SELECTED}, "configPatches": [patch]},
        },
    }


@pytest.fixture
def office() -> Iterator[Office]:
    """An office whose endpoints are at that gateway, behind a Service of its own."""
    service = {"metadata": {"name": "grpc-alone"}, "spec": {}}
    service["spec"] = {"selector": _SELECTED, "externalIPs": [ADDRESS], "ports": [{"name": "grpc", "port": PORT}]}
    with admin() as api, pytest.MonkeyPatch.context() as patch:
        custom, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        for plural, obj in objects().items():
            version = "v1" if plural == "gateways" else "v1alpha3"
            body = {**obj, "apiVersion": f"networking.istio.io/{version}", "metadata": {"name": "grpc-alone"}}
            custom.create_namespaced_custom_object("networking.istio.io", version, NAMESPACE, plural, body)
        core.create_namespaced_service(NAMESPACE, service)
        patch.setenv("MLFLOW_ISTIO_GATEWAY", f"{NAMESPACE}/grpc-alone")
        try:
            with open_office() as opened:
                yield opened
        finally:
            core.delete_namespaced_service("grpc-alone", NAMESPACE)
            for plural in objects():
                version = "v1" if plural == "gateways" else "v1alpha3"
                custom.delete_namespaced_custom_object("networking.istio.io", version, NAMESPACE, plural, "grpc-alone")


def test_changes_are_proved_there(office: Office) -> None:
    deployed(office, 1, V2)
    deployed(office, 2, V2, strategy="canary", traffic_request=TrafficRequest(weight=50))
    outcome = office.promote()
    assert outcome.proxies, office.warnings
    assert not office.warnings
    address = address_of(office.cluster, ENDPOINT)
    message = request_message({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]})

    def answering() -> str:
        reply = call(address.url, address.scoring, message, headers=address.headers, timeout=30)
        return reply.metadata.get("x-mlflow-model-version", reply.code)

    assert {answering() for _ in range(20)} == {"m/2"}
    with pytest.raises(requests.RequestException):
        requests.get(address.url, headers=address.headers, timeout=10)
