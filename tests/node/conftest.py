"""Tests marked `node` fail outside of a node, and say how to run them. What they share: an MLflow server that pods reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.client import HOW_TO_RUN, LOGS_VARIABLE
from tests.support.mlflow_server import tracking_server
from tests.testbed.client import HOST_VARIABLE

ROOT = Path(__file__).parents[2]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("node") and LOGS_VARIABLE not in os.environ:
        pytest.fail(f"needs a real node around it: {HOW_TO_RUN}", pytrace=False)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an MLflow server that knew three versions of the model `churn`, and nothing else."""
    folder = tmp_path_factory.mktemp("registered")
    with tracking_server(folder) as address:
        subprocess.run(
            [sys.executable, "-W", "ignore", str(ROOT / "examples" / "01_register.py")],
            env={**os.environ, "MLFLOW_TRACKING_URI": address},
            check=True,
            cwd=folder,
            timeout=300,
        )
    return folder


# One for each module: an alias of a registered model belongs to one endpoint, and each module has a `churn` of its own.
@pytest.fixture(scope="module")
def server(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server that knows three versions of the model `churn`, at an address that pods reach."""
    folder = tmp_path_factory.mktemp("mlflow") / "server"
    shutil.copytree(registered, folder)
    with tracking_server(folder, os.environ[HOST_VARIABLE]) as address:
        yield address


@pytest.fixture
def own_server(registered: Path, tmp_path: Path) -> Iterator[str]:
    """The same for one test alone."""
    folder = tmp_path / "server"
    shutil.copytree(registered, folder)
    with tracking_server(folder, os.environ[HOST_VARIABLE]) as address:
        yield address
