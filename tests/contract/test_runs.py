"""One contract for the Runs port: the in-memory one, and MLflow's own SQLite store."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from mlflow_istio.errors import NotFound, RegistryError
from mlflow_istio.ports.runs import Runs
from mlflow_istio.testing import InMemoryRuns
from tests.support.registered_models import register


@pytest.fixture(params=["in-memory", "mlflow"])
def place(request: pytest.FixtureRequest) -> tuple[Runs, str]:
    """The port, and a run; version 1 of ``churn`` has the tag ``approved``."""
    if request.param == "in-memory":
        runs = InMemoryRuns()
        runs.tags["churn/1"] = {"approved": "yes"}
        runs.keep("run")
        return runs, "run"
    uri = request.getfixturevalue("tracking_uri")
    register(uri, "churn", 1.0, request.getfixturevalue("tmp_path") / "artifacts")
    from mlflow import MlflowClient

    from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    MlflowClient(uri).set_model_version_tag("churn", "1", "approved", "yes")
    return MlflowRuns(uri, uri), MlflowRegistry(uri, uri).open_run("test", "churn", None)


def test_figures_come_back_by_step_with_their_time(place: tuple[Runs, str]) -> None:
    runs, run = place
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    for step, value in ((2, 0.5), (1, 0.25), (3, -1.0)):
        runs.keep(run, figures={"look/errors/ratio": value, "look/weight": 10}, step=step)
    figures = runs.figures(run)
    assert [(point.step, point.value) for point in figures["look/errors/ratio"]] == [(1, 0.25), (2, 0.5), (3, -1.0)]
    assert [point.value for point in figures["look/weight"]] == [10.0] * 3
    assert all(before <= point.time <= datetime.now(timezone.utc) for point in figures["look/weight"])


def test_a_text_is_kept_by_path_and_replaced(place: tuple[Runs, str]) -> None:
    runs, run = place
    assert runs.text(run, "report.html") is None
    assert runs.text(run, "deep/down/table.csv") is None
    for text in ("<p>one</p>", "<p>zwei, größer</p>"):
        runs.keep(run, texts={"report.html": text, "deep/down/table.csv": "a,b\n"})
        assert runs.text(run, "report.html") == text
    assert runs.text(run, "deep/down/table.csv") == "a,b\n"


def test_a_versions_tag_is_read_or_absent(place: tuple[Runs, str]) -> None:
    runs, _ = place
    assert runs.tag("churn/1", "approved") == "yes"
    assert runs.tag("churn/1", "rejected") is None
    with pytest.raises(NotFound, match="churn/7"):
        runs.tag("churn/7", "approved")


def test_a_run_that_is_not_there_is_named(place: tuple[Runs, str]) -> None:
    runs, _ = place
    with pytest.raises(NotFound, match="0123456789abcdef"):
        runs.figures("0123456789abcdef0123456789abcdef")


def test_a_server_that_is_gone_is_one_error() -> None:
    from mlflow_istio.adapters.mlflow.runs import MlflowRuns

    runs = MlflowRuns("http://127.0.0.1:9", "http://127.0.0.1:9")
    for call in (
        lambda: runs.keep("run", figures={"a": 1.0}),
        lambda: runs.figures("run"),
        lambda: runs.tag("churn/1", "a"),
    ):
        with pytest.raises(RegistryError, match="could not (write|read).*127.0.0.1"):
            call()
