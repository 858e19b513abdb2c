"""What holds for all tests."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.golden import pytest_addoption
from tests.support.left_processes import Guardian
from tests.support.mlflow_addresses import mlflow_at
from tests.testbed.guard import pytest_runtest_setup

__all__ = ["pytest_addoption", "pytest_runtest_setup"]

# A machine that does other work beside must not make a property fail.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


_GUARDIAN = pytest.StashKey[Guardian]()


def pytest_configure(config: pytest.Config) -> None:
    """What a run starts is ended even where the run itself is killed."""
    if sys.platform == "linux":
        config.stash[_GUARDIAN] = Guardian()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run has ended by itself."""
    if _GUARDIAN in config.stash:
        config.stash[_GUARDIAN].leave()


@pytest.fixture(scope="session")
def _fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made: 1-2 s once instead of once per test."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_uri(_fresh_database: Path, tmp_path: Path) -> Iterator[str]:
    """A fresh MLflow registry of this test's own, set as MLflow's own for the test."""
    database = tmp_path / "mlflow.db"
    shutil.copy(_fresh_database, database)
    uri = f"sqlite:///{database}"
    with mlflow_at(uri):
        yield uri
