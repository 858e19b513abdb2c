"""A server of V2 over gRPC in hardened pods with our recorder beside it, under STRICT mTLS: shadowed, compared, promoted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from mlflow_istio.calls.grpc_infer import request_message
from tests.node.endpoint import Endpoint, strict_namespace
from tests.node.test_images import COMMAND_IMAGE
from tests.support.grpc_callers import GrpcCallers

pytestmark = [pytest.mark.node, pytest.mark.node_long, pytest.mark.timeout(600)]

# Answers with the sum of each tensor, and health as Kubernetes asks for it; it runs in the image of ours that has grpcio.
SERVER = """
import signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import grpc
from mlflow_istio.calls.grpc_infer import _classes

def answer(message, context):
    request = _classes()["ModelInferRequest"].FromString(message)
    response = _classes()["ModelInferResponse"](model_name=request.model_name, id=request.id)
    for tensor in request.inputs:
        output = response.outputs.add(name="sum-" + tensor.name, datatype="FP64", shape=[1])
        output.contents.fp64_contents.append(sum(tensor.contents.fp64_contents))
    return response.SerializeToString()

def served(service, method, answers):
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answers)})

handlers = (
    served("inference.GRPCInferenceService", "ModelInfer", answer),
    served("grpc.health.v1.Health", "Check", lambda message, context: bytes([8, 1])),
)
server = grpc.server(ThreadPoolExecutor(8), handlers=handlers)
server.add_insecure_port("0.0.0.0:" + sys.argv[1])
server.start()
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
server.stop(grace=20).wait()
"""
PROFILE = {
    "name": "sums",
    "image": f"docker.io/library/{COMMAND_IMAGE}",
    "command": ["python", "-c", SERVER, "$PORT"],
    "protocol": "grpc",
    "readiness": "",
    "scoring": "/inference.GRPCInferenceService/ModelInfer",
    "body": "v2",
}
TENSOR = {"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}
RECORDING = json.dumps({"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "output,input"})


def test_a_shadow_over_grpc_is_compared_and_promoted_and_no_call_is_lost(own_server: str, tmp_path: Path) -> None:
    profile = tmp_path / "sums.yaml"
    profile.write_text(yaml.safe_dump(PROFILE), encoding="utf-8")
    options = ("-C", f"runtime={profile}", "-C", f"env={RECORDING}")
    with strict_namespace("calls") as name:
        endpoint = Endpoint(name, own_server)
        endpoint.deploy(1, *options)
        endpoint.deploy(2, *options, "-C", "strategy=shadow", "-C", "mirror=100")
        message = request_message({"inputs": [TENSOR]})
        with GrpcCallers(os.environ["GATEWAY_URL"], message, host=endpoint.host) as callers:
            assert set(callers.wait_for(200)) == {("OK", "churn/1")}
            command = ("compare", "churn", "--json", "-C", "answers=numbers", "-C", "settle=0.5", "-C", "agreement=0.9")
            found = json.loads(endpoint.run("mlflow-istio", *command))
            assert found["verdict"]["word"] == "advance", found
            assert found["figures"]["shadow/pairs"] >= 200
            assert found["dropped"] == {"churn-v1": {}, "churn-v2": {}}
            endpoint.move("action=promote")
            callers.wait_for(20)
            assert set(callers.wait_for(100)) == {("OK", "churn/2")}
        assert {status for status, _ in callers.seen} == {"OK"}
        said = endpoint.run("mlflow-istio", "predict", "--endpoint", "churn", "-I", str(_asked(tmp_path)))
        assert "3.5" in said


def _asked(folder: Path) -> Path:
    path = folder / "asked.json"
    path.write_text(json.dumps({"inputs": [TENSOR]}), encoding="utf-8")
    return path
