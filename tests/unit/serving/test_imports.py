"""The wrapper stays light: a replica's memory is the model's, and a model's environment has only what MLflow put there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"mlflow", "pandas", "numpy", "kubernetes", "jinja2", "pydantic", "requests", "uvicorn"}


def modules_after(statement):
    program = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout))


@pytest.mark.parametrize("module", ["serving", "serving.__main__", "serving.app"])
def test_the_wrapper_imports_nothing_heavy(module):
    assert not modules_after(f"import mlflow_istio.{module}") & HEAVY


def test_the_wrapper_imports_nothing_else_of_this_package():
    ours = {name for name in modules_after("import mlflow_istio.serving.app") if name.startswith("mlflow_istio.")}
    assert {name for name in ours if not name.startswith("mlflow_istio.serving")} == {"mlflow_istio.errors"}
