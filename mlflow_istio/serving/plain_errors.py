"""What callers are told of an error: what went wrong, not the stack of our code and of the model's.

MLflow's scoring app puts ``stack_trace`` into the JSON of its errors, with paths and lines of what is installed. It belongs in the
server's own log.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)


class PlainErrors:
    """A scoring app whose errors carry no stack trace.

    Args:
        scoring: The app.
    """

    def __init__(self, scoring: ASGIApp) -> None:
        self._scoring = scoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request; an answer that is no error passes as it comes."""
        start: Message | None = None
        body = bytearray()

        async def plain_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    plain = _without_trace(bytes(body))
                    headers = [(key, value) for key, value in start["headers"] if key.lower() != b"content-length"]
                    await send({**start, "headers": [*headers, (b"content-length", str(len(plain)).encode())]})
                    await send({"type": "http.response.body", "body": plain})

        await self._scoring(scope, receive, plain_send)


def _without_trace(body: bytes) -> bytes:
    """The body without its ``stack_trace``, which is logged; the same bytes where it has none."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(document, dict) or "stack_trace" not in document:
        return body
    _LOG.error("%s", document.pop("stack_trace"))
    return json.dumps(document).encode()
