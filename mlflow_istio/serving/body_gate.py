"""Takes in the body of an invocation: bounded in size and time, and read once before MLflow sees it."""

from __future__ import annotations

import asyncio
from time import monotonic

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_istio.serving.bodies import RefusedBodyError, check_body

_INLINE_BYTES = 64 * 1024
"""Larger bodies are read in a thread, so that other callers are answered meanwhile."""
_BYTES_PER_SECOND = 64 * 1024
"""Slowest caller that still gets more time: whoever sends a byte a second holds nothing for long."""


class BodyGate:
    """The scoring app, which gets only bodies that can be read.

    Args:
        scoring: The app behind it.
        max_bytes: Most bytes of a body; a larger one is answered 413, and no more of it is held than that.
        timeout: Seconds that a body may take to come, and a second more for each 64 KiB that came.
    """

    def __init__(self, scoring: ASGIApp, *, max_bytes: int, timeout: float) -> None:
        self._scoring = scoring
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/invocations":
            await self._scoring(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            body = await self._body(headers.get(b"content-length"), receive)
            if body is None:
                return  # nobody is there any more
            content_type = headers.get(b"content-type")
            media_type = None if content_type is None else content_type.decode("latin-1")
            if len(body) > _INLINE_BYTES:
                await asyncio.to_thread(check_body, body, media_type)
            else:
                check_body(body, media_type)
        except RefusedBodyError as error:
            await _refusal(error)(scope, receive, send)
            return
        await self._scoring(scope, _received(body, receive), send)

    async def _body(self, length: bytes | None, receive: Receive) -> bytes | None:
        if length is not None and int(length) > self._max_bytes:  # the server has seen to it that it is a number
            raise self._too_large()
        parts, size, start = [], 0, monotonic()
        while True:
            left = start + self._timeout + size / _BYTES_PER_SECOND - monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0))
            except asyncio.TimeoutError:
                raise RefusedBodyError("the body took too long to come", 408) from None
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> RefusedBodyError:
        return RefusedBodyError(
            f"the body has more than {self._max_bytes} bytes, the most that this deployment takes", 413
        )


def _received(body: bytes, receive: Receive) -> Receive:
    """What the app behind receives: the body as one message, then whatever comes (that the caller went away)."""
    pending = [body]

    async def received() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return received


def _refusal(error: RefusedBodyError) -> JSONResponse:
    # In the form of MLflow's own refusals. What is left of the body is not read: the connection ends.
    closing = {"connection": "close"} if error.status in (408, 413) else None
    return JSONResponse({"error_code": "BAD_REQUEST", "message": str(error)}, error.status, closing)
