"""Through the local mesh and straight to the same server, in the same run: the frame of what compares the two ways."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.mesh import CONNECTIONS, kept, virtual_service
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.matching.probe import change_probe

WAYS = ("mesh", "straight")


@contextmanager
def both_ways(name: str, deploy: Callable[[LocalMesh, Path], None]) -> Iterator[dict[str, int]]:
    """The port of each way to an endpoint of one server, which ``deploy`` brings up in a mesh and a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = LocalMesh(Path(folder), "bench")
        try:
            deploy(mesh, Path(folder))
            (server,) = mesh.figure_pages([name])[name]
            straight = int(server.rpartition(":")[2])
            yield {"mesh": mesh.status().endpoints[name], "straight": straight}
        finally:
            mesh.down(purge=True)


def route(mesh: LocalMesh, name: str, port: Mapping[str, Any]) -> None:
    """Put an endpoint before the one server of its name, once that is ready."""
    mesh.wait_ready(name, 300)
    mesh.apply(kept("Service", name, {"selector": {"app": name}, "ports": [{**port, "port": 80}]}))
    subsets = [{"name": name, "labels": {"version": name}}]
    mesh.apply(kept("DestinationRule", name, {"host": name, "subsets": subsets}))
    mesh.apply(virtual_service(name, "first", {name: 100}))
    mesh.wait_routed(change_probe(name, "first"), 30)


def in_turns(rounds: int) -> Iterator[str]:
    """Each way once a round, now this one first, now that one."""
    for number in range(rounds):
        yield from WAYS if number % 2 else reversed(WAYS)


def rate_of(work: Callable[[int], int], count: int) -> float:
    """How much is done in a second by callers that share a count of pieces, a connection each."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        done = sum(pool.map(work, [count // CONNECTIONS] * CONNECTIONS))
    return done / (time.perf_counter() - started)


def print_ratios(
    title: str, seconds: Mapping[str, Mapping[str, Sequence[float]]], rates: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Print what the mesh costs: of times the medians in milliseconds, of rates the best, by label and way."""
    print(f"{title:26}{'straight':>12}{'mesh':>12}{'ratio':>8}   aim")
    for label, kind in seconds.items():
        median = {way: 1e3 * statistics.median(took) for way, took in kind.items()}
        _print_row(label, median, median["mesh"] / median["straight"])
    for label, kind in rates.items():
        best = {way: max(found) for way, found in kind.items()}
        _print_row(label, best, best["straight"] / best["mesh"])


def _print_row(label: str, figures: Mapping[str, float], ratio: float) -> None:
    written = "".join(f"{figures[way]:12.2f}" for way in ("straight", "mesh"))
    print(f"{label:26}{written}{ratio:8.2f}   <= 1.1")
