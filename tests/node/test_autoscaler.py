"""An autoscaler of the user's that really scales, beside a canary: our commands leave the number of replicas to it.

The controller is Kubernetes' own. The figures it reads are played, by an API server of this test's that the real one asks for
them as it asks a metrics-server.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.node.client import apply, kubectl, read
from tests.node.endpoint import Endpoint, strict_namespace
from tests.node.losses import Load
from tests.support.callers import calling
from tests.testbed.client import HOST_VARIABLE, wait_for

pytestmark = [pytest.mark.node, pytest.mark.node_long, pytest.mark.timeout(900)]

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
SERVER = "model-server"
REQUESTED = 'resources={"requests": {"cpu": "100m"}}'


class Figures(BaseHTTPRequestHandler):
    """Every pod's server takes 180% of the processor time that it has asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        about = {"apiVersion": f"{GROUP}/{VERSION}"}
        if path.endswith("/pods"):
            namespace = path.split("/")[-2]
            body = {**about, "kind": "PodMetricsList", "metadata": {}, "items": self.of_pods(namespace)}
        elif path.endswith(VERSION):
            known = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}
            body = {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": f"{GROUP}/{VERSION}"}
            body["resources"] = [known]
        else:
            body = {}
        text = json.dumps(body).encode()
        self.send_response(200 if body else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def of_pods(self, namespace: str) -> list[dict[str, object]]:
        found = json.loads(kubectl("get", "pods", "-n", namespace, "-l", "version=churn-v1", "-o", "json"))["items"]
        return [
            {
                "metadata": {"name": one["metadata"]["name"], "namespace": namespace},
                "timestamp": datetime.now(timezone.utc).isoformat(),
                "window": "1s",
                "containers": [{"name": SERVER, "usage": {"cpu": "180m", "memory": "100Mi"}}],
            }
            for one in found
        ]

    def log_message(self, *arguments: object) -> None:
        pass


def certificate(folder: Path) -> Path:
    """A key and its own certificate, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "figures")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "figures.pem"
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@pytest.fixture
def endpoint(own_server: str) -> Iterator[Endpoint]:
    with strict_namespace("scales") as name:
        yield Endpoint(name, own_server)


@pytest.fixture
def figures(endpoint: Endpoint, tmp_path: Path) -> Iterator[None]:
    """What a metrics-server gives, as far as an autoscaler asks for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server = ThreadingHTTPServer((os.environ[HOST_VARIABLE], 0), Figures)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    where = {"name": "figures", "namespace": endpoint.namespace}
    port = {"name": "https", "port": server.server_port}
    apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"ports": [{"name": "https", "port": 443}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**where, "labels": {"kubernetes.io/service-name": "figures"}},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [os.environ[HOST_VARIABLE]]}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "service": where,
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    )
    try:
        yield
    finally:
        # First: while an API can't be asked, no namespace goes.
        kubectl("delete", "apiservice", f"{VERSION}.{GROUP}")
        server.shutdown()
        thread.join()
        server.server_close()


def replicas(endpoint: Endpoint, name: str = "churn-v1") -> int:
    return int(read("deployment", name, endpoint.namespace)["spec"]["replicas"])


def test_an_autoscaler_scales_stable_beside_a_canary_and_no_command_takes_that_back(
    endpoint: Endpoint, figures: None
) -> None:
    endpoint.deploy(1, "-C", REQUESTED)
    load = Load(endpoint)
    with calling(load.ask, workers=4, seconds=800):
        endpoint.deploy(2, "-C", "strategy=canary", "-C", "weight=20")
        cpu = {"name": "cpu", "container": SERVER, "target": {"type": "Utilization", "averageUtilization": 60}}
        scaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "churn-v1", "namespace": endpoint.namespace},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "churn-v1"},
                "minReplicas": 1,
                "maxReplicas": 3,
                "metrics": [{"type": "ContainerResource", "containerResource": cpu}],
            },
        }
        apply(scaler)
        wait_for("the autoscaler to scale", lambda: replicas(endpoint) == 3, seconds=200)
        endpoint.move("weight=50")
        update = ("mlflow", "deployments", "update", "--endpoint", "churn", "--name", "churn-v1")
        endpoint.run(*update, "-C", 'env={"GREETING": "hello"}')
        assert replicas(endpoint) == 3
        endpoint.deploy(1, "-C", REQUESTED)
        assert replicas(endpoint) == 3, "create, given again"
        endpoint.move("action=promote")
        endpoint.run("mlflow-istio", "rollback", "churn", "--reason", "to see it")
        load.goes_on()
        assert (replicas(endpoint), replicas(endpoint, "churn-v2")) == (3, 1)
    print(load)
    assert load.failures == []
    assert endpoint.ask(20) == {"churn-v1": 20}
