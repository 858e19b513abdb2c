"""A model logged as code: it answers with a number, fails for a share of the requests and takes its time, as its config says.

Which requests fail depends on the request alone (its first value counts requests), so that every run is the same.
"""

import contextlib
import threading
import time

import mlflow.pyfunc
import numpy as np
from mlflow.models import set_model


class Faulty(mlflow.pyfunc.PythonModel):
    """Answers ``answer`` after ``milliseconds``; every ``fails_every``-th request fails, if its second value is ``fails_on``.

    Without ``fails_on`` any may fail. With ``queues`` it answers one request after the other, as a model that takes a whole core.
    """

    def load_context(self, context):
        """Read the config that it was logged with."""
        self.config = dict(context.model_config)
        self.turn = threading.Lock() if self.config.get("queues") else contextlib.nullcontext()

    def predict(self, context, model_input, params=None):
        """One prediction for each row."""
        with self.turn:
            return self.answer(model_input)

    def answer(self, model_input):
        """What it says when it is its turn."""
        started = time.monotonic()
        rows = model_input.to_numpy() if hasattr(model_input, "to_numpy") else model_input
        number = int(rows[0][0])
        every = int(self.config.get("fails_every", 0))
        meant = self.config.get("fails_on") in (None, float(rows[0][1]))
        if every and meant and number % every == every // 2:
            raise RuntimeError(f"request {number} fails on purpose")
        left = float(self.config.get("milliseconds", 0)) / 1000 - (time.monotonic() - started)
        if left > 0:
            time.sleep(left)
        return np.full(len(rows), float(self.config["answer"]))  # an array, which every server can put into its answer


set_model(Faulty())
