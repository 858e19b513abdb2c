"""What a model sees at home (``mlflow.pyfunc``), and what it sees behind MLflow's scoring server, in this process."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from mlflow_istio.calls.request_body import RequestBody

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns of its own type hints when it is imported
    from mlflow.models import Model, infer_signature
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc import PyFuncModel, scoring_server

    from mlflow_istio.serving.streams import Streams

__all__ = ["ModelSignature", "Streams", "answered", "at_home", "loaded", "scoring_server", "served", "signature_of"]


class _Seen:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.input: Any = None

    def predict(self, data: Any, params: Any = None) -> Any:
        del params
        self.input = data
        return self.answer


def signature_of(data: Any) -> ModelSignature:
    """The signature that MLflow infers."""
    with _quietly():
        return infer_signature(data)


def at_home(data: Any, signature: ModelSignature | None) -> Any:
    """What a model with this signature is given when ``predict`` is called with the data."""
    model, seen = _loaded(signature, [0])
    with _quietly():
        model.predict(data)
    return seen.input


def served(body: RequestBody, signature: ModelSignature | None) -> Any:
    """What it is given when the body is posted to MLflow's scoring server."""
    model, seen = _loaded(signature, [0])
    with _quietly():
        answer = scoring_server.invocations(body.content, body.content_type, model, model.metadata.get_input_schema())
    assert answer.status == 200, answer.response
    return seen.input


def answered(prediction: Any) -> str:
    """The body with which MLflow's scoring server answers a prediction."""
    model, _ = _loaded(None, prediction)
    with _quietly():
        return str(scoring_server.invocations(b'{"inputs": [0]}', "application/json", model, None).response)


def loaded(model: Any, signature: ModelSignature | None) -> PyFuncModel:
    """MLflow's own wrapper around an object that has ``predict(data, params=None)``."""
    meta = Model(signature=signature, flavors={"python_function": {"loader_module": "tests.support"}})
    return PyFuncModel(meta, model)


def _loaded(signature: ModelSignature | None, answer: Any) -> tuple[PyFuncModel, _Seen]:
    seen = _Seen(answer)
    return loaded(seen, signature), seen


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
