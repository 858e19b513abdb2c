"""What settings do to slow, cut-off and many replicas, and what an experiment with a fault reports: real Envoy, real processes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_istio.adapters.envoy.callers import EnvoyCallers
from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, WeightedDestination
from mlflow_istio.core.mesh.manifests import virtual_service_manifest
from mlflow_istio.core.mesh.virtual_service import first_endpoint
from mlflow_istio.core.policy.settings import Fault, PolicyRequest
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.moving.chaos import chaos
from mlflow_istio.releases.moving.policy import set_policy
from mlflow_istio.testing import InMemoryRegistry
from mlflow_istio.wiring.connection import SystemClock
from tests.contract.model_server import deployment, destination_rule, service
from tests.e2e.mesh_calls import until
from tests.support.callers import PAUSE
from tests.support.endpoint_values import TEMPLATES, a_stamp

pytestmark = pytest.mark.e2e

_ids = itertools.count()


@pytest.fixture
def database(tmp_path: Path, _fresh_database: Path) -> Path:
    """A tracking database of the test's own."""
    return Path(shutil.copy(_fresh_database, tmp_path / "mlflow.db"))


def served(mesh: LocalMesh, endpoint: str, **changes: Any) -> Context:
    """An endpoint of ours with one deployment, made without MLflow; the context that works on it."""
    name = f"{endpoint}-a"
    mesh.apply(deployment(endpoint, name, version=f"m/{name}", **changes))
    mesh.wait_ready(name, 60)
    mesh.apply(service(endpoint))
    mesh.apply(destination_rule(endpoint, name))
    own = Destination(host=endpoint, subset=name)
    traffic = Traffic(split=(WeightedDestination(destination=own, weight=100),), pins=(name,))
    fresh = Endpoint(name=endpoint, traffic=traffic, stable=own, route=f"mlflow-istio.{endpoint}.split")
    bare = virtual_service_manifest(TEMPLATES["VirtualService"], endpoint)
    mesh.edit("VirtualService", endpoint, lambda _: first_endpoint(bare, fresh, a_stamp("first", "deploy")))
    registry: Any = InMemoryRegistry({"m": [1]})
    return Context(
        cluster=mesh,
        registry=registry,
        runs=registry,
        clock=SystemClock(),
        who="me",
        new_id=lambda: f"p{next(_ids)}",
        templates=TEMPLATES,
        scope="tests",
    )


def setting(context: Context, endpoint: str, **changes: Any) -> None:
    set_policy(context, endpoint, PolicyRequest(changes=changes))


def ask(mesh: LocalMesh, endpoint: str, path: str = "/invocations", **headers: str) -> requests.Response:
    return requests.get(f"{mesh.address(endpoint).url}{path}", headers=headers, timeout=60)


@contextmanager
def load(mesh: LocalMesh, endpoint: str) -> Iterator[Counter[int]]:
    """Requests one after the other until the block ends; how often each status was answered."""
    seen: Counter[int] = Counter()
    stop = threading.Event()
    url = f"{mesh.address(endpoint).url}/invocations"

    def work() -> None:
        with requests.Session() as session:
            while not stop.wait(PAUSE):
                seen[session.get(url, timeout=60).status_code] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_a_slow_replica_meets_the_timeout(shared: LocalMesh, endpoint: str) -> None:
    """It takes 0.2 s for an answer."""
    context = served(shared, endpoint, mode="slow")
    assert ask(shared, endpoint).status_code == 200
    setting(context, endpoint, timeout="50ms", retries={"attempts": 0})
    assert ask(shared, endpoint).status_code == 504
    setting(context, endpoint, timeout="20s")
    assert ask(shared, endpoint).status_code == 200
    setting(context, endpoint, timeout=None, retries=None)
    assert ask(shared, endpoint).status_code == 200


