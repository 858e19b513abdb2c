"""A model logged as code that always answers with the number in its config.

It loads nothing but MLflow: scikit-learn takes two seconds of processor time in every server that a test starts.
"""

import mlflow.pyfunc
import numpy as np
from mlflow.models import set_model


class Constant(mlflow.pyfunc.PythonModel):
    """Answers ``answer`` for each row."""

    def load_context(self, context):
        """Read the number that it was logged with."""
        self.answer = float(context.model_config["answer"])

    def predict(self, context, model_input, params=None):
        """One number for each row."""
        return np.full(len(model_input), self.answer)


set_model(Constant())
