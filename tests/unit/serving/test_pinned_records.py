"""Recorders of several replicas, read through one address that chooses the replica."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_istio.adapters.records import PinnedRecords
from mlflow_istio.errors import ClusterError, StateConflict
from mlflow_istio.ports.cluster import Address
from mlflow_istio.serving.record_log import RecordLog
from mlflow_istio.serving.records_app import RecordsApp


def written(folder: Path, replica: int, count: int, *, max_bytes: int = 1024 * 1024, padding: int = 0) -> RecordLog:
    """A replica's log with so many records."""
    log = RecordLog(folder / str(replica), max_bytes)
    log.open()
    for number in range(count):
        record = {"request_id": f"{replica}-{number}", "time": 1000.0 + number, "status": 200, "ms": 1.0}
        log.append(json.dumps({**record, "output": "x" * padding}).encode())
    return log


@contextmanager
def balanced(call: Callable[..., Any], *apps: RecordsApp, breaks: Sequence[int] = ()) -> Iterator[PinnedRecords]:
    """The replicas behind one address, taken in turn; none: a server that records nothing.

    Answers of these numbers break off in the middle.
    """
    turns, numbers = itertools.cycle(apps), itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 404, b"{}"
            if apps:
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = call(next(turns), parts.path, query=parts.query, headers=headers)
                status, body = answer.status, answer.body
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if next(numbers) in breaks else body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield PinnedRecords(
            lambda _endpoint: Address(url=f"http://127.0.0.1:{server.server_port}"), token=lambda _deployment: "t"
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_record_of_every_replica_comes_once(call: Callable[..., Any], tmp_path: Path) -> None:
    # More than one page each: a page has about a megabyte.
    logs = [written(tmp_path, replica, 30, max_bytes=64 * 1024 * 1024, padding=100_000) for replica in range(3)]
    with balanced(call, *(RecordsApp(log, token="t") for log in logs)) as records:
        found = records.read("m", "m-v1", 3)
    assert sorted(record["request_id"] for record in found.records) == sorted(
        f"{replica}-{number}" for replica in range(3) for number in range(30)
    )
    assert found.complete_since == 0


def test_a_replica_that_recorded_nothing_yet_is_no_trouble(call: Callable[..., Any], tmp_path: Path) -> None:
    logs = [written(tmp_path, 0, 3), written(tmp_path, 1, 0)]
    with balanced(call, *(RecordsApp(log, token="t") for log in logs)) as records:
        assert len(records.read("m", "m-v1", 2).records) == 3


def test_what_replicas_have_dropped_is_added_up(call: Callable[..., Any], tmp_path: Path) -> None:
    logs = [written(tmp_path, replica, 3) for replica in range(2)]
    counts = [{"backlog": 2, "encoded": 1}, {"backlog": 3}]
    apps = (RecordsApp(log, "t", lambda of=of: of) for log, of in zip(logs, counts, strict=True))
    with balanced(call, *apps) as records:
        assert records.read("m", "m-v1", 2).dropped == {"backlog": 5, "encoded": 1}


def test_what_rotation_took_is_told_by_the_time_of_the_first_record_left(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    log = written(tmp_path, 0, 100, max_bytes=64 * 1024, padding=2000)
    with balanced(call, RecordsApp(log, token="t")) as records:
        found = records.read("m", "m-v1", 1)
    assert 0 < len(found.records) < 100
    assert found.complete_since == found.records[0]["time"] > 1000.0


def test_a_replica_that_never_answers_is_told(call: Callable[..., Any], tmp_path: Path) -> None:
    app = RecordsApp(written(tmp_path, 0, 3), token="t")
    with balanced(call, app) as records, pytest.raises(ClusterError, match="only 1 of 2 replicas of deployment 'm-v1'"):
        records.read("m", "m-v1", 2)


def test_a_deployment_that_records_nothing_says_how_it_would(call: Callable[..., Any]) -> None:
    with balanced(call) as records, pytest.raises(StateConflict, match="records nothing.*MLFLOW_ISTIO_RECORD_DIR"):
        records.read("m", "m-v1", 1)


def test_a_token_is_asked_for_and_taken_from_the_environment(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = RecordsApp(written(tmp_path, 0, 2), token="secret-token")
    with balanced(call, app) as records, pytest.raises(ClusterError, match="set MLFLOW_ISTIO_RECORD_TOKEN"):
        records.read("m", "m-v1", 1)
    monkeypatch.setenv("MLFLOW_ISTIO_RECORD_TOKEN", "secret-token")
    with balanced(call, app) as records:
        assert len(records.read("m", "m-v1", 1).records) == 2


def test_a_page_that_breaks_off_is_asked_for_again(call: Callable[..., Any], tmp_path: Path) -> None:
    apps = [RecordsApp(written(tmp_path, replica, 40), token="t") for replica in range(2)]
    with balanced(call, *apps, breaks=(0, 2, 3)) as records:
        found = records.read("m", "m-v1", 2)
    assert sorted(record["request_id"] for record in found.records) == sorted(
        f"{replica}-{number}" for replica in range(2) for number in range(40)
    )


def test_pages_that_always_break_off_are_one_clear_line(call: Callable[..., Any], tmp_path: Path) -> None:
    app = RecordsApp(written(tmp_path, 0, 3), token="t")
    with (
        balanced(call, app, breaks=range(100)) as records,
        pytest.raises(ClusterError, match="records of deployment 'm-v1' can't be read at .*: ChunkedEncodingError"),
    ):
        records.read("m", "m-v1", 1)


def test_nobody_at_the_address_is_one_clear_line() -> None:
    records = PinnedRecords(lambda _endpoint: Address(url="http://127.0.0.1:9"))
    with pytest.raises(ClusterError, match="records of deployment 'm-v1' can't be read") as caught:
        records.read("m", "m-v1", 1)
    assert "\n" not in caught.value.message
