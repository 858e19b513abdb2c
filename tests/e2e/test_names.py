"""A registered model whose name is full of what filters, headers, manifests and markup read, in every verb; then it is lost."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_istio.cli import main as mlflow_istio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAME = ' données\' "v2" $(HOME) 100% [bold]取引@b\\s'
FOUND = 2
"""What ``doctor`` exits with where a warning is left."""
OURS = f"models:/{NAME}"


def run(command: object, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(command, [*arguments, "-t", "istio-local"])  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    return result.output


def test_every_verb_takes_it_and_says_what_mlflow_lost(own_mesh: str, tmp_path: Path) -> None:
    assert own_mesh == "istio-local"
    client = MlflowClient()
    client.rename_registered_model("churn", NAME)
    create = ("create", "--endpoint", "names")
    run(mlflow_deployments, *create, "--name", "names-v1", "-m", f"{OURS}/1")
    run(
        mlflow_deployments,
        *create,
        "--name",
        "names-v2",
        "-m",
        f"{OURS}/latest",
        "-C",
        "strategy=canary",
        "-C",
        "weight=10",
    )
    view = json.loads(run(mlflow_istio, "status", "names", "--json"))
    assert [deployment["model_version"] for deployment in view["deployments"]] == [f"{NAME}/1", f"{NAME}/2"]
    assert f"{NAME.strip()}/1" in run(mlflow_istio, "status", "names")
    answer = requests.post(
        f"{view['url']}/invocations",
        json={"inputs": [[1.0, 2.0]]},
        headers={"x-mlflow-deployment": "names-v2"},
        timeout=30,
    )
    assert unquote(answer.headers["x-mlflow-model-version"]) == f"{NAME}/2"
    assert answer.json() == {"predictions": [2.0]}
    assert client.get_model_version(NAME, "2").tags["istio.local-default.names.weight"] == "10"

    run(mlflow_istio, "promote", "names")
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == "2"
    assert "promote" in run(mlflow_istio, "history", "names")
    page = tmp_path / "report.html"
    run(mlflow_istio, "report", "names", "--output", str(page))
    assert "取引" in page.read_text(encoding="utf-8")
    assert "取引" in run(mlflow_istio, "export", "names")
    run(mlflow_istio, "doctor", "names")

    client.delete_model_version(NAME, "1")
    said = run(mlflow_istio, "rollback", "names")
    assert f"{OURS}/1 is gone from the registry" in said
    assert client.get_model_version(NAME, "2").tags["istio.local-default.names.role"] == "idle"
    run(mlflow_istio, "doctor", "names", "--fix", code=FOUND)
    left = json.loads(run(mlflow_istio, "doctor", "names", "--json", code=FOUND))["findings"]
    assert [found["code"] for found in left] == ["version-gone", "idle"], "no mend is promised that does not hold"
