"""A mesh with a model in use and people who call it, for pipelines that run for real."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.support.callers import calling
from tests.support.mlflow_addresses import mlflow_at
from tests.support.pages import register_example

ROOT = Path(__file__).parents[2]
VERSION = "x-mlflow-model-version"
QUICK: dict[str, Any] = {
    "interval": 1,
    "hold": 3,
    "min_requests": 40,
    "warm": "none",
    "warmup": 1,
    "phase": 0,
    "deadline": 150,
    "analysis": [{"guard": "errors", "allowed": 0.03}],
}
"""Options of a release that decides within seconds."""


@dataclass
class Workshop:
    """A user's folder, registry and mesh of their own.

    Attributes:
        folder: Where commands run.
        environment: What they run in.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, expect: int = 0, timeout: float = 560) -> str:
        """Run a command of the environment; what it said."""
        program = str(self.folder / "venv" / "bin" / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == expect, done.stdout[-6000:]
        return done.stdout

    def python(self, example: str, *arguments: str, expect: int = 0) -> str:
        """Run an example."""
        return self.run("python", str(ROOT / "examples" / example), *arguments, expect=expect)

    def client(self) -> Any:
        """A client of the mesh, in this process."""
        from mlflow.deployments import get_deploy_client

        return get_deploy_client("istio-local")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Version 1 of model ``churn`` serves endpoint ``churn``."""
    folder = tmp_path_factory.mktemp("workshop")
    register_example(folder)
    # KFP's local runner takes a space in the interpreter's path as its end, and this clone may lie in such a folder.
    (folder / "venv").symlink_to(sys.prefix)
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_REGISTRY_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ISTIO_HOME": str(folder / "home"),
        "MLFLOW_ISTIO_WHO": "the pipeline",
    }
    with pytest.MonkeyPatch.context() as patch, mlflow_at(own["MLFLOW_TRACKING_URI"]):
        for name, value in own.items():
            patch.setenv(name, value)
        shop = Workshop(folder=folder, environment={**os.environ, "PYTHONWARNINGS": "ignore"})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own about SQLAlchemy, when it first uses a database
            shop.client().create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
        try:
            yield shop
        finally:
            shop.run("mlflow-istio", "local", "down", "--purge")


def register(*, whole: bool = True, opposite: bool = False) -> str:
    """Register a version of ``churn``; its models:/ address. Two calls alike give models that answer alike.

    Args:
        whole: Whether it fills in what is missing; otherwise it fails on it.
        opposite: Whether it says stay where the others say leave.
    """
    import mlflow
    import mlflow.sklearn

    dice = np.random.default_rng(3)
    table = pd.DataFrame(dice.uniform(0, 50, (400, 3)), columns=["tenure", "calls", "spend"])
    leaves = ((table["calls"] * 3 > table["tenure"]) != opposite).astype(int)
    steps = [SimpleImputer(), LogisticRegression()] if whole else [LogisticRegression()]
    with warnings.catch_warnings(), mlflow.start_run():
        warnings.simplefilter("ignore")  # MLflow's own about pandas
        info = mlflow.sklearn.log_model(
            make_pipeline(*steps).fit(table, leaves),
            name="model",
            registered_model_name="churn",
            input_example=table.head(2),
            pip_requirements=["scikit-learn", "pandas"],
            skops_trusted_types=["numpy.dtype"],
        )
    return f"models:/churn/{info.registered_model_version}"


@dataclass
class Callers:
    """What people got: (version, status) to how often, and requests that nobody answered."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


@contextmanager
def people(
    endpoint: dict[str, Any], *, workers: int = 2, missing: float = 0.1, seconds: float = 1100, fresh: bool = False
) -> Iterator[Callers]:
    """Callers who ask one after the other until the block ends; one customer in ten has no ``spend``.

    With ``fresh`` each request is a new user's, who has no cookie yet.
    """
    got, lock = Callers(), threading.Lock()

    def ask(session: requests.Session, number: int) -> None:
        spend = None if random.Random(number).random() < missing else 30.5
        body = {"dataframe_records": [{"tenure": 3.0, "calls": float(number % 20), "spend": spend}]}
        url, headers = f"{endpoint['url']}/invocations", endpoint["headers"]
        try:
            answer = session.post(url, json=body, headers=headers, timeout=60)
        except requests.RequestException as exc:
            with lock:
                got.broken.append(type(exc).__name__)
            return
        if fresh:
            session.cookies.clear()
        with lock:
            got.answers[(answer.headers.get(VERSION, "(nobody)"), answer.status_code)] += 1

    with calling(ask, workers=workers, seconds=seconds):
        yield got
