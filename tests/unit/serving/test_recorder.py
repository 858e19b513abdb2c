"""The recorder keeps the same sample on both sides of a mirror, and never costs a request anything."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binom
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlflow_istio.serving.app import ServingApp, identity_headers
from mlflow_istio.serving.configuration import PayloadFields, RecordSettings
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.record_log import RecordLog
from mlflow_istio.serving.recorder import MAX_PENDING_BYTES, MAX_RECORD_BYTES, Recorder, is_sampled

REQUEST_IDS = [str(UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for number in range(5000)]


READER = {"authorization": "Bearer t"}


async def scoring(scope, receive, send):
    """Answer with what was asked, as a prediction; a body of 'no' is refused as MLflow would."""
    body = (await Request(scope, receive).body()).decode()
    refused = {"error_code": "BAD_REQUEST", "message": f"Failed to predict data {body!r}"}
    answer = JSONResponse(refused, 400) if body == "no" else JSONResponse({"predictions": [body]})
    await answer(scope, receive, send)


class Bench:
    """A serving app with its recorder."""

    def __init__(self, folder, inner, log=None, **settings):
        settings = RecordSettings(
            **{"rate": 1.0, "directory": folder, "max_bytes": 16 * 1024 * 1024, "token": "t", **settings}
        )
        self.metrics = ServerMetrics(CollectorRegistry(), deployment="churn-v2", model="churn", version="2")
        self.log = log or RecordLog(settings.directory, settings.max_bytes)
        self.recorder = Recorder(settings, self.log, self.metrics, deployment="churn-v2", model_version="churn/2")
        headers = identity_headers(model="churn", version="2", deployment="churn-v2")
        self.app = ServingApp(inner, headers=headers, metrics=self.metrics, recorder=self.recorder)

    def records(self):
        """All records, after the recorder has written what it has."""
        self.recorder.close()
        self.log.open()
        return [json.loads(line) for line in self.log.read(None, 2**30).lines]

    def dropped(self, reason):
        return self.metrics.registry.get_sample_value("mlflow_istio_records_dropped_total", {"reason": reason})


@pytest.fixture
def bench(tmp_path):
    benches = []

    def make(inner=scoring, **settings):
        benches.append(Bench(tmp_path, inner, **settings))
        return benches[-1]

    yield make
    for made in benches:
        made.recorder.close()
        made.log.close()


def score(call, bench, request_id, body=b"41", path="/invocations"):
    return call(bench.app, path, method="POST", headers={"x-request-id": request_id}, body=[body])


def test_a_record_says_who_answered_what_and_how_fast(call, bench):
    made = bench()
    score(call, made, "id-1")
    (record,) = made.records()
    assert record.pop("ms") >= 0
    assert record.pop("time") > 1.7e9
    assert re.fullmatch("[0-9a-f]{32}", record.pop("body"))
    assert record == {
        "request_id": "id-1",
        "deployment": "churn-v2",
        "model_version": "churn/2",
        "status": 200,
        "output": {"predictions": ["41"]},
    }
    assert made.metrics.registry.get_sample_value("mlflow_istio_records_total") == 1


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (PayloadFields(), {"output"}),
        (PayloadFields(input=True), {"output", "input"}),
        (PayloadFields(output=False, input=True), {"input"}),
        (PayloadFields(output=False), set()),
    ],
)
def test_only_the_chosen_parts_of_a_payload_are_kept(call, bench, fields, kept):
    made = bench(fields=fields)
    score(call, made, "id-1", b"secret")
    (record,) = made.records()
    assert record.keys() & {"output", "input"} == kept
    assert ("secret" in json.dumps(record)) is bool(kept)


def test_named_fields_are_dropped_from_both_bodies(call, bench):
    async def echo(scope, receive, send):
        await Response(await Request(scope, receive).body(), media_type="application/json")(scope, receive, send)

    made = bench(echo, fields=PayloadFields(input=True, dropped=frozenset({"age"})))
    score(call, made, "id-1", b'{"inputs": {"age": [41], "city": ["Rome"]}}')
    (record,) = made.records()
    assert record["input"] == record["output"] == {"inputs": {"city": ["Rome"]}}


def test_an_input_in_parts_is_recorded_whole(call, bench):
    made = bench(fields=PayloadFields(input=True))
    call(made.app, "/invocations", method="POST", headers={"x-request-id": "id-1"}, body=[b'{"a"', b": ", b"1}"])
    assert made.records()[0]["input"] == {"a": 1}


def test_a_refused_request_is_recorded_without_the_data_that_mlflow_quotes(call, bench):
    made = bench()
    score(call, made, "id-1", b"no")
    (record,) = made.records()
    assert (record["status"], record["output"]) == (400, {"error_code": "BAD_REQUEST"})


def test_a_model_that_falls_over_is_recorded_as_500(call, bench):
    async def failing(scope, receive, send):
        raise RuntimeError("the model fell over")

    made = bench(failing)
    score(call, made, "id-1")
    assert made.records()[0]["status"] == 500


@pytest.mark.parametrize("path", ["/ping", "/metrics", "/records", "/elsewhere"])
def test_only_invocations_are_recorded(call, bench, path):
    made = bench()
    score(call, made, "id-1", path=path)
    assert made.records() == []


def test_a_request_without_an_id_is_not_recorded_and_counted(call, bench):
    made = bench()
    assert call(made.app, "/invocations", method="POST").status == 200
    assert made.records() == []
    assert made.dropped("no_request_id") == 1


def test_both_sides_of_a_mirror_keep_the_same_requests(call, bench, tmp_path):
    stable, shadow = bench(rate=0.2), bench(rate=0.2, directory=tmp_path / "other")
    for request_id in REQUEST_IDS[:100]:
        score(call, stable, request_id)
        score(call, shadow, request_id)
    kept = [record["request_id"] for record in stable.records()]
    assert kept
    assert kept == [record["request_id"] for record in shadow.records()]


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 1.0])
def test_the_sample_has_the_size_asked_for(rate):
    kept = sum(is_sampled(request_id.encode(), rate) for request_id in REQUEST_IDS)
    low, high = binom.interval(0.999, len(REQUEST_IDS), rate) if 0 < rate < 1 else (rate * 5000, rate * 5000)
    assert low <= kept <= high


def test_a_smaller_sample_is_part_of_a_larger_one():
    small, large = ({i for i in REQUEST_IDS if is_sampled(i.encode(), rate)} for rate in (0.05, 0.3))
    assert small < large


def test_the_sample_is_the_same_in_every_release():
    """A stable server of an older release and a candidate of a newer one must agree: this choice is a contract."""
    assert [number for number in range(40) if is_sampled(b"id-%d" % number, 0.1)] == [7, 13, 24, 31, 34]


@contextmanager
def stuck(log):
    """Hold every write to the log until the end of the block."""
    release, entered = threading.Event(), threading.Event()
    append = log.append

    def wait_and_append(line):
        entered.set()
        release.wait()
        append(line)

    log.append = wait_and_append
    try:
        yield entered
    finally:
        release.set()


def test_a_disk_that_hangs_holds_up_no_request_and_bounds_the_memory(call, bench):
    async def large(scope, receive, send):
        await Response(b'"%s"' % (b"x" * (MAX_RECORD_BYTES - 1000)))(scope, receive, send)

    made = bench(large, max_bytes=64 * 1024 * 1024)
    with stuck(made.log):
        for number in range(12):
            assert score(call, made, f"id-{number}").status == 200
        held = MAX_PENDING_BYTES // (MAX_RECORD_BYTES - 998 + 512)
        assert made.dropped("backlog") == 12 - held
    assert len(made.records()) == held


def test_a_full_disk_drops_records_and_counts_them(call, bench, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder can be made here")
    made = bench(directory=blocked)
    assert score(call, made, "id-1").status == 200
    made.recorder.close()
    assert made.dropped("write_error") == 1


@pytest.mark.parametrize(
    "body",
    [b'"%s"' % (b"x" * MAX_RECORD_BYTES), b"[" * 100_000 + b"]" * 100_000, b'"%s"' % ("é" * 300_000).encode()],
    ids=["long", "nested", "long when escaped"],
)
def test_a_body_that_does_not_fit_a_record_is_dropped_and_counted(call, bench, body):
    async def answering(scope, receive, send):
        await Response(body)(scope, receive, send)

    made = bench(answering, max_bytes=4 * 1024 * 1024)
    answer = score(call, made, "id-1")
    assert answer.body == body
    score(call, made, "id-2", path="/ping")
    assert made.records() == []
    assert made.dropped("too_large") == 1


def test_records_can_be_read_over_http_a_page_at_a_time(call, bench):
    made = bench()
    score(call, made, "id-1")
    made.records()
    first = call(made.app, "/records", headers=READER).json()
    assert [record["request_id"] for record in first["records"]] == ["id-1"]
    assert first["lost_bytes"] == 0
    second = call(made.app, "/records", query=f"after={first['next']}", headers=READER).json()
    assert second == {"next": first["next"], "lost_bytes": 0, "dropped": {}, "records": []}
    assert call(made.app, "/records", query="after=0", headers=READER).json() == first


def test_copies_of_one_request_are_known_by_their_body_and_pinned_ones_by_their_header(call, bench):
    made = bench()
    for parts in ([b"41"], [b"4", b"1"], [b"42"]):
        call(made.app, "/invocations", method="POST", headers={"x-request-id": "id-1"}, body=parts)
    score(call, made, "id-2")
    pin = {"x-request-id": "id-1", "x-mlflow-deployment": "churn-v2"}
    call(made.app, "/invocations", method="POST", headers=pin, body=[b"41"])
    one, same, other, elsewhere, pinned = made.records()
    assert one["body"] == same["body"] == pinned["body"]
    assert len({one["body"], other["body"], elsewhere["body"]}) == 3
    assert [record.get("pinned") for record in (one, same, other, pinned)] == [None, None, None, True]


def test_without_a_token_nobody_reads_the_records(call, bench):
    made = bench(token=None)
    score(call, made, "id-1")
    assert call(made.app, "/records").status == 200
    assert call(made.app, "/records", headers=READER).json() == {"predictions": [""]}


def test_an_empty_log_gives_an_empty_page(call, bench):
    assert call(bench().app, "/records", headers=READER).json() == {
        "next": "0",
        "lost_bytes": 0,
        "dropped": {},
        "records": [],
    }


@pytest.mark.parametrize(
    ("method", "query", "headers", "status", "words"),
    [
        ("GET", "after=5", READER, 400, "after='5' is not the next of an earlier page"),
        ("POST", "", READER, 405, "use GET"),
    ],
)
def test_a_wrong_request_for_records_is_refused_by_name(call, bench, method, query, headers, status, words):
    made = bench()
    made.log.open()
    answer = call(made.app, "/records", method=method, query=query, headers=headers)
    assert answer.status == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("authorization", "status"), [(None, 401), ("Bearer wrong", 401), ("s3cret", 401), ("Bearer s3cret", 200)]
)
def test_a_token_keeps_strangers_from_the_records(call, bench, authorization, status):
    made = bench(token="s3cret")
    headers = {"authorization": authorization} if authorization else {}
    assert call(made.app, "/records", headers=headers).status == status
    assert call(made.app, "/metrics").status == 200
