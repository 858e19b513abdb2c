"""The local mesh against doing it by hand, in the same run on the same Envoy.

``python benchmarks/mesh.py [--flips N] [--rounds N] [--requests N]``

1. All the weight from one deployment to the other through ``LocalMesh.edit``, until a request is answered by the other
   one, beside rewriting Envoy's route file (temporary file, rename) until a request is. Both take turns; another process
   sends one request after the other, each over a connection of its own. The deployments answer at once.
2. Requests per second through the mesh to one model server (MLflow's scoring app with a scikit-learn model), beside
   straight to the same server. Both take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.matching.probe import change_probe

MODEL, QUICK = "model", "quick"
EDIT, BY_HAND = "LocalMesh.edit", "route file by hand"
CONNECTIONS = 4
SETTLE_SECONDS = 0.02
OBSERVER_PAUSE_SECONDS = 0.0005
WARM_UP_REQUESTS = 200
QUICK_SERVER = """
import asyncio, os

ANSWER = b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(os.environ["NAME"]) + os.environ["NAME"].encode()


async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()


async def main():
    address = os.environ["MLFLOW_ISTIO_HOST"], int(os.environ["MLFLOW_ISTIO_PORT"])
    async with await asyncio.start_server(serve, *address) as server:
        await server.serve_forever()