def test_a_cut_off_replica_costs_a_try_and_no_request(shared: LocalMesh, endpoint: str) -> None:
    """One of two replicas is stopped in its tracks: whoever asked it first is answered by the other."""
    context = served(shared, endpoint, replicas=2)
    setting(
        context,
        endpoint,
        load_balancer="round-robin",
        timeout="25s",
        retries={"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx,reset"},
    )
    stopped = next(one for one in shared.status().replicas if one.deployment == f"{endpoint}-a")
    os.kill(stopped.pid, signal.SIGSTOP)
    try:

        def timed(_: int) -> tuple[int, float]:
            begin = time.monotonic()
            return ask(shared, endpoint).status_code, time.monotonic() - begin

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(timed, range(12)))
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert {status for status, _ in answers} == {200}
    assert any(seconds >= 2 for _, seconds in answers), "nobody met the cut-off replica"
    shared.wait_ready(f"{endpoint}-a", 60)


def test_a_consistent_hash_brings_each_user_to_one_replica(shared: LocalMesh, endpoint: str) -> None:
    context = served(shared, endpoint, replicas=2)

    def pids(count: int, **headers: str) -> set[int]:
        return {ask(shared, endpoint, "/headers", **headers).json()["pid"] for _ in range(count)}

    setting(context, endpoint, load_balancer={"consistentHash": {"httpHeaderName": "x-user"}})
    users = [f"user-{number}" for number in range(40)]
    seen = [pids(3, **{"x-user": user}) for user in users]
    assert all(len(one) == 1 for one in seen)
    assert len(set.union(*seen)) == 2, "both replicas have users"
    setting(context, endpoint, load_balancer={"consistentHash": {"httpCookie": {"name": "home", "ttl": "60s"}}})
    with requests.Session() as session:
        url = f"{shared.address(endpoint).url}/headers"
        assert len({session.get(url, timeout=60).json()["pid"] for _ in range(10)}) == 1
        assert "home" in session.cookies
    setting(context, endpoint, load_balancer=None)
    until(lambda: len(pids(10)) == 2)


def test_chaos_reports_what_callers_saw_and_ends(shared: LocalMesh, endpoint: str) -> None:
    context = served(shared, endpoint)
    fault = Fault(abort=503, percentage=50, until=context.clock.now())
    metrics, callers = EnvoyMetrics(shared.admin_urls), EnvoyCallers(shared.admin_urls)
    with load(shared, endpoint) as seen:
        _, report = chaos(context, endpoint, fault, seconds=3, metrics=metrics, callers=callers.read)
        failed = seen[503]
        until(lambda: sum(seen.values()) > 100)
    assert report.callers is not None
    assert report.aborted is not None
    assert 0 < report.aborted == report.callers.errors
    assert abs(failed - report.aborted) <= 1, "one may be on its way"
    answered = report.deployments[f"{endpoint}-a"]
    assert (answered.errors, report.delayed) == (0, 0)
    assert 0 < answered.requests <= report.callers.requests - report.aborted
    assert report.callers.median_ms is not None
    assert ask(shared, endpoint).status_code == 200


def test_an_interrupted_chaos_command_takes_its_fault_away(shared: LocalMesh, endpoint: str, database: Path) -> None:
    served(shared, endpoint)
    environment = {
        **os.environ,
        "MLFLOW_ISTIO_HOME": str(shared.status().directory.parent),
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
    }
    words = [
        "chaos",
        endpoint,
        "-t",
        "istio-local:/shared",
        "--abort",
        "503",
        "--percentage",
        "100",
        "--duration",
        "1h",
        "--json",
    ]
    command = [sys.executable, "-m", "mlflow_istio.cli", *words]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # where these tests run as a background job it is ignored
    ) as process:
        until(lambda: ask(shared, endpoint).status_code == 503, 120)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    report = json.loads(said)
    assert report["interrupted"]
    assert report["aborted"] > 0
    assert ask(shared, endpoint).status_code == 200
