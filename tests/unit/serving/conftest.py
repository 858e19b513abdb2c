"""A caller that drives an ASGI app without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What an app sent."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    error: Exception | None

    def header(self, name: str) -> str:
        (value,) = (value for key, value in self.headers if key == name.encode())
        return value.decode("latin-1")

    def json(self) -> Any:
        return json.loads(self.body)


def call_app(
    app: ASGIApp,
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    body: Sequence[bytes] = (b"",),
) -> Answer:
    """Send one request, its body in the given parts; ``error`` is what the app raised, for the server to log."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    parts = [
        {"type": "http.request", "body": part, "more_body": number < len(body) - 1} for number, part in enumerate(body)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> Exception | None:
        try:
            await app(scope, receive, send)
        except (RuntimeError, TypeError, ValueError) as error:
            return error
        return None

    error = asyncio.run(run())
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in rest)
    return Answer(
        status=start["status"],
        headers=start["headers"],
        body=b"".join(message.get("body", b"") for message in rest),
        error=error,
    )


@pytest.fixture
def call() -> Callable[..., Answer]:
    return call_app
