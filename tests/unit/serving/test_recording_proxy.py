"""The recorder in front of a server: uvicorn with an app that stands for a model server, sockets for what none would do."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mlflow_istio.serving.beside import SERVER_PORT, main, server_process
from mlflow_istio.serving.configuration import PayloadFields, RecordSettings
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.record_log import RecordLog
from mlflow_istio.serving.recorder import Recorder
from mlflow_istio.serving.recording_proxy import Caller, Passage
from mlflow_istio.serving.records_app import RecordsApp
from mlflow_istio.serving.stream_exposition import STREAM_ENDS, StreamSeries

READER = {"authorization": "Bearer t"}


class ModelServer:
    """What stands behind: echoes, streams chunk by chunk, and does what else a path says."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.gone = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.seen.append((request.method, request.url.path))
        await (await self.answer(request))(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if path == "/stream":
            return StreamingResponse(self.chunks(), media_type="text/event-stream")
        if path == "/cut":
            return StreamingResponse(self.cut(), media_type="text/event-stream; charset=utf-8")
        if path == "/sorry":
            return Response(b'data: {"n": 1}\n\ndata: {"error": "out of memory"}\n\n', media_type="text/event-stream")
        if path == "/zipped":
            encoding = {"content-encoding": "gzip"}
            return Response(gzip.compress(b"data: 1\n\n"), media_type="text/event-stream", headers=encoding)
        if path == "/health":
            return PlainTextResponse("ok" if request.method == "GET" else "", headers={"x-server": "theirs"})
        if path == "/early":
            return JSONResponse({"error": "too much"}, 413)
        body = await request.body()
        if path in ("/br", "/gzip"):
            return Response(body, headers={"content-encoding": path[1:]})
        if path == "/big":
            return Response(b"[" + b"1," * 2_000_000 + b"1]", media_type="application/json")
        return JSONResponse({"length": len(body), "echo": body[:20].decode("latin-1")})

    async def chunks(self) -> Any:
        try:
            yield 'data: {"choices": [{"delta": {"content": "one "}}]}\n\n'
            while not self.go_on.is_set():
                await asyncio.sleep(0.005)
            yield 'data: {"choices": [{"delta": {"content": "two"}}]}\n\n'
            yield "data: [DONE]\n\n"
        finally:
            self.gone.set()

    async def cut(self) -> Any:
        yield 'data: {"n": 1}\n\n'
        await asyncio.sleep(0.05)
        raise OSError("the model's memory is full")


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@contextmanager
def passing(port: int, recorder: Recorder | None, streams: StreamSeries | None = None) -> Iterator[int]:
    """The proxy in front of a port, in a thread of its own."""
    loop = asyncio.new_event_loop()
    own = {b"/records": RecordsApp(recorder.log, "t", recorder.dropped)} if recorder else {}
    passage = Passage(port=port, recorder=recorder, streams=streams, own=own)
    callers: list[Caller] = []

    def caller() -> Caller:
        callers.append(Caller(passage))
        return callers[-1]

    door = loop.run_until_complete(loop.create_server(caller, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield door.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        door.close()
        for one in callers:
            one.abort()
        loop.run_until_complete(asyncio.sleep(0.05))  # what was open is closed in the loop's next rounds
        loop.close()


class Front:
    """A model server with the proxy in front of it."""

    def __init__(self, folder: Path) -> None:
        self.model = ModelServer()
        self.metrics = ServerMetrics(CollectorRegistry(), deployment="own-v1", model="own", version="1")
        fields = PayloadFields(output=True, input=True)
        settings = RecordSettings(rate=1.0, directory=folder, max_bytes=64 * 1024 * 1024, fields=fields, token="t")
        log = RecordLog(folder, settings.max_bytes)
        log.open()
        self.recorder = Recorder(settings, log, self.metrics, deployment="own-v1", model_version="own/1")
        _, self.streams = self.metrics.of_recorder()
        self.url = ""

    def records(self, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 60
        while True:
            answer = requests.get(f"{self.url}/records", headers=READER, timeout=60)
            assert answer.status_code == 200, answer.text
            if len(answer.json()["records"]) >= count:
                return list(answer.json()["records"])
            assert time.monotonic() < deadline, answer.json()
            time.sleep(0.01)

    def told(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"mlflow_istio_recorder_{name}", labels)

    def dropped(self, reason: str) -> float | None:
        return self.metrics.registry.get_sample_value("mlflow_istio_records_dropped_total", {"reason": reason})


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    front = Front(tmp_path / "records")
    with served(front.model) as behind, passing(behind, front.recorder, front.streams) as port:
        front.url = f"http://127.0.0.1:{port}"
        yield front
    front.recorder.close()


def said(number: int, **more: str) -> dict[str, str]:
    return {"x-request-id": f"id-{number}", **more}


def test_requests_of_one_connection_pass_and_each_post_is_recorded(front: Front) -> None:
    with requests.Session() as session:
        for number in range(3):
            answer = session.post(f"{front.url}/v1/x?y=z", json={"n": number}, headers=said(number), timeout=60)
            assert answer.json() == {"length": 8, "echo": json.dumps({"n": number})}
        ready = session.get(f"{front.url}/health", timeout=60)
        assert (ready.text, ready.headers["x-server"]) == ("ok", "theirs")
        assert session.head(f"{front.url}/health", timeout=60).status_code == 200
        session.post(f"{front.url}/v1/x", data="a", headers=said(9, **{"x-mlflow-deployment": "own-v1"}), timeout=60)
    records = front.records(4)
    assert [(one["request_id"], one["status"], one["deployment"], one["model_version"]) for one in records] == [
        (f"id-{number}", 200, "own-v1", "own/1") for number in (0, 1, 2, 9)
    ]
    assert records[1]["input"] == {"n": 1}
    assert records[1]["output"] == {"length": 8, "echo": '{"n": 1}'}
    assert [one.get("pinned", False) for one in records] == [False] * 3 + [True]
    assert front.dropped("no_request_id") is None


def test_a_chunk_passes_before_the_next_one_is_there_and_the_stream_is_recorded_whole(front: Front) -> None:
    with requests.post(f"{front.url}/stream", json={}, headers=said(1), stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        assert b"one" in next(lines)
        front.model.go_on.set()  # whatever buffers would wait for ever
        rest = b"".join(lines)
    assert b"two" in rest
    (record,) = front.records(1)
    assert record["output"].count("data: ") == 3
    assert record["output"].endswith("data: [DONE]\n\n")
    assert front.told("streams_total", end="whole") == 1
    assert front.told("stream_first_chunk_seconds_count") == 1
    assert (front.told("stream_chunks_sum"), front.told("stream_chunk_seconds_count")) == (2, 1)


def test_who_pins_and_what_is_no_stream_is_in_no_figure_of_streams(front: Front) -> None:
    front.model.go_on.set()
    pinned = said(1, **{"x-mlflow-deployment": "own-v1"})
    assert requests.post(f"{front.url}/stream", headers=pinned, timeout=60).text.endswith("[DONE]\n\n")
    assert requests.post(f"{front.url}/v1/x", json={}, headers=said(2), timeout=60).ok
    assert requests.get(f"{front.url}/stream", headers=said(3), timeout=60).ok
    assert [front.told("streams_total", end=end) for end in STREAM_ENDS] == [0] * 4
    assert front.told("stream_first_chunk_seconds_count") == 0


def test_a_stream_that_its_server_breaks_off_is_the_servers_and_one_that_says_error_too(front: Front) -> None:
    with pytest.raises(requests.RequestException):
        _ = requests.post(f"{front.url}/cut", headers=said(1), timeout=60).content
    assert requests.post(f"{front.url}/sorry", headers=said(2), timeout=60).ok
    deadline = time.monotonic() + 60
    while front.told("streams_total", end="model") != 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert front.told("stream_first_chunk_seconds_count") == 2
    assert front.told("stream_chunks_count") == 0, "how long an answer is, is known of whole ones"


def test_a_compressed_stream_is_timed_by_its_first_bytes(front: Front) -> None:
    answer = requests.post(f"{front.url}/zipped", headers=said(1), timeout=60)
    assert answer.text == "data: 1\n\n"
    assert front.told("stream_first_chunk_seconds_count") == 1
    deadline = time.monotonic() + 60
    while (
        front.told("streams_total", end="whole") != 1
    ):  # whoever knows the length has the answer before its end is seen
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert front.told("stream_chunks_count") == 0


def test_a_caller_who_leaves_ends_the_stream_behind(front: Front) -> None:
    with requests.post(f"{front.url}/stream", json={}, headers=said(1), stream=True, timeout=60) as answer:
        assert b"one" in next(answer.iter_lines())
    assert front.model.gone.wait(60)
    deadline = time.monotonic() + 60
    while front.dropped("unanswered") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert front.told("streams_total", end="caller") == 1
    assert front.told("streams_total", end="model") == 0


def test_bodies_larger_than_any_buffer_pass_and_are_not_recorded(front: Front) -> None:
    body = b"x" * 5_000_000
    assert requests.post(front.url, data=body, headers=said(1), timeout=60).json()["length"] == len(body)
    pieces = iter([b"y" * 100_000] * 20)
    assert requests.post(front.url, data=pieces, headers=said(2), timeout=60).json()["length"] == 2_000_000
    answer = requests.post(f"{front.url}/big", headers=said(3), stream=True, timeout=60)
    time.sleep(0.2)  # the answer is larger than what sockets hold: the proxy waits for the caller
    assert len(answer.content) == 4_000_003
    requests.post(front.url, data=b"z", headers=said(4), timeout=60)
    assert [one["request_id"] for one in front.records(1)] == ["id-4"]
    assert front.dropped("too_large") == 3


def test_a_compressed_answer_passes_as_it_is_and_is_recorded_as_it_reads(front: Front) -> None:
    """Triton compresses whatever it answers to a caller that takes it, as most clients do."""
    body = gzip.compress(b'{"outputs": [1.0]}')
    answer = requests.post(
        f"{front.url}/gzip", data=body, headers={**said(1), "content-encoding": "gzip"}, stream=True, timeout=60
    )
    assert answer.raw.read(decode_content=False) == body
    (record,) = front.records(1)
    assert (record["input"], record["output"]) == ({"outputs": [1.0]}, {"outputs": [1.0]})


@pytest.mark.parametrize(("path", "data"), [("/gzip", b"\x1f\x8b not really"), ("/br", b"who knows")])
def test_a_compressed_answer_that_can_not_be_read_passes_as_it_is_and_is_not_recorded(
    front: Front, path: str, data: bytes
) -> None:
    answer = requests.post(f"{front.url}{path}", data=data, headers=said(1), stream=True, timeout=60)
    assert answer.raw.read(decode_content=False) == data
    deadline = time.monotonic() + 60
    while front.dropped("encoded") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_not_recorded_is_counted_where_records_are_read(front: Front) -> None:
    for number in range(2):
        requests.post(f"{front.url}/br", b"x", headers=said(number), timeout=60)
    requests.post(front.url, b"x", timeout=60)  # without an id
    page = requests.get(f"{front.url}/records", headers=READER, timeout=60).json()
    assert page["dropped"] == {"encoded": 2, "no_request_id": 1}


@contextmanager
def sidecar(server: int, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The recorder as a process of its own, before a server that it has not started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    told = {"MODEL_URI": "/model", "MODEL_VERSION": "own/1", "DEPLOYMENT": "own-v1", "HOST": "127.0.0.1"}
    told |= {"PORT": str(port), "RECORD": "1", "RECORD_DIR": str(folder), "RECORD_TOKEN": "t"}
    environ = {**os.environ, **{f"MLFLOW_ISTIO_{name}": value for name, value in told.items()}}
    command = [sys.executable, "-m", "mlflow_istio.serving.beside", f"--server-port={server}"]
    with subprocess.Popen(command, env=environ) as process:
        try:
            deadline = time.monotonic() + 60
            while _refused(url):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield process, url
        finally:
            process.kill()


def test_a_recorder_that_is_told_to_end_finishes_its_streams_and_takes_nothing_new(tmp_path: Path) -> None:
    model = ModelServer()
    with served(model) as behind, sidecar(behind, tmp_path) as (process, url), requests.Session() as idle:
        assert idle.post(url, b"x", headers=said(1), timeout=60).json()["length"] == 1
        with requests.post(f"{url}/stream", headers=said(2), stream=True, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(b"data: ")
            process.terminate()
            deadline = time.monotonic() + 60
            while not _refused(url):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert process.poll() is None
            model.go_on.set()
            assert list(lines)[-2] == b"data: [DONE]"
        assert process.wait(60) == 0
        with sidecar(behind, tmp_path) as (_, again):
            kept = requests.get(f"{again}/records", headers=READER, timeout=60).json()["records"]
    assert [record["request_id"] for record in kept] == ["id-1", "id-2"]


def _refused(url: str) -> bool:
    with socket.socket() as caller:
        return bool(caller.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))))


def test_a_recorder_tells_prometheus_of_itself_beside_what_its_server_tells(tmp_path: Path) -> None:
    with served(ModelServer()) as behind, sidecar(behind, tmp_path) as (_, url):
        requests.post(f"{url}/br", b"x", headers=said(1), timeout=60)
        told = requests.get(f"{url}/records/metrics", timeout=60).text
        assert 'mlflow_istio_records_dropped_total{reason="encoded"} 1.0' in told
        assert 'mlflow_istio_model_info{deployment="own-v1",model="own",version="1"} 1.0' in told
        assert "mlflow_istio_requests" not in told, "it is no model server"
        assert "mlflow_istio_streams" not in told
        assert 'mlflow_istio_recorder_streams_total{end="whole"} 0.0' in told
        assert "echo" in requests.get(f"{url}/metrics", timeout=60).json()


def test_the_command_or_the_port_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--server-port=1", "--", "serve"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "give either the server's command, or --server-port" in capsys.readouterr().err


def test_a_connection_that_has_read_records_goes_on_to_the_server(front: Front) -> None:
    """As a proxy's does, which keeps its connections for whoever asks next."""
    with requests.Session() as session:
        for number in range(2):
            assert session.post(front.url, b"x", headers=said(number), timeout=10).status_code == 200
            assert session.get(f"{front.url}/records", headers=READER, timeout=10).status_code == 200
        assert session.get(f"{front.url}/health", timeout=10).text == "ok"


def test_records_ask_for_their_token(front: Front) -> None:
    assert requests.get(f"{front.url}/records", timeout=60).status_code == 401
    assert requests.post(f"{front.url}/records", data=b"x", headers=READER, timeout=60).status_code == 405
    assert front.model.seen == []


def test_a_server_that_is_not_up_yet_is_a_503_and_comes_later(tmp_path: Path) -> None:
    front = Front(tmp_path / "records")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with passing(listener.getsockname()[1], front.recorder) as port:
            answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=60)
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            assert requests.post(f"http://127.0.0.1:{port}/", b"x", headers=said(1), timeout=60).status_code == 503
            assert front.recorder.dropped() == {"unanswered": 1}
            listener.listen()
            thread = threading.Thread(target=lambda: _say(listener, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
            thread.start()
            assert requests.get(f"http://127.0.0.1:{port}/health", timeout=60).text == "ok"
            thread.join()
    front.recorder.close()


@pytest.mark.parametrize(
    ("words", "gets"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "broken"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "broken"),
        (b"", "broken"),
        (b"no http at all\r\n\r\n", "broken"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok"),
    ],
)
def test_what_breaks_off_behind_breaks_off_in_front(words: bytes, gets: str, tmp_path: Path) -> None:
    """A stub of sockets, since no server does these things on purpose."""
    front = Front(tmp_path / "records")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: _say(listener, words))
        thread.start()
        with passing(listener.getsockname()[1], front.recorder) as port:
            url = f"http://127.0.0.1:{port}/"
            if gets == "broken":
                with pytest.raises(requests.RequestException):
                    requests.post(url, data=b"x", headers=said(1), timeout=60)
            else:
                assert requests.post(url, data=b"x", headers=said(1), timeout=60).text == gets
            thread.join()
    front.recorder.close()
    front.recorder.log.open()
    assert len(front.recorder.log.read(None, 2**20).lines) == (gets != "broken"), "a half answer is no record"
    assert front.recorder.dropped() == ({"unanswered": 1} if gets == "broken" else {})


def _say(listener: socket.socket, words: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        got = b""
        while not got.endswith((b"\r\n\r\n", b"\r\n\r\nx")) or (got.startswith(b"POST") and not got.endswith(b"x")):
            got += connection.recv(65536)
        connection.sendall(words)


@pytest.mark.parametrize(
    "bytes_sent", [b"\x16\x03\x01 no http\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000]
)
def test_what_is_no_request_is_refused(front: Front, bytes_sent: bytes) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        caller.sendall(bytes_sent)
        assert caller.recv(65536).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert front.model.seen == []


def test_requests_that_are_sent_ahead_are_answered_in_turn(front: Front) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    one = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na"
    last = b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nb"
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        caller.sendall(one + last)
        got = b""
        while part := caller.recv(65536):
            got += part
    assert [got.index(b'"echo":"a"') < got.index(b'"echo":"b"'), got.count(b"HTTP/1.1 200")] == [True, 2]


def test_a_caller_of_http_1_0_is_answered_until_the_end(front: Front) -> None:
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as caller:
        caller.sendall(b"POST /a HTTP/1.0\r\nx-request-id: id-1\r\ncontent-length: 1\r\n\r\na")
        got = b""
        while part := caller.recv(65536):
            got += part
    assert got.endswith(b'{"length":1,"echo":"a"}')
    assert front.records(1)[0]["output"] == {"length": 1, "echo": "a"}


def test_an_answer_before_the_body_is_there_ends_the_connection(front: Front) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"x" * 10
        yield b"y" * 10

    assert requests.post(f"{front.url}/early", data=slowly(), headers=said(1), timeout=60).status_code == 413


def test_the_servers_port_is_put_where_it_belongs_and_the_token_stays_here() -> None:
    environ = {
        "MLFLOW_ISTIO_PORT": "1",
        "MLFLOW_ISTIO_RECORD_TOKEN": "secret",
        "MLFLOW_ISTIO_RECORD": "1",
        "HTTP_PORT": SERVER_PORT,
        "MINE": SERVER_PORT,
    }
    argv, env = server_process(["python", f"--port={SERVER_PORT}", "$PORT"], environ, ["HTTP_PORT", "GONE"], 7)
    assert argv[1:] == ["--port=7", "$PORT"]
    assert Path(argv[0]).is_absolute()
    assert env == {"HTTP_PORT": "7", "MINE": SERVER_PORT, "MLFLOW_ISTIO_HOST": "127.0.0.1", "MLFLOW_ISTIO_PORT": "7"}
