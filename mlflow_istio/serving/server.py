"""Runs one model server in this process: load the model, listen, answer, stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import traceback
from types import FrameType

import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from mlflow_istio.errors import NotReady
from mlflow_istio.serving.app import ServingApp, identity_headers
from mlflow_istio.serving.body_gate import BodyGate
from mlflow_istio.serving.configuration import ServingSettings
from mlflow_istio.serving.connections import patient_protocol
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.listener import bind, listen
from mlflow_istio.serving.model_failures import ModelFailures, noticing_failures
from mlflow_istio.serving.plain_errors import PlainErrors
from mlflow_istio.serving.record_log import opened_log
from mlflow_istio.serving.recorder import Recorder
from mlflow_istio.serving.streams import Streams

KEEP_ALIVE_SECONDS = 3700
"""How long an idle connection stays open. Envoy drops its own after an hour; a server that is quicker closes some of
them just when the next request is on its way, and that request fails."""

_logger = logging.getLogger("uvicorn.error")  # the logger that uvicorn's configuration sends to standard error


def run_server(settings: ServingSettings) -> None:
    """Serve until SIGTERM or SIGINT, finish the requests in flight, and return.

    Args:
        settings: What to serve; its ``env_manager`` has been dealt with.

    Raises:
        InvalidInput: The record folder can't be used.
        NotReady: The address is taken, or the model can't be loaded; a model's traceback is in ``detail``.
    """
    listener = bind(settings.host, settings.port)
    record_log = opened_log(settings.record.directory, settings.record.max_bytes) if settings.record else None
    metrics = ServerMetrics(
        REGISTRY,  # the global one, so that a model's own series and the process's are served too
        deployment=settings.deployment,
        model=settings.model_name,
        version=settings.model_version,
    )
    scoring = BodyGate(
        _load_scoring_app(settings.model_uri, metrics), max_bytes=settings.max_body, timeout=settings.caller_timeout
    )
    recorder = None
    if settings.record is not None and record_log is not None:
        recorder = Recorder(
            settings.record,
            record_log,
            metrics,
            deployment=settings.deployment,
            model_version=f"{settings.model_name}/{settings.model_version}",
        )
    headers = identity_headers(
        model=settings.model_name, version=settings.model_version, deployment=settings.deployment
    )
    _serve(ServingApp(scoring, headers=headers, metrics=metrics, recorder=recorder), listener, settings)
    if recorder is not None:
        recorder.close()


def _load_scoring_app(model_uri: str, metrics: ServerMetrics) -> ASGIApp:
    try:
        model = noticing_failures(scoring_server.load_model_with_mlflow_config(model_uri))
        app: ASGIApp = PlainErrors(ModelFailures(Streams(scoring_server.init(model), model, metrics)))
    except (MlflowException, FileNotFoundError) as error:
        raise NotReady(f"model {model_uri!r} can't be loaded: {_one_line(error)}") from error
    except Exception as error:
        # Loading runs the model's own code and, in its environment, an MLflow that may not fit the packages beside
        # it (3.1 with Starlette 1): anything can come out.
        raise NotReady(
            f"model {model_uri!r} can't be loaded: {type(error).__name__}: {_one_line(error)}",
            detail=traceback.format_exc(),
        ) from error
    return app


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _serve(app: ASGIApp, listener: socket.socket, settings: ServingSettings) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=settings.access_log,
            http=patient_protocol(settings.caller_timeout),
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # Uvicorn has its own handlers while it serves, then raises what it caught once more, to die of it. Here that
    # second signal only repeats the request to stop, so the process ends by itself, with exit code 0.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listen(listener)
    _logger.info(
        "Serving %s/%s as deployment %s on %s port %d",
        settings.model_name,
        settings.model_version,
        settings.deployment,
        settings.host,
        settings.port,
    )
    server.run(sockets=[listener])
    sys.stdout.flush()
