"""One model server as a real process, on real models."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from mlflow_istio.serving.listener import bind
from tests.e2e.served_models import SAVE_MODELS, WATCHED_MODEL
from tests.support.free_ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEADLINE_SECONDS = 120
JSON_TYPE = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with the models ``sklearn``, ``lightgbm`` and ``watched``, and a registry that has ``churn/1``."""
    folder = tmp_path_factory.mktemp("models")
    watched = folder / "watched_model.py"
    watched.write_text(WATCHED_MODEL)
    saved = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAVE_MODELS, str(folder), str(watched)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert saved.returncode == 0, saved.stderr
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running model server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self.answers(), "a model server that answers")
        assert self.process.poll() is None, self.log.read_text()

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/ping", timeout=5).ok
        except requests.RequestException:  # a busy machine may accept long before it answers
            return False

    def score(self, body: str | bytes, headers: Mapping[str, str] = JSON_TYPE) -> requests.Response:
        return requests.post(f"{self.url}/invocations", data=body, headers=dict(headers), timeout=DEADLINE_SECONDS)

    def metric(self, sample: str) -> float:
        text = requests.get(f"{self.url}/metrics", timeout=60).text
        found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@contextmanager
def started(folder: Path, uri: object, *, prefix: tuple[str, ...] = (), **environment: str) -> Iterator[Server]:
    """Start a server in its own session, its log in the folder, and end it by its process id."""
    port = free_port()
    settings = {
        "MLFLOW_ISTIO_MODEL_URI": str(uri),
        "MLFLOW_ISTIO_MODEL_VERSION": "churn/2",
        "MLFLOW_ISTIO_DEPLOYMENT": "churn-v2",
        "MLFLOW_ISTIO_HOST": "127.0.0.1",
        "MLFLOW_ISTIO_PORT": str(port),
        "MLFLOW_ENV_ROOT": str(folder / "environments"),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "mlflow_istio.serving"],
            env={**inherited, **settings, **environment},
            start_new_session=True,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(process=process, port=port, log=log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def running(folder: Path, uri: object, **environment: str) -> Iterator[Server]:
    with started(folder, uri, **environment) as server:
        server.wait_ready()
        yield server


@contextmanager
def failed(folder: Path, uri: object, **environment: str) -> Iterator[tuple[int, str]]:
    """Start a server that is to give up; its exit code and the last line it wrote."""
    with started(folder, uri, **environment) as server:
        code = server.process.wait(DEADLINE_SECONDS)
        yield code, server.log.read_text().splitlines()[-1]


def example(models: Path, name: str) -> str:
    return (models / name / "serving_input_example.json").read_text()


def watched_input(hold: str = "") -> str:
    return json.dumps({"dataframe_records": [{"hold": hold}]})


@pytest.mark.parametrize("name", ["sklearn", "lightgbm"])
def test_a_model_of_any_flavor_gives_its_own_predictions(models, tmp_path, name):
    expected = json.loads((models / "expected.json").read_text())[name]
    with running(tmp_path, models / name) as server:
        answer = server.score(example(models, name))
        assert answer.json()["predictions"] == pytest.approx(expected)
        assert answer.headers["x-mlflow-model-version"] == "churn/2"


def test_every_answer_says_who_gave_it_and_is_counted(models, tmp_path):
    body = example(models, "sklearn")
    with running(tmp_path, models / "sklearn", MLFLOW_ISTIO_ACCESS_LOG="true") as server:
        answers = [
            (server.score(body), 200),
            (server.score("{}"), 400),
            (server.score("not JSON"), 400),
            (server.score(body, {"content-type": "text/html"}), 415),
            (requests.get(f"{server.url}/invocations", timeout=60), 405),
            (requests.get(f"{server.url}/nowhere", timeout=60), 404),
            (requests.get(f"{server.url}/ping", timeout=60), 200),
            (requests.get(f"{server.url}/health", timeout=60), 200),
            (requests.get(f"{server.url}/version", timeout=60), 200),
            (requests.get(f"{server.url}/metrics", timeout=60), 200),
        ]
        for answer, status in answers:
            assert answer.status_code == status, answer.url
            assert answer.headers["x-mlflow-model-version"] == "churn/2"
            assert answer.headers["x-mlflow-deployment"] == "churn-v2"
        for status, count in ((200, 1), (400, 2), (405, 1), (415, 1)):
            sample = f'mlflow_istio_requests_total{{code="{status}",path="/invocations"}}'
            assert server.metric(sample) == count
        assert server.metric('mlflow_istio_requests_total{code="404",path="other"}') == 1
        assert server.metric("mlflow_istio_invocation_seconds_count") == 5
        assert server.metric('mlflow_istio_model_info{deployment="churn-v2",model="churn",version="2"}') == 1
        assert server.metric("process_resident_memory_bytes") > 0
    assert '"GET /nowhere HTTP/1.1" 404' in server.log.read_text()


def test_a_model_that_raises_has_failed_and_a_request_it_can_not_take_is_refused(models, tmp_path):
    with running(tmp_path, models / "watched") as server:
        failed = server.score(json.dumps({"dataframe_records": [{"nothing": 1}]}))
        assert failed.status_code == 500
        assert failed.json()["error_code"] == "INTERNAL_ERROR"
        assert "stack_trace" not in failed.json()
        assert "KeyError" in server.log.read_text()
        assert failed.headers["x-mlflow-model-version"] == "churn/2"
        assert server.score(watched_input()).status_code == 200
        assert server.score("{}").status_code == 400
        assert server.metric('mlflow_istio_requests_total{code="500",path="/invocations"}') == 1
    with running(tmp_path, models / "sklearn") as server:
        unfit = server.score(json.dumps({"dataframe_records": [{"nothing": 1}]}))
        assert (unfit.status_code, unfit.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


HOSTILE = {
    "a number of 5,000 digits": b'{"dataframe_records": [{"hold": ' + b"9" * 5000 + b"}]}",
    "lists 100,000 deep": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no UTF-8": b'{"dataframe_records": [{"hold": "\xff"}]}',
    "half a surrogate pair": b'{"dataframe_records": [{"hold": "\\ud800"}]}',
    "a key twice": b'{"dataframe_records": [{"hold": "", "hold": "x"}]}',
    "a number beyond floats": b'{"dataframe_records": [{"hold": 1e999}]}',
    "half a body": b'{"dataframe_records": [',
}


def test_whoever_calls_with_what_nobody_can_read_is_refused_and_the_server_lives(models, tmp_path):
    limits = {"MLFLOW_ISTIO_MAX_BODY": str(1024 * 1024), "MLFLOW_ISTIO_CALLER_TIMEOUT": "2"}
    with running(tmp_path, models / "watched", **limits) as server:
        before = server.metric("process_resident_memory_bytes")
        answers = {name: server.score(body).status_code for name, body in HOSTILE.items()}
        assert answers == dict.fromkeys(HOSTILE, 400)
        assert server.score(watched_input(), {}).status_code == 415
        assert server.score(b"x" * (1024 * 1024 + 1)).status_code == 413
        assert _chunked(server, 200) == 413
        assert server.metric("process_resident_memory_bytes") - before < 100 * 2**20
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as slow:
            slow.sendall(
                b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
            )
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert server.score(watched_input()).status_code == 200
        assert server.metric('mlflow_istio_requests_total{code="500",path="/invocations"}') == 0


def _chunked(server: Server, megabytes: int) -> int:
    """Send a body without end in chunks, as far as the server takes it; the status of its answer."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(megabytes):
                connection.sendall(b"100000\r\n" + b"[" * 2**20 + b"\r\n")
            pytest.fail(f"{megabytes} MB were taken in")
        return int(connection.recv(4096).split()[1])


def test_a_registered_version_is_served_by_its_uri_alone(models, tmp_path):
    registry = {"MLFLOW_TRACKING_URI": f"sqlite:///{models}/registry.db", "MLFLOW_ISTIO_MODEL_VERSION": ""}
    with running(tmp_path, "models:/churn/1", **registry) as server:
        answer = server.score(example(models, "sklearn"))
        assert answer.status_code == 200
        assert answer.headers["x-mlflow-model-version"] == "churn/1"
        assert "GET /ping" not in server.log.read_text()


def test_one_replica_is_one_process(models, tmp_path):
    with running(tmp_path, models / "watched") as server:
        (prediction,) = {server.score(watched_input()).json()["predictions"]["process"] for _ in range(5)}
        assert prediction == server.process.pid
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
        assert children == ""


def test_a_stop_finishes_the_request_in_flight_and_closes_idle_connections(models, tmp_path):
    with (
        running(tmp_path, models / "watched") as server,
        ThreadPoolExecutor(1) as pool,
        closing(socket.create_connection(("127.0.0.1", server.port))) as idle,
    ):
        idle.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        slow = pool.submit(server.score, watched_input(hold=str(tmp_path)))
        wait_for(lambda: (tmp_path / "predict-entered").exists() or slow.done(), "the request to reach the model")
        assert server.metric("mlflow_istio_invocations_in_flight") == 1
        server.process.send_signal(signal.SIGTERM)
        while idle.recv(4096):
            pass
        wait_for(lambda: not server.answers(), "the server to take no new requests")
        assert server.process.poll() is None
        (tmp_path / "predict-go").touch()
        assert slow.result(DEADLINE_SECONDS).status_code == 200
        assert server.process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_with_exit_code_0(models, tmp_path, stop_signal):
    with running(tmp_path, models / "watched") as server:
        server.process.send_signal(stop_signal)
        assert server.process.wait(DEADLINE_SECONDS) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_server_that_is_loading_stops_at_once(models, tmp_path):
    with started(tmp_path, models / "watched", HOLD_LOADING=str(tmp_path)) as server:
        wait_for((tmp_path / "load-entered").exists, "the model to be loading")
        assert not server.answers()
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"MLFLOW_ISTIO_PORT": "http"}, 2, r"MLFLOW_ISTIO_PORT='http' is no whole number from 1 to 65535"),
        (
            {"MLFLOW_ISTIO_MODEL_URI": "models:/nobody/1"},
            1,
            r"model 'models:/nobody/1' can't be loaded: .*name=nobody not found",
        ),
        ({"MLFLOW_ISTIO_MODEL_URI": "/no/model"}, 1, r"model '/no/model' can't be loaded: .+"),
        (
            {"MLFLOW_ISTIO_MODEL_URI": "/no/model", "MLFLOW_ISTIO_ENV_MANAGER": "uv"},
            1,
            r"model '/no/model' can't be fetched: .+",
        ),
        (
            {"MLFLOW_ISTIO_ENV_MANAGER": "virtualenv", "PATH": "/usr/bin:/bin"},
            1,
            r"MLFLOW_ISTIO_ENV_MANAGER=virtualenv needs pyenv, which is not on the PATH: install it",
        ),
        ({"MLFLOW_ISTIO_HOST": "192.0.2.1"}, 1, r"can't listen on 192\.0\.2\.1 port \d+: Cannot assign.*"),
        (
            {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": "/dev/null/records"},
            2,
            r"MLFLOW_ISTIO_RECORD_DIR='/dev/null/records' can't be written: Not a directory",
        ),
    ],
)
def test_what_cannot_be_served_ends_in_one_line_that_says_why(models, tmp_path, environment, code, message):
    registry = {"MLFLOW_TRACKING_URI": f"sqlite:///{models}/registry.db"}
    with failed(tmp_path, models / "watched", **registry, **environment) as (exit_code, last_line):
        assert re.fullmatch(f"mlflow_istio.serving: {message}", last_line)
        assert exit_code == code


def test_a_model_that_breaks_while_loading_shows_its_traceback_and_then_why(models, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models / "sklearn", broken)
    (broken / "MLmodel").write_text(
        (broken / "MLmodel").read_text().replace("loader_module: mlflow.sklearn", "loader_module: my_lost_module")
    )
    with started(tmp_path, broken) as server:
        assert server.process.wait(DEADLINE_SECONDS) == 1
        *before, last = server.log.read_text().splitlines()
    assert last == (
        f"mlflow_istio.serving: model '{broken}' can't be loaded: ModuleNotFoundError: No module named 'my_lost_module'"
    )
    assert "Traceback (most recent call last):" in before


def test_a_taken_port_is_told_before_the_model_is_loaded(models, tmp_path):
    with closing(bind("127.0.0.1", 0)) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with failed(tmp_path, "/no/model", MLFLOW_ISTIO_PORT=port) as (code, last_line):
            assert f"can't listen on 127.0.0.1 port {port}: Address already in use" in last_line
            assert code == 1


def test_a_full_disk_costs_records_and_no_request(models, tmp_path):
    """A limit on the size of files stands in for a full disk: writing fails in the same way."""
    body = example(models, "lightgbm")
    limited = ("bash", "-c", 'ulimit -f 16 && exec "$0" "$@"')  # in units of 1,024 bytes
    recording = {
        "MLFLOW_ISTIO_RECORD": "1",
        "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / "records"),
        "MLFLOW_ISTIO_RECORD_TOKEN": "t",
    }
    with started(tmp_path, models / "lightgbm", prefix=limited, **recording) as server:
        server.wait_ready()
        for number in range(60):
            assert server.score(body, {**JSON_TYPE, "x-request-id": f"id-{number}"}).status_code == 200
        dropped = 'mlflow_istio_records_dropped_total{reason="write_error"}'
        wait_for(lambda: server.metric(dropped) + server.metric("mlflow_istio_records_total") == 60, "60 records")
        assert server.metric(dropped) > 0
        page = requests.get(f"{server.url}/records", headers={"authorization": "Bearer t"}, timeout=60).json()
        assert len(page["records"]) == server.metric("mlflow_istio_records_total") > 0
        assert page["records"][0]["output"] == server.score(body).json()
        assert server.stop() == 0


def test_replicas_share_the_environment_that_mlflow_recorded_with_the_model(models, tmp_path):
    """Two start at once and one environment is made; a half-made one is made anew; nothing of this Python is in it."""
    root = tmp_path / "environments"
    settings = {"MLFLOW_ISTIO_ENV_MANAGER": "uv"}

    def serve_and_check(count: int) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(started(tmp_path, models / "watched", **settings)) for _ in range(count)]
            for server in servers:
                server.wait_ready()
                seen = server.score(watched_input()).json()["predictions"]
                assert seen["process"] == server.process.pid
                assert Path(seen["prefix"]).parent == root / "mlflow-istio"
                assert not [folder for folder in seen["path"] if folder.startswith(sys.prefix)]
                assert server.metric('mlflow_istio_requests_total{code="200",path="/invocations"}') == 1
                assert server.stop() == 0

    serve_and_check(2)
    (ready,) = root.rglob(".mlflow-istio-ready")
    ready.unlink()
    for package in ready.parent.glob("lib/python*/site-packages/uvicorn"):
        shutil.rmtree(package)
    serve_and_check(1)
