"""Bad input through the real command lines: one clear line, and nothing has changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from mlflow.deployments.cli import commands as mlflow_deployments

from mlflow_istio.cli import main as mlflow_istio
from tests.scenarios.place import Place

CREATE = ["create", "--endpoint", "m", "--name", "m-new", "-m", "models:/m/2"]
UPDATE = ["update-endpoint", "--endpoint", "m"]


def run(command: click.Command, args: list[str], target: str) -> Result:
    return CliRunner().invoke(command, [*args, "-t", target])


MLFLOW_CASES = [
    ([*CREATE, "-C", "wieght=10"], r"unknown option 'wieght': did you mean 'weight'\?"),
    ([*CREATE, "-C", "strategy=cannary"], r"unknown strategy 'cannary': did you mean 'canary'\?"),
    (["create", "--endpoint", "m", "--name", "m-x", "-m", "models:/m/99"], r"'m' has no version 99: it has 1, 2, 3"),
    (["create", "--endpoint", "m", "--name", "m-x", "-m", "models:/mm/1"], r"no registered model 'mm': .*known: m"),
    (["create", "--endpoint", "m", "--name", "m-x", "-m", "models:/m@nobody"], r"'m' has no alias 'nobody'"),
    (
        ["create", "--endpoint", "m", "--name", "m-x", "-m", "runs:/abc/model"],
        r"not a registered model version.*register",
    ),
    (["create", "--endpoint", "m", "--name", "m-x", "-m", "models:/m/Production"], r"names a stage.*deprecated"),
    (["create", "--endpoint", "m", "--name", "M_2", "-m", "models:/m/2"], r"'M_2' is not a DNS label.*'m-2'"),
    (
        ["create", "--endpoint", "my endpoint", "--name", "m-x", "-m", "models:/m/2"],
        r"'my endpoint' is not a DNS label",
    ),
    (["create", "--endpoint", "m", "--name", "m-v1", "-m", "models:/m/2"], r"'m-v1' exists already and serves m/1"),
    ([*CREATE, "-f", "xgboost"], r"models:/m/2 has no flavor 'xgboost': it has"),
    ([*CREATE, "-C", "weight=-5"], r"'weight' can't be '-5'"),
    ([*CREATE, "-C", "weight=10.5"], r"'weight' can't be '10.5': it must be a whole number from 0 to 100"),
    ([*CREATE, "-C", "weight=101"], r"'weight' can't be '101'"),
    ([*CREATE, "-C", "strategy=shadow", "-C", "weight=10"], r"'weight' has no effect with strategy=shadow.*mirror"),
    ([*CREATE, "-C", "strategy=blue-green", "-C", "weight=10"], r"weight 10 .*blue-green: it moves 0 or 100"),
    ([*CREATE, "-C", "strategy=ab", "-C", "weight=10"], r"exactly one of 'header' and 'cookie'"),
    ([*CREATE, "-C", "strategy=shadow", "-C", "mirror=101"], r"'mirror' can't be '101'"),
    ([*CREATE, "-C", 'env={"A": '], r"'env' can't be .*not JSON"),
    ([*CREATE, "-C", 'env={"MLFLOW_ISTIO_PORT": "1"}'], r"'MLFLOW_ISTIO_PORT' is set by mlflow-istio itself"),
    ([*CREATE, "-C", "templates=nowhere"], r"templates folder 'nowhere' does not exist"),
    ([*UPDATE, "-C", "action=promote"], r"'m' has no open release, so there is no candidate"),
    ([*UPDATE, "-C", "action=promot"], r"unknown action 'promot': did you mean 'promote'\?"),
    ([*UPDATE, "-C", "weight=10"], r"'m' has no open release, so there is no candidate: start one with"),
    ([*UPDATE, "-C", "strategy=canary"], r"'m' has 2 deployments that could be the candidate: name one"),
    ([*UPDATE, "-C", "strategy=canary", "-C", "candidate=m-v9"], r"'m' has no deployment 'm-v9': deploy it first"),
    ([*UPDATE, "-C", "strategy=canary", "-C", "candidate=m-v1"], r"'m-v1' is stable already"),
    (
        [*UPDATE, "-C", "strategy=canary", "-C", "candidate=m-v2", "-C", 'weights={"m-v1": 60, "m-v2": 50}'],
        r"weights must sum to 100, not 110",
    ),
    (
        [*UPDATE, "-C", "strategy=canary", "-C", "candidate=m-v2", "-C", 'weights={"m-v2": 100}'],
        r"must name every destination: 'm-v1' is missing",
    ),
    ([*UPDATE], r"nothing to change"),
    (["update-endpoint", "--endpoint", "n", "-C", "weight=10"], r"no endpoint 'n' in .*known: m"),
    (["delete", "--name", "m-v1"], r"'m-v1' of endpoint 'm' is stable"),
    (["update", "--name", "m-v1", "-m", "models:/m/2"], r"'m-v1' serves m/1; a deployment never changes its version"),
    (["update", "--name", "m-v1", "-C", "replicas=0"], r"'m-v1' has traffic or is stable.*scaling to 0"),
    (["update", "--name", "m-v1"], r"nothing to update on deployment 'm-v1'"),
    (["update", "--name", "m-v9", "-C", "replicas=2"], r"no deployment 'm-v9'.*did you mean"),
    (["get", "--name", "m-v9"], r"no deployment 'm-v9'"),
    (["get-endpoint", "--endpoint", "n"], r"no endpoint 'n'"),
    (["create-endpoint", "--endpoint", "n"], r"(comes into being with its first deployment|unexpected keyword)"),
]


@pytest.mark.parametrize(("args", "message"), MLFLOW_CASES, ids=[" ".join(case[0][:6]) for case in MLFLOW_CASES])
def test_mlflow_deployments_says_what_is_wrong_and_changes_nothing(
    settled: Place, args: list[str], message: str
) -> None:
    before = settled.client.get_endpoint("m"), settled.client.list_deployments()
    result = run(mlflow_deployments, args, settled.target)
    said = (
        result.output if result.exception is None or isinstance(result.exception, SystemExit) else str(result.exception)
    )
    assert result.exit_code != 0
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1, said
    assert (settled.client.get_endpoint("m"), settled.client.list_deployments()) == before


def test_create_endpoint_of_mlflow_is_still_broken_for_every_plugin(settled: Place) -> None:
    """MLflow 3.17.2 passes ``endpoint`` to a command that takes ``name``; when this fails, the README can drop its warning."""
    result = run(mlflow_deployments, ["create-endpoint", "--endpoint", "n"], settled.target)
    assert isinstance(result.exception, TypeError)


def test_an_alias_that_moved_meanwhile_is_said(settled: Place) -> None:
    from mlflow import MlflowClient

    registry = MlflowClient(settled.tracking_uri, settled.tracking_uri)
    registry.set_registered_model_alias("m", "candidate-pick", "3")
    result = run(
        mlflow_deployments,
        ["create", "--endpoint", "m", "--name", "m-v2", "-m", "models:/m@candidate-pick"],
        settled.target,
    )
    registry.delete_registered_model_alias("m", "candidate-pick")
    assert re.search(r"alias 'candidate-pick' means m/3 now.*'m-v2'.*serves m/2", result.output), result.output


def test_a_second_release_is_refused_by_the_name_of_the_first(settled: Place) -> None:
    open_one = settled.do(strategy="canary", candidate="m-v2", weight=5)["release"]["id"]
    result = run(mlflow_deployments, [*UPDATE, "-C", "strategy=shadow", "-C", "candidate=m-v3"], settled.target)
    assert result.exit_code == 1
    assert open_one in result.output
    for action in ("weight=10", "action=promote"):
        both = [*UPDATE, "-C", "weight=7", "-C", action] if action != "weight=10" else [*UPDATE, "-C", "mirror=7"]
        assert "has no effect" in run(mlflow_deployments, both, settled.target).output


def test_explain_is_refused_with_what_to_do_instead(settled: Place, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('[{"a": 1.0, "b": 2.0}]')
    result = run(mlflow_deployments, ["explain", "--name", "m-v1", "-I", str(rows)], settled.target)
    assert result.exit_code == 1
    assert "explain is not offered" in result.output
    assert "log_explainer" in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [("[{", "is not JSON"), ('"x"', "the model refused the input"), (None, "can't be read"), ('{"foo": 1}', "refused")],
)
def test_a_bad_input_file_is_named(settled: Place, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "input.json"
    if text is not None:
        file.write_text(text)
    result = run(mlflow_istio, ["predict", "--endpoint", "m", "-I", str(file)], settled.target)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["status", "x"], r"no endpoint 'x'.*known: m"),
        (["history", "x"], r"no endpoint 'x'"),
        (["promote", "m"], r"no open release"),
        (["promot", "m"], r"no such command 'promot': did you mean 'promote'\?"),
        (["history", "m", "-C", "scop=x"], r"unknown option 'scop': did you mean 'scope'\?"),
    ],
)
def test_mlflow_istio_says_what_is_wrong(settled: Place, args: list[str], message: str) -> None:
    result = run(mlflow_istio, args, settled.target)
    assert result.exit_code != 0
    assert re.search(message, result.output), result.output


@pytest.mark.parametrize("target", ["istio-lcal", "istio-local://a/b", "istio-local:/A_B", "sagemaker", "istio:/a/b"])
def test_an_unknown_target_is_named(target: str) -> None:
    result = run(mlflow_istio, ["status"], target)
    assert result.exit_code == 1
    assert target in result.output or "A_B" in result.output


def test_a_model_server_that_does_not_come_up_is_taken_away_with_its_last_words(settled: Place) -> None:
    before = settled.client.get_endpoint("m")
    result = run(
        mlflow_deployments,
        [*CREATE, "-C", 'env={"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "soon"}', "-C", "ready_timeout=60"],
        settled.target,
    )
    assert result.exit_code == 1
    first, *log = result.output.strip().splitlines()
    assert "m-new" in first
    assert "taken away again" in first
    assert log
    assert settled.client.get_endpoint("m") == before


def test_options_have_their_default_in_the_environment(settled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_REASON", "from the environment")
    monkeypatch.setenv("MLFLOW_ISTIO_WEIGHT", "12")
    assert settled.do(strategy="canary", candidate="m-v2")["traffic"] == {"m-v1": 88, "m-v2": 12}
    assert settled.client.history("m")[-1]["reason"] == "from the environment"


def test_status_and_history_as_json_are_what_the_client_returns(settled: Place) -> None:
    status = run(mlflow_istio, ["status", "m", "--json"], settled.target)
    assert json.loads(status.stdout) == settled.client.get_endpoint("m")
    history = run(mlflow_istio, ["history", "m", "--json"], settled.target)
    assert json.loads(history.stdout) == settled.client.history("m")
