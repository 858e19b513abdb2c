"""Scripts and sources of the models that the serving tests serve."""

from __future__ import annotations

# Saves the models of these tests. A program of its own, because MLflow and its flavors warn about much while they save.
SAVE_MODELS = """
import json, sys
from pathlib import Path
import lightgbm, mlflow, mlflow.lightgbm, mlflow.pyfunc, mlflow.sklearn
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder = Path(sys.argv[1])
features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
trees = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(features, labels), num_boost_round=5)
rows = features.head(20)
mlflow.sklearn.save_model(linear, folder / "sklearn", input_example=rows)
mlflow.lightgbm.save_model(trees, folder / "lightgbm", input_example=rows)
expected = {"sklearn": linear.predict(rows).tolist(), "lightgbm": trees.predict(rows).tolist()}
(folder / "expected.json").write_text(json.dumps(expected))
requirements = [f"mlflow-skinny=={mlflow.__version__}", "numpy", "pandas"]
mlflow.pyfunc.save_model(folder / "watched", python_model=sys.argv[2], pip_requirements=requirements)

mlflow.set_tracking_uri(f"sqlite:///{folder}/registry.db")
experiment = mlflow.create_experiment("models", artifact_location=(folder / "artifacts").as_uri())
with mlflow.start_run(experiment_id=experiment):
    mlflow.sklearn.log_model(linear, name="model", registered_model_name="churn")
"""


# A model that tells where it runs, and whose loading and answering can be held up by files.
WATCHED_MODEL = """
import os, sys, time
from pathlib import Path
import mlflow
from mlflow.models import set_model

def hold(folder, name):
    (Path(folder) / f"{name}-entered").touch()
    while not (Path(folder) / f"{name}-go").exists():
        time.sleep(0.01)

class Watched(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        if folder := os.environ.get("HOLD_LOADING"):
            hold(folder, "load")

    def predict(self, context, model_input, params=None):
        if folder := model_input["hold"][0]:
            hold(folder, "predict")
        return {"prefix": sys.prefix, "path": sys.path, "process": os.getpid()}

set_model(Watched())
"""
