"""Models that are wrong on purpose, registered through MLflow's own API."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np


def register_faulty(tracking_uri: str, name: str, artifacts: Path | None, **config: Any) -> int:
    """Register a model that behaves as the config says (see ``model.py``); its version number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own type hints when it is imported
        import mlflow
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    found = client.get_experiment_by_name("training")
    experiment = (
        found.experiment_id
        if found
        else client.create_experiment("training", artifact_location=artifacts.as_uri() if artifacts else None)
    )
    numbers = TensorSpec(np.dtype("float64"), (-1, 2))
    signature = config.pop("signature", None) or ModelSignature(
        inputs=Schema([numbers]), outputs=Schema([TensorSpec(np.dtype("float64"), (-1,))])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mlflow.start_run(experiment_id=experiment):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).parent / "model.py"),
                model_config={"answer": 1.0, "milliseconds": 0, "fails_every": 0, **config},
                registered_model_name=name,
                signature=signature,
                input_example=np.array([[1.0, 2.0]]),
                pip_requirements=["mlflow"],
            )
    return int(info.registered_model_version)
