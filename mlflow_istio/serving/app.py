"""The ASGI app of one replica: MLflow's scoring app, with version headers, metrics and the recorder around it.

A plain function around ``receive`` and ``send`` rather than Starlette's ``BaseHTTPMiddleware``, which puts a task and
a queue between the model and the socket.
"""

from __future__ import annotations

from time import perf_counter
from urllib.parse import quote

from prometheus_client import make_asgi_app
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.recorder import Recorder
from mlflow_istio.serving.records_app import RecordsApp

VERSION_HEADER = b"x-mlflow-model-version"
DEPLOYMENT_HEADER = b"x-mlflow-deployment"

# What a header may carry as it is. "%" is left out, so that a reader can undo the encoding.
_HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"


_NOT_FOR_CALLERS = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
"""Pages about itself that FastAPI adds to MLflow's scoring app, with scripts from elsewhere."""


def identity_headers(*, model: str, version: str, deployment: str) -> tuple[tuple[bytes, bytes], ...]:
    """The response headers that say who answered.

    Returns:
        ``x-mlflow-model-version: MODEL/VERSION`` and ``x-mlflow-deployment``. Characters that a header can't carry are
        percent-encoded, as are the percent sign and blanks at the start.
    """
    return (
        (VERSION_HEADER, _header_value(f"{model}/{version}")),
        (DEPLOYMENT_HEADER, _header_value(deployment)),
    )


def _header_value(text: str) -> bytes:
    encoded = quote(text, safe=_HEADER_SAFE)
    bare = encoded.lstrip(" ")
    return ("%20" * (len(encoded) - len(bare)) + bare).encode("ascii")


class ServingApp:
    """The scoring app, and what surrounds it.

    Args:
        scoring: MLflow's scoring app, or any ASGI app.
        headers: Set on every answer.
        metrics: Counts every answer, and is served at ``/metrics``.
        recorder: Records a sample of the invocations, served at ``/records`` to who shows the token of its settings, and to nobody
            where they have none; None to record nothing.
    """

    def __init__(
        self,
        scoring: ASGIApp,
        *,
        headers: tuple[tuple[bytes, bytes], ...],
        metrics: ServerMetrics,
        recorder: Recorder | None = None,
    ) -> None:
        self._scoring = scoring
        self._headers = headers
        self._metrics = metrics
        self._recorder = recorder
        self._own_apps: dict[str, ASGIApp] = {path: PlainTextResponse("Not Found", 404) for path in _NOT_FOR_CALLERS}
        self._own_apps["/metrics"] = make_asgi_app(metrics.registry)
        if recorder is not None and recorder.settings.token is not None:
            self._own_apps["/records"] = RecordsApp(recorder.log, recorder.settings.token, recorder.dropped)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        if scope["type"] != "http":
            await self._scoring(scope, receive, send)
            return
        path: str = scope["path"]
        if path == "/invocations":
            with self._metrics.in_flight.track_inprogress():
                await self._answer(self._scoring, path, scope, receive, send)
        else:
            await self._answer(self._own_apps.get(path, self._scoring), path, scope, receive, send)

    async def _answer(self, app: ASGIApp, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = perf_counter()
        recording = self._recorder.begin(scope) if self._recorder is not None and path == "/invocations" else None
        status = 0
        finished = False

        async def observed_send(message: Message) -> None:
            nonlocal status, finished
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            elif message["type"] == "http.response.body":
                if recording is not None:
                    recording.add_output(message.get("body", b""))
                if not finished and not message.get("more_body", False):
                    # Before the last byte leaves, so that whoever has the answer finds it counted.
                    finished = True
                    seconds = perf_counter() - arrived
                    self._metrics.count_request(path, status, seconds)
                    if recording is not None:
                        recording.finish(status, seconds)
            await send(message)

        try:
            await app(scope, receive if recording is None else recording.tap(receive), observed_send)
            if not status:
                raise RuntimeError(f"the app behind {path} gave no answer")
        except Exception:
            if not status:
                # Uvicorn would answer too, but without our headers.
                await PlainTextResponse("Internal Server Error", 500)(scope, receive, observed_send)
            raise
        finally:
            if not finished:
                self._metrics.count_request(path, status or 500, perf_counter() - arrived)
