"""A service of your own over gRPC, released by the status of its calls: the second version ends one call in ten with INTERNAL."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from mlflow.deployments import get_deploy_client

GREET = "/demo.Greeter/Greet"


def serve() -> None:
    """What a deployment runs: any gRPC server that answers grpc.health.v1."""
    calls = itertools.count()

    def greet(name: bytes, context: grpc.ServicerContext) -> bytes:
        if os.environ["MLFLOW_ISTIO_MODEL_VERSION"] == "churn/2" and next(calls) % 10 == 0:
            context.abort(grpc.StatusCode.INTERNAL, "out of greetings")
        return b"Hello, " + name

    def check(_: bytes, __: grpc.ServicerContext) -> bytes:
        return b"\x08\x01"  # SERVING; grpcio-health-checking has the whole of it

    services = {"demo.Greeter": {"Greet": greet}, "grpc.health.v1.Health": {"Check": check}}
    handlers = [
        grpc.method_handlers_generic_handler(
            service, {method: grpc.unary_unary_rpc_method_handler(answer) for method, answer in methods.items()}
        )
        for service, methods in services.items()
    ]
    server = grpc.server(ThreadPoolExecutor(16), handlers=handlers, options=[("grpc.so_reuseport", 0)])
    server.add_insecure_port(f"127.0.0.1:{os.environ['MLFLOW_ISTIO_PORT']}")
    server.start()
    server.wait_for_termination()


def release() -> None:
    """A canary, while callers call on one connection."""
    greeter = {
        "runtime": "container",
        "protocol": "grpc",
        "command": ["python", str(Path(__file__).resolve()), "serve"],
    }
    client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
    client.create_deployment("greeter-v1", "models:/churn/1", endpoint="greeter", config=greeter)
    seen: Counter[str] = Counter()
    over = threading.Event()

    with grpc.insecure_channel(urlsplit(client.get_endpoint("greeter")["url"]).netloc) as channel:

        def users() -> None:
            call = channel.unary_unary(GREET)
            while not over.wait(0.002):
                try:
                    call(b"you", timeout=10)
                    seen["OK"] += 1
                except grpc.RpcError as error:
                    seen[error.code().name] += 1

        callers = [threading.Thread(target=users) for _ in range(2)]
        for caller in callers:
            caller.start()
        released = client.release(
            "greeter",
            "models:/churn/2",
            **greeter,
            name="greeter-v2",
            steps="50",
            interval=1,
            phase=0,
            control="none",
            deadline=180,
        )
        over.set()
        for caller in callers:
            caller.join()
    print(f"{released['outcome']}: {released['verdict']['reason']}")
    print(f"calls by status: {dict(seen)}")
    client.delete_endpoint("greeter")
    assert released["outcome"] == "rolled-back", released
    assert seen.keys() <= {"OK", "INTERNAL"}, seen


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else release()