asyncio.run(main())
"""


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200, help="changes of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each load")
    parser.add_argument("--requests", type=int, default=2000, help="requests per run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_model(model)
        body = (model / "serving_input_example.json").read_bytes()
        mesh = LocalMesh(Path(folder), "bench")
        try:
            deploy(mesh, model)
            report_changes(mesh, options.flips)
            report_throughput(mesh, body, options.rounds, options.requests)
        finally:
            mesh.down(purge=True)


def report_changes(mesh: LocalMesh, flips: int) -> None:
    """Move all the weight both ways in turns and print the ratio of the medians."""
    effective: dict[str, list[float]] = {EDIT: [], BY_HAND: []}
    context = multiprocessing.get_context("spawn")
    answers, child = context.Pipe()
    observer = context.Process(target=observe, args=(mesh.status().endpoints[QUICK], child))
    observer.start()
    answers.recv()
    # Each way moves the weight there in one half of the run and back in the other.
    for kinds in ((EDIT, BY_HAND), (BY_HAND, EDIT)):
        for _ in range(flips // 2):
            for kind, receiver in zip(kinds, ("quick-b", "quick-a"), strict=True):
                change = partial(edit, mesh, receiver) if kind == EDIT else by_hand(mesh, receiver)
                begin = time.monotonic()
                change()
                seen, answer = answers.recv()
                if answer != receiver:
                    raise RuntimeError(f"'{answer}' answered when '{receiver}' had all the weight")
                effective[kind].append(seen - begin)
                time.sleep(SETTLE_SECONDS)
                while answers.poll():
                    # One of Envoy's threads was later than the first.
                    answers.recv()
    answers.send(None)
    observer.join()
    print(f"{'weight moved, until a request meets it':40}{'median':>10}{'p95':>10}{'max':>10}")
    for kind, seconds in effective.items():
        figures = (statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1], max(seconds))
        print(f"  {kind:38}" + "".join(f"{figure * 1e3:8.2f}ms" for figure in figures))
    ratio = statistics.median(effective[EDIT]) / statistics.median(effective[BY_HAND])
    print(f"change of weight: {ratio:.2f} of rewriting the route file by hand\n")


def observe(port: int, pipe: Any) -> None:
    """Send requests until told to stop, and tell when another server answers than before, and which."""
    last = None
    while not pipe.poll():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/invocations")
        answer = connection.getresponse().read().decode()
        if answer != last:
            pipe.send((time.monotonic(), answer))
            last = answer
        connection.close()
        # Leaves the processors to those who are measured.
        time.sleep(OBSERVER_PAUSE_SECONDS)


def report_throughput(mesh: LocalMesh, body: bytes, rounds: int, requests: int) -> None:
    """Load the server straight and through the mesh in turns and print the ratio of the medians."""
    (replica,) = [one for one in mesh.status().replicas if one.deployment == "model"]
    ports = {"straight": replica.port, "through the mesh": mesh.status().endpoints[MODEL]}
    rates: dict[str, list[float]] = {label: [] for label in ports}
    for port in ports.values():
        requests_per_second(port, body, WARM_UP_REQUESTS)
    for number in range(rounds):
        order = list(ports.items())
        for label, port in order if number % 2 else reversed(order):
            rates[label].append(requests_per_second(port, body, requests))
    for label, seen in rates.items():
        print(f"{label:24}{statistics.median(seen):8.0f} requests/s  ({', '.join(f'{one:.0f}' for one in seen)})")
    ratio = statistics.median(rates["through the mesh"]) / statistics.median(rates["straight"])
    print(f"throughput: {ratio:.2f} of going straight to the server")


def edit(mesh: LocalMesh, receiver: str) -> None:
    """Move all the weight to a deployment under a new change id, as our verbs do it."""
    weights = {name: 100 * (name == receiver) for name in ("quick-a", "quick-b")}
    wanted = virtual_service(QUICK, f"change-{time.monotonic_ns()}", weights)

    def change(obj: Object | None) -> Object:
        return wanted if obj is None else {**obj, "spec": wanted["spec"]}

    mesh.edit("VirtualService", QUICK, change)


def by_hand(mesh: LocalMesh, receiver: str) -> Callable[[], None]:
    """A function that puts ready-made routes in place, as a script would."""
    path = mesh.status().directory / "envoy" / "routes" / QUICK / "routes.json"
    document = json.loads(path.read_text())
    routes = document["resources"][0]["virtual_hosts"][0]["routes"]
    routes[0]["direct_response"]["body"]["inline_string"] = receiver
    routes[-1]["route"]["weighted_clusters"]["clusters"] = [{"name": f"outbound|80|{receiver}|{QUICK}", "weight": 100}]
    content = json.dumps({**document, "version_info": f"by-hand-{time.monotonic_ns()}"}).encode()
    temporary = path.parents[3] / "by-hand.json"

    def write() -> None:
        temporary.write_bytes(content)
        os.replace(temporary, path)

    return write


def requests_per_second(port: int, body: bytes, requests: int) -> float:
    """Closed-loop load over kept connections."""
    request = (
        b"POST /invocations HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )

    async def work(share: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(share):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"port {port} answered {head[:200]!r}")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()
        await writer.wait_closed()

    async def all_work() -> None:
        await asyncio.gather(*(work(requests // CONNECTIONS) for _ in range(CONNECTIONS)))

    begin = time.perf_counter()
    asyncio.run(all_work())
    return requests // CONNECTIONS * CONNECTIONS / (time.perf_counter() - begin)


def deploy(mesh: LocalMesh, model: Path) -> None:
    """One endpoint with a real model server, and one with two servers that answer at once."""
    variables = {
        "MLFLOW_ISTIO_MODEL_URI": str(model),
        "MLFLOW_ISTIO_MODEL_VERSION": "bench/1",
        "MLFLOW_ISTIO_DEPLOYMENT": "model",
    }
    mesh.apply(deployment(MODEL, "model", ["python", "-m", "mlflow_istio.serving"], variables))
    for name in ("quick-a", "quick-b"):
        mesh.apply(deployment(QUICK, name, ["python", "-c", QUICK_SERVER], {"NAME": name}))
    for endpoint, *names in ((MODEL, "model"), (QUICK, "quick-a", "quick-b")):
        for name in names:
            mesh.wait_ready(name, 120)
        mesh.apply(kept("Service", endpoint, {"selector": {"app": endpoint}, "ports": [{"name": "http", "port": 80}]}))
        subsets = [{"name": name, "labels": {"version": name}} for name in names]
        mesh.apply(kept("DestinationRule", endpoint, {"host": endpoint, "subsets": subsets}))
        mesh.apply(virtual_service(endpoint, "first", {name: 100 * (name == names[0]) for name in names}))
        mesh.wait_routed(change_probe(endpoint, "first"), 30)


def deployment(endpoint: str, name: str, command: list[str], variables: dict[str, str]) -> Object:
    """A Deployment of one replica."""
    labels = {"app": endpoint, "version": name}
    container = {
        "name": "model-server",
        "command": command,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "readinessProbe": {"httpGet": {"path": "/ping", "port": 8080}, "periodSeconds": 2},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return kept("Deployment", name, {"selector": {"matchLabels": labels}, "template": template})


def virtual_service(endpoint: str, change_id: str, weights: dict[str, int]) -> Object:
    """Probe, pins and split, as our verbs write them."""
    probe = {
        "name": f"mlflow-istio.{endpoint}.probe",
        "match": [{"headers": {"x-mlflow-istio-probe": {"exact": "1"}}}],
        "directResponse": {"status": 200, "body": {"string": change_id}},
    }
    pins = [
        {
            "name": f"mlflow-istio.{endpoint}.pin.{name}",
            "match": [{"headers": {"x-mlflow-deployment": {"exact": name}}}],
            "route": [{"destination": {"host": endpoint, "subset": name}}],
        }
        for name in weights
    ]
    split = [{"destination": {"host": endpoint, "subset": name}, "weight": weight} for name, weight in weights.items()]
    http = [probe, *pins, {"name": f"mlflow-istio.{endpoint}.split", "route": split}]
    return kept("VirtualService", endpoint, {"hosts": [endpoint], "http": http})


def kept(kind: str, name: str, spec: Object) -> Object:
    """An object."""
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": name}, "spec": spec}


def save_model(path: Path) -> None:
    """Save a small scikit-learn model with an input example."""
    import mlflow.sklearn
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    mlflow.sklearn.save_model(model, path, input_example=features.head(1))


if __name__ == "__main__":
    main()
