"""Replicas that follow the traffic of a release, under live load: nothing is lost, loads are alike, all ends as it began."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from scipy import stats

from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.wiring.connection import local_mesh
from tests.e2e.mesh_calls import admin
from tests.scenarios.place import Place
from tests.testbed.client import wait_for

pytestmark = pytest.mark.timeout(1200)

OPTIONS: dict[str, Any] = {
    "capacity": "follow",
    "steps": "50",
    "interval": 1,
    "hold": 2,
    "warmup": 0,
    "min_requests": 0,
    "analysis": "none",
    "deadline": 600,
    "ready_timeout": 300,
    "approval": "promotion",
}
ITS_OWN = {"champion_alias": "", "challenger_alias": "", "ready_timeout": 300}
HOST = re.compile(r"^outbound\|80\|(?P<subset>[^|]+)\|[^:]*::(?P<address>[\d.]+:\d+)::rq_total::(?P<count>\d+)$", re.M)
"""A line of the admin page ``/clusters``: requests that a host of a subset's cluster got."""


def counts(place: Place, endpoint: str) -> dict[str, dict[str, int]]:
    """Deployment to the requests that each of its replicas got, as the proxy counts them."""
    if place.target == "istio-local":
        text = admin(local_mesh(parse_target(place.target)), "/clusters")
    else:
        text = requests.get(f"{os.environ['GATEWAY_ADMIN_URL']}/clusters", timeout=10).text
    found: dict[str, dict[str, int]] = {}
    for line in HOST.finditer(text):
        if line["subset"].startswith(f"{endpoint}-"):
            found.setdefault(line["subset"], {})[line["address"]] = int(line["count"])
    return found


def replicas(place: Place, endpoint: str) -> Mapping[str, int]:
    return {found["name"]: int(found["replicas"]) for found in place.client.list_deployments(endpoint=endpoint)}


@contextmanager
def driver(place: Place, log: Path, verb: str, endpoint: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that drives a release; ended with SIGKILL where it has not come to an end by itself."""
    argv = [sys.executable, "-m", "mlflow_istio.cli", verb, endpoint, *more, "-t", place.target]
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def await_half(place: Place, process: subprocess.Popen[bytes], log: Path, endpoint: str) -> None:
    def at_half() -> bool:
        assert process.poll() is None, log.read_text()
        return bool(place.client.get_endpoint(endpoint)["traffic"].get(f"{endpoint}-v2") == 50)

    wait_for("half of the traffic", at_half, seconds=500)


def options(endpoint: str, **more: Any) -> list[str]:
    given = {"name": f"{endpoint}-v2", **OPTIONS, **more}
    return [f"-C{name}={value}" for name, value in given.items()]


def approved(place: Place, endpoint: str) -> bool:
    """Whether the release waited for a person and goes on now."""
    try:
        place.client.approve(endpoint)
    except MlflowException:
        return False
    return True


@pytest.mark.parametrize("many", [1, 2, 5])
def test_a_step_to_half_and_the_promotion_have_their_replicas_and_lose_nothing(
    place: Place, tmp_path: Path, many: int
) -> None:
    """The driver is killed at half of the traffic, and the command that goes on from there promotes."""
    endpoint, log = f"c{many}", tmp_path / "driver.log"
    place.client.create_deployment(
        f"{endpoint}-v1", "models:/m/1", endpoint=endpoint, config={"replicas": many, **ITS_OWN}
    )
    try:
        with replace(place, endpoint=endpoint).load(workers=3) as seen:
            with driver(place, log, "release", endpoint, "models:/m/2", *options(endpoint)) as process:
                await_half(place, process, log, endpoint)
            assert replicas(place, endpoint) == {f"{endpoint}-v1": many, f"{endpoint}-v2": many}
            before = counts(place, endpoint)
            enough = seen.total + 400 * 2 * many
            wait_for("enough requests", lambda: seen.total > enough, seconds=300)
            after = counts(place, endpoint)
            loads = [
                after[name][address] - before.get(name, {}).get(address, 0) for name in after for address in after[name]
            ]
            print(f"{many} replicas: requests of each of {len(loads)} at 50%: {sorted(loads)}")
            assert len(loads) == 2 * many
            # A proxy may choose by chance: equal loads leave these bounds about once in a hundred thousand, and twice
            # the load of the others is far beyond.
            low, high = stats.binom.interval(1 - 1e-6, sum(loads), 1 / len(loads))
            assert low <= min(loads) <= max(loads) <= high, loads
            with driver(place, log, "resume", endpoint) as process:
                wait_for("the question", lambda: approved(place, endpoint))
                assert process.wait(500) == 0, log.read_text()
        assert not seen.failures, seen.failures[:5]
        assert place.client.get_endpoint(endpoint)["stable"] == f"{endpoint}-v2"
        assert replicas(place, endpoint) == {f"{endpoint}-v1": many, f"{endpoint}-v2": many}
    finally:
        place.client.delete_endpoint(endpoint, {"force": True})


def test_within_a_surge_a_way_back_by_hand_loses_nothing_and_leaves_what_was(place: Place, tmp_path: Path) -> None:
    endpoint, log = "cs", tmp_path / "driver.log"
    place.client.create_deployment(
        f"{endpoint}-v1", "models:/m/1", endpoint=endpoint, config={"replicas": 2, **ITS_OWN}
    )
    try:
        with pytest.raises(MlflowException, match="option 'surge' allows 0 replicas beyond the 2 that 'cs-v1' has"):
            place.client.release(endpoint, "models:/m/2", name=f"{endpoint}-v2", **{**OPTIONS, "surge": "0"})
        assert set(replicas(place, endpoint)) == {f"{endpoint}-v1"}
        half = options(endpoint, surge="1")
        with (
            replace(place, endpoint=endpoint).load(workers=2) as seen,
            driver(place, log, "release", endpoint, "models:/m/2", *half) as process,
        ):
            await_half(place, process, log, endpoint)
            assert replicas(place, endpoint) == {f"{endpoint}-v1": 2, f"{endpoint}-v2": 1}
            place.client.update_endpoint(endpoint, {"action": "rollback"})
            assert process.wait(300) == 3, log.read_text()
        assert not seen.failures, seen.failures[:5]
        assert replicas(place, endpoint) == {f"{endpoint}-v1": 2, f"{endpoint}-v2": 1}
    finally:
        place.client.delete_endpoint(endpoint, {"force": True})
