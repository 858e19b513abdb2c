"""Whose fault a failed invocation is, the model's or the caller's, as its status says it: 500 or 400.

MLflow's scoring app answers 400 whenever ``predict`` raises, as if the request had been wrong. Everything that tells a sick
version from a well one (Envoy's and Istio's counters, retries, outlier detection) counts 5xx, so such a version would look
healthy. It answers 500, on the other hand, where a request makes MLflow or pandas stumble before the model is asked: whoever calls
could make a good version look sick. So what fails before the model's own code runs is a 400 and what fails in it a 500, but for
what MLflow itself calls an invalid request.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

_INVALID_REQUEST = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
_OURS = (ImportError, OSError, MemoryError, SystemError)
"""What no body brings about by itself: an environment that lacks a package, a disk, memory."""

_logger = logging.getLogger("uvicorn.error")


@dataclass(kw_only=True, slots=True)
class _Invocation:
    """What became of one request.

    The scoring app calls the model in a thread, with a copy of the context: it can't set the variable, but it can note things here.
    """

    entered: bool = False
    failures: list[BaseException] = field(default_factory=list)


_invocation: ContextVar[_Invocation | None] = ContextVar("mlflow_istio_invocation", default=None)


def noticing_failures(model: PyFuncModel) -> PyFuncModel:
    """The same model; that its own code began, and what it raises, is noticed for the request that is being answered."""
    inner = getattr(model, "_predict_fn", None)
    predict = model.predict

    @functools.wraps(predict)
    def noticed(*args: Any, **kwargs: Any) -> Any:
        invocation = _invocation.get() or _Invocation()
        invocation.entered = inner is None
        try:
            return predict(*args, **kwargs)
        except Exception as exc:
            # Before the model's own code there is the signature.
            if isinstance(exc, _OURS) or (invocation.entered and not _is_invalid_request(exc)):
                invocation.failures.append(exc)
            raise

    model.predict = noticed
    if inner is not None:

        @functools.wraps(inner)
        def entered(*args: Any, **kwargs: Any) -> Any:
            invocation = _invocation.get()
            if invocation is not None:
                invocation.entered = True
            return inner(*args, **kwargs)

        model._predict_fn = entered
    _notice_streams(model)
    return model


def _notice_streams(model: PyFuncModel) -> None:
    """The same for streamed answers, whose failures come while they are read."""
    inner = getattr(model, "_predict_stream_fn", None)
    if inner is None:
        return
    stream = model.predict_stream

    @functools.wraps(stream)
    def noticed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        invocation = _invocation.get() or _Invocation()
        try:
            yield from stream(*args, **kwargs)
        except NotImplementedError:
            raise  # MLflow's classes for agents have the method, whether or not the model does
        except Exception as exc:
            if isinstance(exc, _OURS) or (invocation.entered and not _is_invalid_request(exc)):
                invocation.failures.append(exc)
            raise

    @functools.wraps(inner)
    def entered(*args: Any, **kwargs: Any) -> Any:
        invocation = _invocation.get()
        if invocation is not None:
            invocation.entered = True
        return inner(*args, **kwargs)

    model.predict_stream = noticed
    model._predict_stream_fn = entered


def _is_invalid_request(exc: Exception) -> bool:
    return isinstance(exc, MlflowException) and exc.error_code in _INVALID_REQUEST


class ModelFailures:
    """The scoring app, whose 400 becomes a 500 where the model raised, and whose 500 a 400 where it was never asked.

    Args:
        scoring: MLflow's scoring app on a model of ``noticing_failures``.
    """

    def __init__(self, scoring: ASGIApp) -> None:
        self._scoring = scoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        invocation = _Invocation()
        token = _invocation.set(invocation)
        status = 0
        replaced = bytearray()

        async def mending_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                # The failure of a stream that has begun is told in it.
                status = 200 if _is_stream(message) else _mended(message["status"], invocation)
                if status == message["status"]:
                    status = 0
            if not status:
                await send(message)
            elif message["type"] == "http.response.body":
                replaced.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await JSONResponse(_said(bytes(replaced), status), status)(scope, receive, send)

        try:
            await self._scoring(scope, receive, mending_send)
        except Exception as exc:
            if status != 400 or isinstance(exc, _OURS):
                raise
            _logger.info("An invocation could not be read: %s", type(exc).__name__)
        finally:
            _invocation.reset(token)


def _is_stream(start: Message) -> bool:
    kind: bytes = dict(start["headers"]).get(b"content-type", b"")
    return start["status"] == 200 and kind.startswith(b"text/event-stream")


def _mended(status: int, invocation: _Invocation) -> int:
    if invocation.failures:
        return 500
    return 400 if status == 500 and not invocation.entered else status


def _said(body: bytes, status: int) -> dict[str, Any]:
    """MLflow's own body, with the error code that fits the status."""
    try:
        document = json.loads(body)
    except ValueError:
        document = {"message": body.decode("utf-8", "replace")}
    code = "INTERNAL_ERROR" if status == 500 else "BAD_REQUEST"
    return {**(document if isinstance(document, dict) else {"message": str(document)}), "error_code": code}
