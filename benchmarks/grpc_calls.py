"""Calls over gRPC through the local mesh against straight to the same server, in the same run.

``python -m benchmarks.grpc_calls [--rounds N] [--calls N]``. The server answers ModelInfer of the V2 protocol at once, which shows
what the mesh costs, or after 10 ms, as a small model does. Latency: one call after the other on one connection, median.
Throughput: calls per second of four callers with a connection each, best of all rounds. Both ways take turns.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc

from benchmarks.mesh import CONNECTIONS, deployment
from benchmarks.two_ways import both_ways, in_turns, print_ratios, rate_of, route
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.calls.grpc_infer import request_message

NAME = "calls"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TAKES = "x-takes"
"""Metadata that says how many seconds an answer takes."""
TAKEN = "0.01"
WARM_UP = 50


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way")
    parser.add_argument("--calls", type=int, default=1000, help="calls per run")
    parser.add_argument("--serve", action="store_true", help="be the server")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    with both_ways(NAME, lambda mesh, _folder: deploy(mesh)) as ports:
        report(ports, options)


def report(ports: dict[str, int], options: argparse.Namespace) -> None:
    """Ask both ways in turns and print the ratios."""
    at_once: dict[str, list[float]] = {way: [] for way in ports}
    late: dict[str, list[float]] = {way: [] for way in ports}
    rates: dict[str, list[float]] = {way: [] for way in ports}
    for port in ports.values():
        called(port, WARM_UP)
    for way in in_turns(options.rounds):
        port = ports[way]
        at_once[way] += called(port, options.calls)
        late[way] += called(port, options.calls // 10, TAKEN)
        rates[way].append(rate_of(partial(count_of_calls, port), options.calls))
    print_ratios(
        "calls over gRPC",
        {"answered at once, ms": at_once, "answered in 10 ms, ms": late},
        {"calls per second, best": rates},
    )


def count_of_calls(port: int, calls: int) -> int:
    """Call so often, and say so."""
    return len(called(port, calls))


def called(port: int, calls: int, takes: str = "0") -> list[float]:
    """Call one after the other on one connection: seconds of each."""
    tensor = {"name": "x", "shape": [1, 10], "datatype": "FP64", "data": [float(number) for number in range(10)]}
    message = request_message({"inputs": [tensor]})
    seconds = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(METHOD)
        for _ in range(calls):
            began = time.perf_counter()
            if call(message, metadata=[(TAKES, takes)], timeout=30) != message:
                raise SystemExit("an answer is not what was asked")
            seconds.append(time.perf_counter() - began)
    return seconds


def serve() -> None:
    """Answer each call with what it asked, until told to stop."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(float(dict(context.invocation_metadata()).get(TAKES, 0)))
        return message

    handlers = {METHOD.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(answer)}
    service = grpc.method_handlers_generic_handler(METHOD.split("/")[1], handlers)
    server = grpc.server(ThreadPoolExecutor(CONNECTIONS * 2), handlers=(service,))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['MLFLOW_ISTIO_PORT']}")
    server.start()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(grace=5).wait()


def deploy(mesh: LocalMesh) -> None:
    """Bring up one server behind an endpoint that speaks gRPC."""
    server = deployment(
        NAME,
        NAME,
        ["python", "-m", "benchmarks.grpc_calls", "--serve"],
        {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": os.environ["PATH"]},
    )
    (container,) = server["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] = {"grpc": {"port": 8080}, "periodSeconds": 2}
    mesh.apply(server)
    route(mesh, NAME, {"name": "grpc", "appProtocol": "grpc"})


if __name__ == "__main__":
    main()
