"""A model that raises has failed, and its answer says so: 500.

MLflow's scoring app answers 400 whenever ``predict`` raises, as if the request had been wrong. Everything that tells a sick
version from a well one (Envoy's and Istio's counters, retries, outlier detection) counts 5xx, so such a version would look
healthy. A request that does not fit the model's signature stays a 400: MLflow raises its own exception for that, before the
model is asked.
"""

from __future__ import annotations

import functools
import json
from contextvars import ContextVar
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_failures: ContextVar[list[Exception] | None] = ContextVar("mlflow_istio_model_failures", default=None)
"""One list for each request. The scoring app calls the model in a thread, with a copy of the context: it can't set the
variable, but it can add to the list."""


def noticing_failures(model: PyFuncModel) -> PyFuncModel:
    """The same model; what its ``predict`` raises is noticed for the request that is being answered."""
    predict = model.predict

    @functools.wraps(predict)
    def noticed(*args: Any, **kwargs: Any) -> Any:
        try:
            return predict(*args, **kwargs)
        except MlflowException:
            raise
        except Exception as exc:
            failures = _failures.get()
            if failures is not None:
                failures.append(exc)
            raise

    model.predict = noticed
    return model


class ModelFailures:
    """The scoring app, whose 400 becomes a 500 where the model raised.

    Args:
        scoring: MLflow's scoring app on a model of ``noticing_failures``.
    """

    def __init__(self, scoring: ASGIApp) -> None:
        self._scoring = scoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        failures: list[Exception] = []
        token = _failures.set(failures)
        replaced = bytearray()

        async def mending_send(message: Message) -> None:
            if not failures:
                await send(message)
            elif message["type"] == "http.response.body":
                replaced.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await JSONResponse(_as_internal_error(bytes(replaced)), 500)(scope, receive, send)

        try:
            await self._scoring(scope, receive, mending_send)
        finally:
            _failures.reset(token)


def _as_internal_error(body: bytes) -> dict[str, Any]:
    """MLflow's own body, with the error code that fits the status."""
    try:
        said = json.loads(body)
    except ValueError:
        said = {"message": body.decode("utf-8", "replace")}
    return {**(said if isinstance(said, dict) else {"message": str(said)}), "error_code": "INTERNAL_ERROR"}
