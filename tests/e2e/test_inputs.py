"""Inputs on their whole way: client, Envoy, model server, model, and the model's words of what it saw back again."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mlflow_istio.cli import main as mlflow_istio
from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.support.pyfunc import signature_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL = Path(__file__).parent / "seeing_model.py"

FRAME = pd.DataFrame(
    {
        "tiny": [2e-12, np.nan, -0.0],
        "digits": [0.12345678901234567, np.inf, -np.inf],
        "small": np.array([0.1, 1.5, 2.5], dtype="float32"),
        "large": [2**63 - 1, -(2**63), 0],
        "zip": ["000123", "NaN", "é"],
        "updated_at": pd.to_datetime(["2020-01-01", "2020-01-01T00:00:00.123456789", None], format="ISO8601"),
        "raw": [b"hi", b"\xff\x00", b""],
        "nested": [{"a": [0.1]}, {"a": []}, {"a": [1e-30, 2.0]}],
    }
)


def register(name: str, signature: Any) -> None:
    import mlflow
    import mlflow.pyfunc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL),
            registered_model_name=name,
            signature=signature,
            pip_requirements=["mlflow"],
        )


def seen(answer: Any) -> Any:
    return json.loads(answer["predictions"][0])


def words(frame: pd.DataFrame) -> dict[str, Any]:
    return {name: [str(frame[name].dtype), [repr(value) for value in frame[name].tolist()]] for name in frame}


def test_the_model_sees_what_it_sees_at_home(own_mesh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of every kind of column, a tensor, lists, and files of the command line."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps a model's files below the working directory
    client = IstioDeploymentClient(own_mesh)
    array = np.array([[1e-30, np.nan], [np.inf, -0.0]])
    for name, signature in (("frames", signature_of(FRAME)), ("tensors", signature_of(array)), ("lists", None)):
        register(name, signature)
        client.create_deployment(f"{name}-v1", f"models:/{name}/1", endpoint=name, config={"ready_timeout": 120})

    assert seen(client.predict(endpoint="frames", inputs=FRAME)) == words(FRAME)
    assert seen(client.predict("tensors-v1", array)) == ["float64", [repr(row) for row in array.tolist()]]
    assert seen(client.predict(endpoint="lists", inputs=["a", "b"])) == ["<U1", ["'a'", "'b'"]]

    def from_file(endpoint: str, name: str, text: str) -> Any:
        (tmp_path / name).write_text(text)
        arguments = ["predict", "-t", own_mesh, "--endpoint", endpoint, "-I", str(tmp_path / name)]
        result = CliRunner().invoke(mlflow_istio, arguments)
        assert result.exit_code == 0, result.output
        return seen(json.loads(result.stdout))

    assert from_file("lists", "list.json", '["a", "b"]') == ["<U1", ["'a'", "'b'"]]
    assert from_file("tensors", "tensor.json", "[[2e-12, NaN], [1.0, 2.0]]")[1] == ["[2e-12, nan]", "[1.0, 2.0]"]
    assert from_file("lists", "records.json", '[{"x": 0.12345678901234567}]') == {
        "x": ["float64", [repr(0.12345678901234567)]]
    }
    assert from_file("lists", "table.csv", "x,zip\n2e-12,a\n")["x"] == ["float64", ["2e-12"]]
