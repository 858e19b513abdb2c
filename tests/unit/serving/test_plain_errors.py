"""Callers are told what went wrong, not with which stack; and nothing of the pages that FastAPI makes of itself."""

from __future__ import annotations

import json
import logging

import pytest
from fastapi import FastAPI
from mlflow.exceptions import MlflowException
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse, Response

from mlflow_istio.serving.app import ServingApp
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.plain_errors import PlainErrors

TRACE = 'Traceback (most recent call last):\n  File "/opt/secret/model.py", line 1'


@pytest.mark.parametrize("status", [400, 500])
def test_an_errors_stack_goes_to_the_log_and_not_to_the_caller(call, status, caplog):
    said = {"error_code": "BAD_REQUEST", "message": "wrong", "stack_trace": TRACE}
    with caplog.at_level(logging.ERROR):
        answer = call(PlainErrors(JSONResponse(said, status)), "/invocations")
    assert (answer.status, json.loads(answer.body)) == (status, {"error_code": "BAD_REQUEST", "message": "wrong"})
    assert answer.header("content-length") == str(len(answer.body))
    assert TRACE in caplog.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"stack_trace": "an answer of a model"}', 200),
        (b"not json", 500),
        (b"[1]", 400),
        (b"[" * 5_000, 400),
        (b"", 404),
    ],
)
def test_every_other_answer_is_as_it_was(call, body, status):
    answer = call(PlainErrors(Response(body, status)), "/")
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"])
def test_the_apps_pages_about_itself_are_not_for_callers(call, path):
    scoring = FastAPI()
    assert call(scoring, path, method="GET").status == 200
    metrics = ServerMetrics(CollectorRegistry(), deployment="d", model="m", version="1")
    assert call(ServingApp(scoring, headers=(), metrics=metrics), path, method="GET").status == 404


def test_mlflows_own_errors_have_a_stack_trace_to_take_away():
    """Modelled on ``_handle_serving_error`` of mlflow 3.17's scoring server: what this is for."""
    assert "stack_trace" in json.loads(MlflowException("x", stack_trace=TRACE).serialize_as_json())
