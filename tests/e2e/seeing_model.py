"""A model logged as code that answers what it was given: types and values as Python writes them."""

import json

import mlflow.pyfunc
from mlflow.models import set_model


class Seeing(mlflow.pyfunc.PythonModel):
    """Its one prediction is JSON text, so that nothing on the way back can change what it says."""

    def predict(self, context, model_input, params=None):
        """The input's types and values."""
        if hasattr(model_input, "columns"):
            columns = {name: model_input[name] for name in model_input}
            return [json.dumps({name: [str(c.dtype), [repr(v) for v in c.tolist()]] for name, c in columns.items()})]
        return [json.dumps([str(model_input.dtype), [repr(row) for row in model_input.tolist()]])]


set_model(Seeing())
