"""Small real models for the tests, logged and registered through MLflow's own API."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np


def register(tracking_uri: str, name: str, answer: float, artifacts: Path | None) -> int:
    """Register a scikit-learn model that always predicts ``answer``; its version number.

    Its files go to the folder, or where the tracking server keeps files when there is none.
    """
    import mlflow
    import mlflow.sklearn
    from sklearn.dummy import DummyRegressor

    model = DummyRegressor(strategy="constant", constant=answer).fit(np.zeros((2, 2)), np.zeros(2))
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
            info = mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name=name,
                input_example=np.array([[1.0, 2.0]]),
                pip_requirements=["scikit-learn"],  # given, so that MLflow need not load the model to find out
            )
    return int(info.registered_model_version)
