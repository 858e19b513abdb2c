"""The target ``istio`` beside the API server's raw client, in the same run on the same real control plane.

``python -m tests.testbed run -- python -m benchmarks.cluster [--changes N] [--endpoints N] [--rounds N]``

1. A weight changed by ``client.update_endpoint``, until the gateway answers with the change, beside one raw merge patch of
   the same weights. Both take turns; another process asks the gateway, each time over a connection of its own.
2. The calls to the API server that one change makes.
3. Listing endpoints, beside the lists of the same objects by the Kubernetes client, parsed by it and as plain JSON.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_istio import IstioDeploymentClient
from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import PROBE_HEADER

ENDPOINT = "m"
GROUP = ("networking.istio.io", "v1")
OURS, RAW = "update_endpoint", "raw patch"
SETTLE_SECONDS = 0.3
OBSERVER_PAUSE_SECONDS = 0.001


def main() -> None:
    """Deploy two versions, measure, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=40, help="changes of each kind")
    parser.add_argument("--endpoints", type=int, default=1000, help="endpoints to list")
    parser.add_argument("--rounds", type=int, default=7, help="lists of each kind")
    options = parser.parse_args()
    from tests.control_plane.namespaces import admin
    from tests.control_plane.office import open_office
    from tests.support.registered_models import register

    with open_office("admin") as office, tempfile.TemporaryDirectory() as folder, admin() as api:
        os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
        for version in (1, 2):
            register(uri, ENDPOINT, float(version), Path(folder) / "artifacts")
            office.deploy(version)
        client = IstioDeploymentClient(f"istio:/{office.namespace}")
        client.update_endpoint(ENDPOINT, {"strategy": "canary", "candidate": "m-v2", "weight": 10})
        report_changes(client, api, office, options.changes, under_load=False)
        report_changes(client, api, office, options.changes // 2, under_load=True)
        report_lists(client, api, office.namespace, options.endpoints, options.rounds)


def report_changes(client: IstioDeploymentClient, api: Any, office: Any, changes: int, *, under_load: bool) -> None:
    """Change the weight in turns and print the ratio of the medians and the number of calls."""
    context = multiprocessing.get_context("spawn")
    answers, child = context.Pipe()
    url = client.get_endpoint(ENDPOINT)
    observer = context.Process(
        target=observe, args=(url["url"], office.keyed({**url["headers"], PROBE_HEADER: "1"}), child)
    )
    observer.start()
    answers.recv()
    seconds: dict[str, list[float]] = {OURS: [], RAW: []}
    counted: list[tuple[int, int]] = []
    load: AbstractContextManager[object] = senders(url["url"], dict(url["headers"])) if under_load else nullcontext()
    with load:
        weights = (20, 50)
        for number in range(2 * changes):
            kind = (OURS, RAW, RAW, OURS)[number % 4]  # each kind goes up as often as down
            change = ours(client, counted) if kind == OURS else raw(api, office)
            prepared = change(weights[number % 2])
            begin = time.monotonic()
            prepared()
            seen, _ = answers.recv()
            seconds[kind].append(seen - begin)
            time.sleep(SETTLE_SECONDS)
            while answers.poll():
                answers.recv()
    answers.send(None)
    observer.join()
    print(f"{'weight changed' + (' under load' if under_load else ''):34}{'median':>10}{'quartiles':>20}{'max':>10}")
    for kind, its in seconds.items():
        low, middle, high = statistics.quantiles(its, n=4)
        print(f"  {kind:32}{middle * 1e3:8.0f}ms{low * 1e3:12.0f} to {high * 1e3:3.0f}ms{max(its) * 1e3:8.0f}ms")
    ratio = statistics.median(seconds[OURS]) / statistics.median(seconds[RAW])
    print(f"  ratio {ratio:.2f} (wanted: at most 1.10), over {changes} changes of each kind")
    if not under_load:
        for stored, total in sorted(set(counted)):
            print(
                f"  calls to the API server: {stored} until it is stored, {total} in all ({counted.count((stored, total))} times)"
            )


def ours(client: IstioDeploymentClient, counted: list[tuple[int, int]]) -> Callable[[int], Callable[[], object]]:
    """A weight changed by our client; the calls it makes are counted."""

    def prepare(weight: int) -> Callable[[], object]:
        def change() -> None:
            calls: list[Call] = []
            send = Caller.send

            def counting(self: Caller, call: Call) -> Any:
                calls.append(call)
                return send(self, call)

            Caller.send = counting  # type: ignore[method-assign]
            try:
                client.update_endpoint(ENDPOINT, {"weight": weight})
            finally:
                Caller.send = send  # type: ignore[method-assign]
            stored = next(index for index, call in enumerate(calls, 1) if call.verb == "update")
            counted.append((stored, len(calls)))

        return change

    return prepare


def raw(api: Any, office: Any) -> Callable[[int], Callable[[], object]]:
    """The same routes with the same weights and a new answer of the probe, by one merge patch."""
    from kubernetes import client

    custom = client.CustomObjectsApi(api)

    def prepare(weight: int) -> Callable[[], object]:
        routes: list[Object] = copy.deepcopy(office.raw("virtualservices")["spec"]["http"])
        for route in routes:
            if "directResponse" in route:
                route["directResponse"]["body"]["string"] = f"raw{time.monotonic_ns()}"
            if route["name"].endswith(".split"):
                for entry in route["route"]:
                    entry["weight"] = weight if entry["destination"]["subset"] == "m-v2" else 100 - weight
        patch = {"spec": {"http": routes}}
        return lambda: custom.patch_namespaced_custom_object(
            *GROUP, office.namespace, "virtualservices", ENDPOINT, patch, _preload_content=False
        )

    return prepare


def observe(url: str, headers: dict[str, str], pipe: Any) -> None:
    """Ask the gateway for the newest change until told to stop, and tell when it is another than before."""
    last = None
    while not pipe.poll():
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("GET", "/", headers=headers)
        body = connection.getresponse().read()
        connection.close()
        if body != last:
            pipe.send((time.monotonic(), body.decode()))
            last = body
        time.sleep(OBSERVER_PAUSE_SECONDS)


class senders:  # noqa: N801 - a context manager
    """Two callers that send one request after the other."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(url, headers)) for _ in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, url: str, headers: dict[str, str]) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        while not self._stop.is_set():
            connection.request("POST", "/invocations", headers=headers)
            connection.getresponse().read()
            time.sleep(OBSERVER_PAUSE_SECONDS)
        connection.close()


def report_lists(client: IstioDeploymentClient, api: Any, namespace: str, endpoints: int, rounds: int) -> None:
    """List endpoints in turns and print the ratios of the medians."""
    from kubernetes import client as kubernetes

    custom, apps = kubernetes.CustomObjectsApi(api), kubernetes.AppsV1Api(api)
    make_endpoints(custom, apps, namespace, endpoints)

    def typed() -> int:
        found = custom.list_namespaced_custom_object(*GROUP, namespace, "virtualservices")
        apps.list_namespaced_deployment(namespace)
        return len(found["items"])

    def plain() -> int:
        found = custom.list_namespaced_custom_object(*GROUP, namespace, "virtualservices", _preload_content=False)
        objects = json.loads(found.data)["items"]
        json.loads(apps.list_namespaced_deployment(namespace, _preload_content=False).data)
        return len(objects)

    kinds: dict[str, Callable[[], int]] = {
        "client.list_endpoints()": lambda: len(client.list_endpoints()),
        "Kubernetes client": typed,
        "its answers as plain JSON": plain,
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, ask in kinds.items():
            begin = time.monotonic()
            found = ask()
            seconds[kind].append(time.monotonic() - begin)
            if found != endpoints + 1:
                raise RuntimeError(f"{kind} found {found} endpoints instead of {endpoints + 1}")
    print(f"{f'{endpoints} endpoints listed':34}{'median':>10}{'max':>10}")
    for kind, its in seconds.items():
        print(f"  {kind:32}{statistics.median(its) * 1e3:8.0f}ms{max(its) * 1e3:8.0f}ms")
    medians = {kind: statistics.median(its) for kind, its in seconds.items()}
    mine, *others = medians
    for other in others:
        print(f"  ratio {medians[mine] / medians[other]:.2f} of: {other} (wanted: at most 1.20 of the client)")


def make_endpoints(custom: Any, apps: Any, namespace: str, count: int) -> None:
    """Copies of the endpoint and of its stable deployment, with no replicas and no host of the gateway's."""
    found = custom.get_namespaced_custom_object(*GROUP, namespace, "virtualservices", ENDPOINT)
    deployment = json.loads(apps.read_namespaced_deployment("m-v1", namespace, _preload_content=False).data)

    def make(number: int) -> None:
        name = f"e{number}"
        text = json.dumps({key: found[key] for key in ("apiVersion", "kind", "spec")})
        annotations = {
            key.removesuffix(f".{ENDPOINT}") + f".{name}": value.replace('"m"', f'"{name}"').replace(".m.", f".{name}.")
            for key, value in found["metadata"]["annotations"].items()
        }
        obj = json.loads(text.replace('"m"', f'"{name}"').replace("mlflow-istio.m.", f"mlflow-istio.{name}."))
        labels = {**found["metadata"]["labels"], "mlflow-istio.org/endpoint": name}
        obj["metadata"] = {"name": name, "labels": labels, "annotations": annotations}
        custom.create_namespaced_custom_object(*GROUP, namespace, "virtualservices", obj, _preload_content=False)
        its = deployment["metadata"]
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": f"{name}-v1",
                "labels": {**its["labels"], "mlflow-istio.org/endpoint": name},
                "annotations": its["annotations"],
            },
            "spec": {**deployment["spec"], "replicas": 0},
        }
        apps.create_namespaced_deployment(namespace, body, _preload_content=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(count)))


if __name__ == "__main__":
    main()
