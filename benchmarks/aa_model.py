"""A model that computes for a while: its time depends on the processor it gets, as a real model's does.

Its code is logged with it (``mlflow.pyfunc.log_model(python_model=<this file>)``), with ``rounds`` in its ``model_config``.
"""

from __future__ import annotations

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

SIDE = 48


class Working(PythonModel):
    """Multiplies a small matrix with itself, round after round."""

    def load_context(self, context):
        """Take the number of rounds."""
        self.rounds = int(context.model_config["rounds"])

    def predict(self, context, model_input, params=None):  # noqa: ARG002 (MLflow's own signature)
        """Compute, and answer the number of rows."""
        return np.full(len(model_input), computed(self.rounds))


def computed(rounds: int) -> float:
    """Compute so many rounds."""
    matrix = np.full((SIDE, SIDE), 1.0 / SIDE)
    product = matrix
    for _ in range(rounds):
        product = product @ matrix
    return float(product[0, 0])


set_model(Working())
