"""A small model server that speaks the V2 protocol over gRPC, modelled on MLServer 1.7.1 (its ModelInfer and ServerReady), with the
health service of grpcio-health-checking, the real one. It runs on the local mesh and in the testbed's pods.

It answers with the sum of each input tensor, and with INVALID_ARGUMENT where there is none. ``FAIL`` in its environment is the
share of calls that end with INTERNAL, counted evenly; ``ModelStreamInfer`` answers each message of a stream as it comes. A
request's ``id`` that begins with ``sleep=`` says how many seconds the answer takes.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mlflow_istio.calls.grpc_infer import _classes

FAIL = float(os.environ.get("FAIL", "0"))
_lock = threading.Lock()
_calls = 0
_due = 0.0


def failing() -> bool:
    """Whether this call is one of those that fail."""
    global _calls, _due
    with _lock:
        _calls += 1
        _due += FAIL
        if _due >= 1:
            _due -= 1
            return True
    return False


def answer(message, context):
    request = _classes()["ModelInferRequest"].FromString(message)
    if request.id.startswith("sleep="):
        time.sleep(float(request.id.partition("=")[2]))
    if not request.inputs:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a request needs an input")
    if failing():
        context.abort(grpc.StatusCode.INTERNAL, "as it was told")
    response = _classes()["ModelInferResponse"](model_name=request.model_name, id=request.id)
    for tensor in request.inputs:
        output = response.outputs.add(name=f"sum-{tensor.name}", datatype="FP64", shape=[1])
        output.contents.fp64_contents.append(sum(tensor.contents.fp64_contents))
    return response.SerializeToString()


def answer_each(messages, context):
    for message in messages:
        yield answer(message, context)


def main() -> None:
    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(answer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(answer_each),
    }
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server = grpc.server(ThreadPoolExecutor(32), handlers=(handler,), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    if "--without-health" not in sys.argv:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    host, port = os.environ.get("MLFLOW_ISTIO_HOST", "0.0.0.0"), os.environ["MLFLOW_ISTIO_PORT"]
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(grace=20).wait()


if __name__ == "__main__":
    main()
