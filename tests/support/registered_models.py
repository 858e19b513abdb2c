"""Small real models for the tests, logged and registered through MLflow's own API."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np


def register(tracking_uri: str, name: str, answer: float, artifacts: Path | None) -> int:
    """Register a model that always predicts ``answer``; its version number.

    Its files go to the folder, or where the tracking server keeps files when there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own type hints when it is imported
        import mlflow
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

    numbers, answers = (TensorSpec(np.dtype("float64"), shape) for shape in ((-1, 2), (-1,)))
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    found = client.get_experiment_by_name("training")
    experiment = (
        found.experiment_id
        if found
        else client.create_experiment("training", artifact_location=artifacts.as_uri() if artifacts else None)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mlflow.start_run(experiment_id=experiment):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).parent / "constant_model.py"),
                model_config={"answer": answer},
                registered_model_name=name,
                signature=ModelSignature(inputs=Schema([numbers]), outputs=Schema([answers])),
                input_example=np.array([[1.0, 2.0]]),
                pip_requirements=["mlflow"],  # given, so that MLflow need not load the model to find out
            )
    return int(info.registered_model_version)
