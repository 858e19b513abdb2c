"""``GET /records``: the record log over HTTP, a page at a time."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mlflow_istio.serving.record_log import InvalidCursorError, Page, RecordLog

PAGE_BYTES = 1024 * 1024
"""About the most bytes of records in one page."""


class RecordsApp:
    """Serves the record log.

    ``GET /records?after=CURSOR`` answers ``{"records": [...], "next": CURSOR, "lost_bytes": N, "dropped": {REASON: N}}``.
    Without ``after``, or with ``0``, the page starts at the first record still kept. ``next`` is the cursor for the page
    after this one; an empty ``records`` means that there is no more yet. ``lost_bytes`` tells what went by rotation before it
    was read, and is null when the cursor belongs to a log that is gone. ``dropped`` counts what was never written since the
    process started.

    Args:
        log: The record log.
        token: The bearer token to ask for.
        dropped: Tells what was not recorded, by reason.
    """

    def __init__(self, log: RecordLog, token: str, dropped: Callable[[], Mapping[str, int]] = dict) -> None:
        self._log = log
        self._token = token
        self._dropped = dropped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        await (await self._answer(Request(scope)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method != "GET":
            return _refusal(405, "use GET", {"allow": "GET"})
        if not self._may_read(request):
            return _refusal(401, "send the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        after = request.query_params.get("after")
        try:
            page = await asyncio.to_thread(self._log.read, after, PAGE_BYTES)
        except InvalidCursorError:
            return _refusal(400, f"after={after!r} is not the next of an earlier page: leave it out to start anew")
        except OSError as error:
            return _refusal(503, f"the records can't be read: {error}")
        return Response(_page_body(page, self._dropped()), media_type="application/json")

    def _may_read(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return secrets.compare_digest(given.encode(), f"Bearer {self._token}".encode())


def _page_body(page: Page, dropped: Mapping[str, int]) -> bytes:
    # The lines are JSON already: joining them spares parsing a megabyte.
    head = json.dumps({"next": page.cursor, "lost_bytes": page.lost_bytes, "dropped": dropped})
    return head[:-1].encode() + b', "records": [' + b",".join(page.lines) + b"]}"


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)
