"""Meshes for the tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh

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
