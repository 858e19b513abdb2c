"""Counts from the local mesh's own Envoy: live traffic, and nothing but live traffic."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.adapters.local.envoy.stats import EDGES_MS
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS
from tests.contract.metrics_contract import MetricsContract, Watch, counted
from tests.contract.model_server import deployment
from tests.e2e.mesh_calls import serve, shift, until

pytestmark = pytest.mark.e2e
_changes = (f"change{number}" for number in itertools.count())


class MeshTraffic:
    """Two deployments of the small server behind an endpoint of a local mesh."""

    endpoint = "m"
    deployments = ("m-v1", "m-v2")

    def __init__(self, mesh: LocalMesh) -> None:
        self.mesh = mesh
        self.metrics = EnvoyMetrics(mesh.admin_urls, latency_edges=EDGES_MS)

    def send(self, count: int, path: str = "/invocations", headers: Mapping[str, str] | None = None) -> None:
        """Send requests through the endpoint."""
        connection = http.client.HTTPConnection(urlsplit(self.mesh.address(self.endpoint).url).netloc, timeout=60)
        try:
            for _ in range(count):
                connection.request("POST", path, body=b"{}", headers=dict(headers or {}))
                connection.getresponse().read()
        finally:
            connection.close()

    def route(self, weights: dict[str, int], **split: object) -> None:
        """Change the split."""
        shift(self.mesh, self.endpoint, next(_changes), weights, **split)

    def serve(self, deployment: str, requests: int, errors: int = 0) -> None:
        self.route({name: 100 * (name == deployment) for name in self.deployments})
        self.send(requests - errors)
        self.send(errors, "/fail")

    def settle(self) -> None:
        """Histograms lag the counters by up to a second."""

        def settled() -> bool:
            found = self.metrics.read(self.endpoint, self.deployments).values()
            counters = [counters for reading in found for counters in reading.values()]
            return bool(counters) and all(one.get(REQUESTS) == one.get("le/+Inf") for one in counters)

        until(settled)

    def restart(self) -> None:
        envoy = next(process for process in self.mesh.status().processes if process.name == "envoy")
        os.kill(envoy.pid, signal.SIGKILL)
        until(lambda: any(p.name == "envoy" and p.ready and p.pid != envoy.pid for p in self.mesh.status().processes))

    def stop(self) -> None:
        self.mesh.down()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    mesh = LocalMesh(tmp_path_factory.mktemp("counted"), "counted", pause=0.05)
    try:
        serve(mesh, "m", {"m-v1": 100, "m-v2": 0})
        yield mesh
    finally:
        mesh.down(purge=True)


@pytest.fixture
def traffic(mesh: LocalMesh) -> MeshTraffic:
    mesh.up()
    for name in MeshTraffic.deployments:
        mesh.wait_ready(name, 120)
    return MeshTraffic(mesh)


def base_line(traffic: MeshTraffic) -> Watch:
    """A watch that begins when everything so far is counted."""
    traffic.send(10)
    traffic.settle()
    watch = Watch(traffic)
    watch.look()
    return watch


class TestLocalEnvoy(MetricsContract):
    """The contract, on the real Envoy."""


def test_pinned_probing_and_mirrored_requests_are_not_counted(traffic: MeshTraffic) -> None:
    traffic.route({"m-v1": 100, "m-v2": 0})
    watch = base_line(traffic)
    traffic.send(6, headers={"x-mlflow-deployment": "m-v2"})
    traffic.send(5, headers={"x-mlflow-istio-probe": "1"})
    copies = [{"destination": {"host": "m", "subset": "m-v2"}, "percentage": {"value": 100}}]
    traffic.route({"m-v1": 100, "m-v2": 0}, mirrors=copies)
    traffic.send(4)
    # The header that makes Envoy count is worth nothing in a caller's hand.
    traffic.send(3, headers={"x-mlflow-deployment": "m-v1", "x-envoy-upstream-alt-stat-name": "split"})
    # Envoy adds up all its histograms at once: with the last request, whatever must not come would have come.
    traffic.send(1)
    seen = watch.until(lambda seen: counted(seen, "m-v1", "le/+Inf") >= 5)
    assert counted(seen, "m-v1", REQUESTS) == counted(seen, "m-v1", "le/+Inf") == 5
    assert counted(seen, "m-v2", REQUESTS) == counted(seen, "m-v2", "le/+Inf") == 0


def test_who_chose_an_arm_is_not_counted(traffic: MeshTraffic) -> None:
    arm = {
        "name": "mlflow-istio.m.arm.m-v2",
        "match": [{"headers": {"x-arm": {"exact": "b"}}}],
        "route": [{"destination": {"host": "m", "subset": "m-v2"}}],
    }
    shift(traffic.mesh, "m", next(_changes), {"m-v1": 0, "m-v2": 100}, arm)
    watch = base_line(traffic)
    traffic.send(5, headers={"x-arm": "b"})
    traffic.send(2)
    seen = watch.until(lambda seen: counted(seen, "m-v2", "le/+Inf") >= 2)
    assert {counted(seen, "m-v2", series) for series in (REQUESTS, ASSIGNMENTS, "le/+Inf")} == {2}
    vouched = EnvoyMetrics(traffic.mesh.admin_urls, chosen=True).read("m", ["m-v2"])["m-v2"]
    assert sum(counters[REQUESTS] - counters[ASSIGNMENTS] for counters in vouched.values()) == 5


def test_a_version_without_a_ready_replica_counts_as_failing(traffic: MeshTraffic) -> None:
    traffic.route({"m-v1": 100, "m-v2": 0})
    watch = base_line(traffic)
    traffic.mesh.apply(deployment("m", "m-v1", version="m/m-v1", replicas=0))
    traffic.send(3)
    seen = watch.until(lambda seen: counted(seen, "m-v1", REQUESTS) >= 3)
    traffic.mesh.apply(deployment("m", "m-v1", version="m/m-v1"))
    assert counted(seen, "m-v1", ERRORS) == 3
