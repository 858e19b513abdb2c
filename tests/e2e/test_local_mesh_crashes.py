"""A command may be killed before any of its steps: the next one finishes the work, and no request is lost meanwhile."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.launch import identity
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.adapters.local.processes import Supervisor
from mlflow_istio.adapters.local.state import StateDirectory
from mlflow_istio.core.matching.probe import change_probe
from tests.contract.cluster_contract import request
from tests.contract.model_server import deployment, destination_rule, service
from tests.e2e import mesh_command
from tests.e2e.mesh_load import Load

pytestmark = pytest.mark.e2e
ENDPOINT, NAME = "churn", "churn-a"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    mesh = LocalMesh(tmp_path_factory.mktemp("crashes"), "own", pause=0.05)
    try:
        mesh_command.roll(mesh, ENDPOINT, "m/0", "1")
        mesh.apply(service(ENDPOINT))
        mesh.apply(destination_rule(ENDPOINT, NAME))
        mesh_command.traffic(mesh, ENDPOINT, "first")
        mesh.wait_routed(change_probe(ENDPOINT, "first"), 60)
        yield mesh
    finally:
        mesh.down(purge=True)


def killed(mesh: LocalMesh, step: int, verb: str, *arguments: str) -> bool:
    """Run a command that is killed before a step; whether it was, or had fewer steps."""
    home = str(mesh.status().directory.parent)
    command = [sys.executable, "-m", "tests.e2e.mesh_command", verb, home, mesh.name, str(step), *arguments]
    code = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=240).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def check_order(mesh: LocalMesh) -> None:
    """No half-done work is left, and what runs is what the objects want."""
    state = StateDirectory(mesh.status().directory.parent, mesh.name)
    assert list(state.staging.iterdir()) == []
    assert state.is_finished()
    assert not state.draining.exists()
    names = {replica.name for replica in state.all_replicas()}
    wanted = sum(int(one["spec"]["replicas"]) for one in mesh.list("Deployment", {}))
    assert len(names) == wanted
    assert set(Supervisor(state, mesh.name).programs()) == {*names, "envoy", "sweeper"}
    assert {path.stem for path in state.programs.iterdir()} == {*names, "envoy", "sweeper"}


def test_killed_while_changing_traffic(mesh: LocalMesh) -> None:
    for step in itertools.count(1):
        if not killed(mesh, step, "traffic", ENDPOINT, f"killed-{step}"):
            break
        mesh_command.traffic(mesh, ENDPOINT, f"after-{step}")
        mesh.wait_routed(change_probe(ENDPOINT, f"after-{step}"), 60)
        check_order(mesh)
    assert step > 3


def test_killed_while_rolling(mesh: LocalMesh) -> None:
    """Every third step; the replicas change between one and two, so scaling is in it."""
    with Load(mesh, ENDPOINT, threads=1) as load:
        for step in itertools.count(1, 3):
            wanted = (f"m/{step}", "12"[step % 2])
            went_on = killed(mesh, step, "roll", ENDPOINT, *wanted)
            mesh_command.roll(mesh, ENDPOINT, *wanted)
            check_order(mesh)
            assert request(mesh, ENDPOINT)[1]["x-mlflow-model-version"] == wanted[0]
            if not went_on:
                break
    assert step > 10
    assert not load.failures


def test_killed_while_deleting_a_deployment(mesh: LocalMesh) -> None:
    for step in itertools.count(1):
        mesh.apply(deployment(ENDPOINT, "churn-z"))
        mesh.wait_ready("churn-z", 120)
        (replica,) = [one for one in mesh.status().replicas if one.deployment == "churn-z"]
        was_killed = killed(mesh, step, "remove", "churn-z")
        mesh.delete("Deployment", "churn-z")
        mesh.up()
        assert identity(replica.pid) is None
        check_order(mesh)
        if not was_killed:
            break
    assert step > 5


def test_killed_while_coming_up(mesh: LocalMesh) -> None:
    """Every third step."""
    for step in itertools.count(1, 3):
        mesh.down()
        was_killed = killed(mesh, step, "up")
        mesh.up()
        mesh.wait_ready(NAME, 120)
        check_order(mesh)
        assert request(mesh, ENDPOINT)[0] == 200
        if not was_killed:
            break
    assert step > 5
