"""Calls over gRPC in Istio's series, in a real Prometheus: whose fault each end was, and what a release makes of it."""

from __future__ import annotations

import html
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from mlflow_istio.adapters.prometheus import PrometheusApi, PrometheusMetrics
from mlflow_istio.calls.grpc_infer import request_message
from mlflow_istio.client.plugin import IstioDeploymentClient
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS
from tests.contract.metrics_contract import Watch, counted
from tests.control_plane.foreign_servers import V2
from tests.control_plane.istio_counting import istios_series
from tests.control_plane.namespaces import fresh_namespace
from tests.support.grpc_callers import MODEL_INFER, GrpcCallers
from tests.support.mlflow_addresses import mlflow_at
from tests.support.mlflow_server import tracking_server
from tests.support.prometheus_server import PrometheusServer
from tests.support.registered_models import register
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

TENSOR = {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}
GOOD = request_message({"inputs": [TENSOR]})
BAD = request_message({"inputs": []})
SLOW = request_message({"inputs": [TENSOR], "id": "sleep=5"})
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
SERVER: dict[str, Any] = {
    "runtime": "mlserver",
    "protocol": "grpc",
    "image": "theirs",
    "command": list(V2.command),
    "env": dict(V2.env),
    "ready_timeout": 120,
}
WATCHED = {"steps": "50", "interval": 1, "control": "none", "warm": "none", "phase": 0, "deadline": 300}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    with istios_series(tmp_path_factory.mktemp("istio") / "prometheus") as server:
        yield server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, _fresh_database: Path) -> Iterator[IstioDeploymentClient]:
    """A namespace in which version 1 of model m is deployed, and 2 and 3 are registered."""
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(_fresh_database, folder / "mlflow.db")
    with fresh_namespace() as namespace, tracking_server(folder, os.environ["TESTBED_HOST"]) as uri, mlflow_at(uri):
        for version in (1, 2, 3):
            register(uri, "m", float(version), None)
        client = IstioDeploymentClient(f"istio:/{namespace}")
        client.create_deployment("m-v1", "models:/m/1", endpoint="m", config=SERVER)
        yield client
        client.delete_endpoint("m", {"force": True})


class Calls:
    """What ``Watch`` reads: the one deployment that has all traffic."""

    endpoint = "m"
    deployments = ("m-v1",)

    def __init__(self, client: IstioDeploymentClient, prometheus: PrometheusServer, errors: str) -> None:
        namespace = client.target_uri.rpartition("/")[2]
        self.metrics = PrometheusMetrics(
            PrometheusApi(prometheus.url), namespace=namespace, errors=errors, protocol_of=lambda _: "grpc"
        )


def callers(client: IstioDeploymentClient, *messages: bytes) -> GrpcCallers:
    view = client.get_endpoint("m")
    return GrpcCallers(view["url"], *messages, host=view["headers"]["Host"])


def test_each_end_of_a_call_counts_for_whom_the_table_says(
    client: IstioDeploymentClient, prometheus: PrometheusServer
) -> None:
    view = client.get_endpoint("m")
    options = [("grpc.default_authority", view["headers"]["Host"])]
    with grpc.insecure_channel(f"{urlsplit(view['url']).hostname}:80", options=options) as channel:
        infer, stream = channel.unary_unary(MODEL_INFER), channel.stream_stream(STREAM)
        assert infer(GOOD, timeout=30)
        watches = {errors: Watch(Calls(client, prometheus, errors)) for errors in ("5", "45")}  # type: ignore[arg-type]
        for watch in watches.values():
            watch.begin(REQUESTS)
            prometheus.settle()
            watch.look()
        for _ in range(3):
            infer(GOOD, timeout=30)
        for method, message in ((MODEL_INFER, BAD), ("/no.Such/Method", GOOD)):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(message, timeout=30)
        leaving = infer.future(SLOW, timeout=30)
        wait_for("its server to have the call", lambda: not leaving.done())
        leaving.cancel()
        more = threading.Event()

        def messages() -> Iterator[bytes]:
            yield GOOD
            more.wait(60)

        going = stream(messages(), timeout=60)
        next(going)
        going.cancel()  # as many clients end a stream that they have had enough of
        more.set()
        for watch in watches.values():
            watch.until(lambda seen: counted(seen, "m-v1", REQUESTS) >= 7)
    found = {
        errors: tuple(counted(watch.seen, "m-v1", series) for series in (REQUESTS, ERRORS))
        for errors, watch in watches.items()
    }
    # UNIMPLEMENTED is the version's; INVALID_ARGUMENT and the two that left are the callers'.
    assert found == {"5": (7, 1), "45": (7, 4)}


def test_one_that_fails_is_rolled_back_and_one_whose_callers_err_or_leave_is_not(
    client: IstioDeploymentClient, prometheus: PrometheusServer
) -> None:
    source = {"metrics": "prometheus", "prometheus_url": prometheus.url}
    failing = {**SERVER, **WATCHED, **source, "env": {**V2.env, "FAIL": "0.05"}}
    with callers(client, BAD) as erring, callers(client, GOOD) as others:
        result = client.release("m", "models:/m/2", **failing)
        assert result["outcome"] == "rolled-back", result
        assert client.release("m", "models:/m/3", **SERVER, **WATCHED, **source)["outcome"] == "promoted"
        others.wait_for(100)
    assert {status for status, _ in erring.seen} == {"INVALID_ARGUMENT"}
    assert {seen for seen in others.seen if seen[0] != "OK"} == {("INTERNAL", "m/2")}
    page = html.unescape(client.report("m", release=result["release_id"]))
    assert "Error rate" in page
    assert result["verdict"]["reason"] in page
