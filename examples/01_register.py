"""Train and register three versions of a model ``churn`` on made-up customers."""

from __future__ import annotations

import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

random = np.random.default_rng(7)
customers = pd.DataFrame(
    {
        "tenure": random.integers(1, 60, 2000),
        "calls": random.integers(0, 20, 2000),
        "spend": random.gamma(4.0, 10.0, 2000),
    }
)
customers = customers.astype(float)
odds = 0.25 * customers["calls"] - 0.08 * customers["tenure"] - 0.01 * customers["spend"]
left = (random.uniform(size=2000) < 1 / (1 + np.exp(-odds))).astype(int)

mlflow.set_experiment("churn-training")
for strength in (0.001, 0.1, 1.0):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(customers, left)
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name="churn",
            input_example=customers.head(2),
            pip_requirements=["scikit-learn", "pandas"],
        )
    accuracy = model.score(customers, left)
    print(f"models:/churn/{logged.registered_model_version}: accuracy {accuracy:.3f}")
