"""Endpoints that speak gRPC, on real Envoy: released under load on one connection, and what can't be is refused by name."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import requests
from mlflow.deployments import get_deploy_client
from scipy import stats

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.calls.grpc_calls import call_once
from mlflow_istio.calls.grpc_infer import request_message
from mlflow_istio.client.errors import IstioDeploymentError
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS
from tests.support.grpc_callers import MODEL_INFER, GrpcCallers

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
V2: dict[str, Any] = {
    "runtime": "mlserver",
    "protocol": "grpc",
    "command": ["python", "-m", "tests.support.v2_server"],
    "env": {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
}
INPUT = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}]}
ARMS = {"churn-v1": "a", "churn-v2": "b"}
# A right split leaves these bounds about once in a hundred thousand.
CONFIDENCE = 1 - 1e-5


@pytest.fixture
def client(own_mesh: str) -> Any:
    return get_deploy_client(own_mesh)


def test_it_is_released_under_load_on_one_connection_without_a_lost_call(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    view = client.get_endpoint("churn")
    assert view["protocol"] == "grpc"
    with GrpcCallers(view["url"], request_message(INPUT)) as callers:
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**V2, "strategy": "canary", "weight": 30}
        )
        canary = callers.wait_for(1000)
        client.update_endpoint("churn", config={"action": "promote"})
        promoted = callers.wait_for(100)
        client.rollback("churn")
        client.delete_deployment("churn-v2")
        callers.wait_for(100)
    assert {status for status, _ in callers.seen} == {"OK"}
    assert {version for _, version in callers.seen} == {"churn/1", "churn/2"}
    low, high = stats.binom.interval(CONFIDENCE, sum(canary.values()), 0.3)
    assert low <= canary["OK", "churn/2"] <= high
    assert promoted["OK", "churn/2"] > 0


def test_arms_by_metadata_and_blue_green(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    with pytest.raises(IstioDeploymentError, match="'cookie' can't be: endpoint 'churn' speaks gRPC"):
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**V2, "strategy": "ab", "cookie": "arm"}
        )
    client.create_deployment(
        "churn-v2",
        "models:/churn/2",
        endpoint="churn",
        config={**V2, "strategy": "ab", "header": "x-arm", "values": ARMS},
    )
    assert client.predict(deployment_name="churn-v2", inputs=INPUT)["outputs"][0]["data"] == [3.5]
    url = client.get_endpoint("churn")["url"]
    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        for arm, version in (("a", "churn/1"), ("b", "churn/2")):
            call = channel.unary_unary(MODEL_INFER)
            _, made = call.with_call(request_message(INPUT), metadata=[("x-arm", arm)], timeout=30)
            assert dict(made.initial_metadata())["x-mlflow-model-version"] == version
    client.update_endpoint("churn", config={"action": "promote", "candidate": "churn-v2"})
    assert client.predict(endpoint="churn", inputs=INPUT)["outputs"][0]["name"] == "sum-x"


def test_a_stream_passes_and_ends_by_itself_when_its_server_goes(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={**V2, "strategy": "blue-green"})
    url = client.get_endpoint("churn")["url"]
    more, sent = threading.Event(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield request_message(INPUT)
        sent.set()
        assert more.wait(60)
        yield request_message(INPUT)

    with grpc.insecure_channel(urlsplit(url).netloc) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(messages(), timeout=120)
        next(stream)
        assert sent.wait(60)
        client.update_endpoint("churn", config={"action": "promote"})
        going = threading.Thread(target=client.delete_deployment, args=("churn-v1",))  # it waits for the server's end
        going.start()
        while going.is_alive() and "churn-v1" in {one["name"] for one in client.list_deployments("churn")}:
            going.join(0.1)
        more.set()
        next(stream)
        assert list(stream) == []
        assert stream.code() == grpc.StatusCode.OK
        going.join()


def test_a_candidate_that_fails_is_rolled_back_and_one_whose_callers_err_is_not(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    url = client.get_endpoint("churn")["url"]
    watched = {"steps": "50", "interval": 1, "control": "none", "warm": "none", "phase": 0, "deadline": 300}
    with (
        GrpcCallers(url, request_message({"inputs": []})) as erring,
        GrpcCallers(url, request_message(INPUT)) as callers,
    ):
        failing = {**V2, **watched, "env": {**V2["env"], "FAIL": "0.05"}}
        result = client.release("churn", "models:/churn/2", **failing)
        assert result["outcome"] == "rolled-back", result
        erring.wait_for(100)
        callers.wait_for(100)
    assert {status for status, _ in erring.seen} == {"INVALID_ARGUMENT"}
    assert {status for status, _ in callers.seen} == {"OK", "INTERNAL"}
    assert {version for status, version in callers.seen if status == "INTERNAL"} == {"churn/2"}


def test_what_can_not_be_is_refused_by_name(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    refused = {
        "endpoint 'churn' speaks grpc \\(deployment 'churn-v1'\\), and deployment 'churn-v2' would speak http": {
            "runtime": "mlserver",
            "command": ["python", "-m", "tests.support.v2_server"],
        },
        "runtime 'mlflow' speaks http, not grpc": {"protocol": "grpc"},
        "option 'readiness' has no effect with protocol=grpc": {**V2, "readiness": "/ping"},
        "option 'path' can't go with protocol=grpc": {**V2, "under": "models", "path": "/churn"},
    }
    for words, config in refused.items():
        with pytest.raises(IstioDeploymentError, match=words):
            client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config=config)
    with pytest.raises(IstioDeploymentError, match="give abort=UNAVAILABLE or another, not 503"):
        client.fault("churn", abort=503, ttl="1m")
    with pytest.raises(IstioDeploymentError, match="whose callers follow no redirect"):
        client.policy("churn", redirect="/elsewhere")
    with pytest.raises(IstioDeploymentError, match="the model refused the input: a request needs an input"):
        client.predict(endpoint="churn", inputs={"inputs": []})
    client.fault("churn", abort="resource_exhausted", percentage=100, ttl="1m")
    with pytest.raises(IstioDeploymentError, match="answered RESOURCE_EXHAUSTED"):
        client.predict(endpoint="churn", inputs=INPUT)


def test_callers_of_the_other_protocol_hear_so_in_one_line_and_judge_nobody(client: Any, tmp_path: Path) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    web = {
        "runtime": "container",
        "command": ["python", "-m", "http.server", "$PORT"],
        "readiness": "/",
        "env": V2["env"],
    }
    aliases = {"champion_alias": "", "challenger_alias": ""}
    client.create_deployment("web-v1", "models:/churn/2", endpoint="web", config={**web, **aliases})
    for number in range(1, 4):
        answer = requests.post(f"{client.get_endpoint('churn')['url']}/invocations", json=INPUT, timeout=30)
        assert (answer.status_code, len(answer.text.splitlines())) == (503, 1), number
    reply = call_once(client.get_endpoint("web")["url"], MODEL_INFER, request_message(INPUT), headers={}, timeout=30)
    assert (reply.code, len(reply.details.splitlines())) == ("UNKNOWN", 1)
    assert client.predict(endpoint="churn", inputs=INPUT)["outputs"][0]["data"] == [3.5]
    metrics = EnvoyMetrics(LocalMesh(tmp_path / "meshes").admin_urls)
    deadline = time.monotonic() + 60
    while sum(one.get(REQUESTS, 0) for one in metrics.read("churn", ["churn-v1"]).get("churn-v1", {}).values()) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (counters,) = metrics.read("churn", ["churn-v1"])["churn-v1"].values()
    assert (counters[REQUESTS], counters[ERRORS]) == (1, 0), "what came by HTTP is none of its calls"


def test_a_server_that_speaks_otherwise_than_was_said_is_taken_away_again(client: Any) -> None:
    service = {**V2, "runtime": "container", "ready_timeout": 5}
    at_port = {**service, "command": [*V2["command"], "$PORT"]}
    said_http = {name: value for name, value in at_port.items() if name != "protocol"}
    web = {**service, "command": ["python", "-m", "http.server", "$PORT"]}
    for config, words in (
        (
            {**said_http, "readiness": "/ready"},
            "it must answer GET /ready with 200 at 127.0.0.1 .*; one that speaks gRPC needs protocol=grpc",
        ),
        (
            web,
            "it must answer grpc.health.v1 with SERVING at .*; one that speaks HTTP is deployed without protocol=grpc",
        ),
    ):
        with pytest.raises(IstioDeploymentError, match=words):
            client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=config)
        assert client.list_endpoints() == []


def test_a_message_over_the_servers_limit_is_one_line_that_says_how_large_it_is(client: Any) -> None:
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=V2)
    numbers = [1.0] * 700_000
    tensor = {"name": "x", "shape": [len(numbers)], "datatype": "FP64", "data": numbers}
    with pytest.raises(IstioDeploymentError, match=r"takes no message of 5600036 bytes: .*4194304") as refused:
        client.predict(endpoint="churn", inputs={"inputs": [tensor]})
    assert "\n" not in str(refused.value)


def test_a_server_without_health_is_taken_away_again(client: Any) -> None:
    mute = {**V2, "command": [*V2["command"], "--without-health"], "ready_timeout": 5}
    with pytest.raises(IstioDeploymentError, match="grpc.health.v1"):
        client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=mute)
    assert client.list_endpoints() == []


def test_any_other_service_is_released_by_its_health_alone(client: Any) -> None:
    own = {**V2, "runtime": "container"}
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=own)
    with pytest.raises(IstioDeploymentError, match="only its own client knows its messages"):
        client.predict(endpoint="churn", inputs=json.loads(json.dumps(INPUT)))
