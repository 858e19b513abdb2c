"""Registered models that stream, for releases of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import streaming_models

_REGISTER = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, mlflow.pyfunc
uri, name, source, artifacts, versions = sys.argv[1:]
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient()
found = client.get_experiment_by_name("training")
experiment = found.experiment_id if found else client.create_experiment("training", artifact_location=artifacts)
for _ in range(int(versions)):
    with mlflow.start_run(experiment_id=experiment):
        mlflow.pyfunc.log_model(name="model", python_model=source, registered_model_name=name, pip_requirements=[])
"""


def register_chat(tracking_uri: str, name: str, folder: Path, kind: str = "TEXT", versions: int = 1) -> None:
    """Register versions of a model of ``streaming_models``; in a process of its own, since MLflow warns of its own classes."""
    source = folder / f"{kind}.py"
    source.write_text(getattr(streaming_models, kind))
    arguments = [tracking_uri, name, str(source), (folder / "artifacts").as_uri(), str(versions)]
    done = subprocess.run([sys.executable, "-c", _REGISTER, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
