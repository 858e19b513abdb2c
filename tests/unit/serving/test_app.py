"""Every answer says who gave it and is counted, whatever the app inside does."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse, StreamingResponse

from mlflow_istio.serving.app import ServingApp, identity_headers
from mlflow_istio.serving.exposition import ServerMetrics

HEADERS = identity_headers(model="churn", version="2", deployment="churn-v2")


async def answering(scope, receive, send):
    """Answer 200 to /invocations and /ping, 404 to the rest."""
    known = scope["path"] in ("/invocations", "/ping")
    await PlainTextResponse("ok" if known else "no", 200 if known else 404)(scope, receive, send)


async def silent(scope, receive, send):
    """Return without an answer."""


async def failing(scope, receive, send):
    raise RuntimeError("the model fell over")


async def failing_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("the model fell over")


@pytest.fixture
def metrics():
    return ServerMetrics(CollectorRegistry(), deployment="churn-v2", model="churn", version="2")


def requests_total(metrics, **labels):
    return metrics.registry.get_sample_value("mlflow_istio_requests_total", labels)


@pytest.mark.parametrize(
    ("inner", "path", "status"),
    [
        (answering, "/invocations", 200),
        (answering, "/ping", 200),
        (answering, "/nowhere", 404),
        (answering, "/metrics", 200),
        (failing, "/invocations", 500),
        (failing_late, "/invocations", 200),
        (silent, "/invocations", 500),
    ],
)
def test_every_answer_carries_version_and_deployment(call, metrics, inner, path, status):
    answer = call(ServingApp(inner, headers=HEADERS, metrics=metrics), path)
    assert answer.status == status
    assert answer.header("x-mlflow-model-version") == "churn/2"
    assert answer.header("x-mlflow-deployment") == "churn-v2"


@pytest.mark.parametrize("inner", [failing, failing_late])
def test_an_error_inside_still_reaches_the_servers_log(call, metrics, inner):
    answer = call(ServingApp(inner, headers=HEADERS, metrics=metrics), "/invocations")
    assert str(answer.error) == "the model fell over"


def test_headers_of_the_answer_are_kept(call, metrics):
    answer = call(ServingApp(answering, headers=HEADERS, metrics=metrics), "/invocations")
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    assert answer.body == b"ok"


@pytest.mark.parametrize("model", ["churn", "Größe 2 %", "a\r\nx-evil: 1", "取引", " a blank", "x" * 250])
def test_any_model_name_makes_a_header_from_which_it_can_be_read_back(model):
    ((_, value), _) = identity_headers(model=model, version="2", deployment="v2")
    assert all(32 <= byte < 127 for byte in value)
    assert value == value.strip()  # HTTP takes blanks at the ends away
    assert unquote(value.decode("ascii")) == f"{model}/2"


def test_requests_are_counted_by_path_and_status(call, metrics):
    app = ServingApp(answering, headers=HEADERS, metrics=metrics)
    for path in ("/invocations", "/invocations", "/ping", "/a", "/b"):
        call(app, path)
    assert requests_total(metrics, path="/invocations", code="200") == 2
    assert requests_total(metrics, path="/ping", code="200") == 1
    assert requests_total(metrics, path="other", code="404") == 2
    assert requests_total(metrics, path="/a", code="404") is None


@pytest.mark.parametrize(("inner", "code"), [(failing, "500"), (failing_late, "200"), (silent, "500")])
def test_requests_that_break_are_counted_once(call, metrics, inner, code):
    call(ServingApp(inner, headers=HEADERS, metrics=metrics), "/invocations")
    assert requests_total(metrics, path="/invocations", code=code) == 1


def test_only_invocations_are_timed(call, metrics):
    app = ServingApp(answering, headers=HEADERS, metrics=metrics)
    for path in ("/invocations", "/ping", "/metrics"):
        call(app, path)
    assert metrics.registry.get_sample_value("mlflow_istio_invocation_seconds_count") == 1


def test_a_streamed_answer_is_counted_at_its_end(call, metrics):
    async def streaming(scope, receive, send):
        async def parts():
            yield b"a"
            assert requests_total(metrics, path="/invocations", code="200") is None
            yield b"b"

        await StreamingResponse(parts())(scope, receive, send)

    async def drained(scope, receive, send):
        async def no_disconnect():
            await asyncio.Event().wait()

        await streaming(scope, no_disconnect, send)

    assert call(ServingApp(drained, headers=HEADERS, metrics=metrics), "/invocations").body == b"ab"
    assert requests_total(metrics, path="/invocations", code="200") == 1


def test_invocations_in_flight_go_up_and_down(call, metrics):
    seen = []

    async def looking(scope, receive, send):
        seen.append(metrics.registry.get_sample_value("mlflow_istio_invocations_in_flight"))
        await answering(scope, receive, send)

    app = ServingApp(looking, headers=HEADERS, metrics=metrics)
    call(app, "/invocations")
    call(app, "/ping")
    assert seen == [1, 0]
    call(ServingApp(failing, headers=HEADERS, metrics=metrics), "/invocations")
    assert metrics.registry.get_sample_value("mlflow_istio_invocations_in_flight") == 0


def test_the_model_is_told_to_prometheus(call, metrics):
    body = call(ServingApp(answering, headers=HEADERS, metrics=metrics), "/metrics").body.decode()
    assert 'mlflow_istio_model_info{deployment="churn-v2",model="churn",version="2"} 1.0' in body


def test_records_are_not_served_when_nothing_is_recorded(call, metrics):
    assert call(ServingApp(answering, headers=HEADERS, metrics=metrics), "/records").status == 404


def test_lifespan_messages_reach_the_app_inside(metrics):
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope["type"])

    async def nothing():
        raise AssertionError("not to be called")

    asyncio.run(ServingApp(inner, headers=HEADERS, metrics=metrics)({"type": "lifespan"}, nothing, nothing))
    assert seen == ["lifespan"]
