"""Meshes for the tests."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from tests.support.mlflow_addresses import mlflow_at
from tests.support.registered_models import register

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """A mesh that stays up for all tests that leave it as it was."""
    mesh = LocalMesh(tmp_path_factory.mktemp("shared"), "shared", pause=0.1)
    try:
        yield mesh
    finally:
        mesh.down(purge=True)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[LocalMesh]:
    """A mesh of the test's own."""
    mesh = LocalMesh(tmp_path, "own", pause=0.1)
    try:
        yield mesh
    finally:
        mesh.down(purge=True)


@pytest.fixture
def endpoint() -> str:
    return f"e{next(_numbers)}"


@pytest.fixture
def own_mesh(tmp_path: Path, _fresh_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The target of a mesh of the test's own, with the versions 1 and 2 of model churn in a registry of its own."""
    uri = f"sqlite:///{shutil.copy(_fresh_database, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_ISTIO_HOME", str(tmp_path / "meshes"))
    with mlflow_at(uri):
        try:
            for version in (1, 2):
                register(uri, "churn", float(version), tmp_path / "artifacts")
            yield "istio-local"
        finally:
            LocalMesh(tmp_path / "meshes").down(purge=True)
