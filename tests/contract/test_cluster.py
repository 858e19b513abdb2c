"""The Cluster contract, on every implementation that this machine can run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.ports.cluster import Cluster
from tests.contract.cluster_contract import DeploymentContract, ObjectContract, TrafficContract

_numbers = itertools.count()


def local_mesh(folder: Path) -> Iterator[Cluster]:
    mesh = LocalMesh(folder / "home", "contract", pause=0.05)
    try:
        yield mesh
    finally:
        mesh.down(purge=True)


LOCAL = pytest.param(local_mesh, id="local", marks=pytest.mark.e2e)


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The implementation that this run is about, shared by its tests."""
    make: Callable[[Path], Iterator[Cluster]] = request.param
    yield from make(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def name() -> str:
    """A DNS label that no other test uses."""
    return f"t{next(_numbers)}"


@pytest.fixture
def patience() -> float:
    """Seconds that a pod may take to become ready."""
    return 120.0


@pytest.mark.parametrize("cluster", [LOCAL], indirect=True)
class TestObjects(ObjectContract):
    """Implementations that keep objects."""


@pytest.mark.parametrize("cluster", [LOCAL], indirect=True)
class TestDeployments(DeploymentContract):
    """Implementations that run deployments."""


@pytest.mark.parametrize("cluster", [LOCAL], indirect=True)
class TestTraffic(TrafficContract):
    """Implementations that route real requests."""
