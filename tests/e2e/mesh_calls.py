"""What the tests of the local mesh do with one: deploy, move traffic, ask many times."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow_istio.adapters.local.envoy.admin import EnvoyAdmin
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.calls import unix_sockets
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import change_probe
from tests.contract.model_server import deployment, destination_rule, service, virtual_service, with_spec


def serve(mesh: LocalMesh, endpoint: str, weights: dict[str, int], *routes: Object, **split: Any) -> None:
    """Deploy what has a weight, as version m/NAME, and route to it."""
    for name in weights:
        mesh.apply(deployment(endpoint, name, version=f"m/{name}"))
    for name in weights:
        mesh.wait_ready(name, 120)
    mesh.apply(service(endpoint))
    mesh.apply(destination_rule(endpoint, *weights))
    shift(mesh, endpoint, "first", weights, *routes, **split)


def shift(
    mesh: LocalMesh, endpoint: str, change_id: str, weights: dict[str, int], *routes: Object, **split: Any
) -> None:
    mesh.edit("VirtualService", endpoint, with_spec(virtual_service(endpoint, change_id, weights, *routes, **split)))
    mesh.wait_routed(change_probe(endpoint, change_id), 60)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def answers(mesh: LocalMesh, endpoint: str, count: int, path: str = "/invocations") -> list[tuple[int, str]]:
    """Status and version of many requests, over a few kept connections."""
    netloc = urlsplit(mesh.address(endpoint).url).netloc

    def ask(share: int) -> list[tuple[int, str]]:
        connection = http.client.HTTPConnection(netloc, timeout=60)
        try:
            seen = []
            for _ in range(share):
                connection.request("POST", path, body=b"{}")
                answer = connection.getresponse()
                answer.read()
                seen.append((answer.status, answer.getheader("x-mlflow-model-version", "")))
            return seen
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        return [one for part in pool.map(ask, [count // 4] * 4) for one in part]


def admin(mesh: LocalMesh, path: str) -> str:
    """What Envoy's admin interface says."""
    return unix_sockets.get(admin_path(mesh), path, timeout=60)[1]


def admin_path(mesh: LocalMesh) -> Path:
    """The socket of Envoy's admin interface."""
    return Path(unquote(urlsplit(mesh.admin_urls()[0]).path))


def held_back(mesh: LocalMesh) -> frozenset[int]:
    """Ports of the replicas that Envoy sends nothing to."""
    found = EnvoyAdmin(path=admin_path(mesh)).unhealthy_ports()
    assert found is not None
    return found


def at_once(verb: str, mesh: LocalMesh, *arguments: str) -> None:
    """Run the same command in two processes at the same time."""
    home = str(mesh.status().directory.parent)
    command = [sys.executable, "-m", "tests.e2e.mesh_command", verb, home, mesh.name, "0", *arguments]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [worker.wait(240) for worker in workers] == [0, 0]
