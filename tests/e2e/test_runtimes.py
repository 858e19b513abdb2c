"""Another model server than ours, released on real Envoy: the one that MLflow itself ships, which knows nothing of us."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from mlflow.deployments import get_deploy_client

from mlflow_istio.client.errors import IstioDeploymentError

pytestmark = pytest.mark.e2e

THEIRS = {
    "runtime": "container",
    "command": ["python", "-m", "mlflow", "models", "serve", "-m", "$MODEL", "-p", "$PORT", "--env-manager", "local"],
    "readiness": "/ping",
    "env": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},  # it starts uvicorn by its name
}


def test_another_server_is_released_under_load_and_its_answers_say_who_they_are(own_mesh: str) -> None:
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=THEIRS)
    url = client.get_endpoint("churn")["scoring_url"]
    seen: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.wait(0.01):
                answer = session.post(url, json={"inputs": [[1.0, 2.0]]}, timeout=60)
                seen[answer.status_code, answer.headers.get("x-mlflow-model-version", "none")] += 1

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**THEIRS, "strategy": "canary", "weight": 50}
        )
        before = sum(seen.values())
        while sum(seen.values()) < before + 100 and all(caller.is_alive() for caller in callers):
            stop.wait(0.1)
        client.rollback("churn")
        client.delete_deployment("churn-v2")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"churn/1", "churn/2"}
    assert client.predict(deployment_name="churn-v1", inputs={"inputs": [[1.0, 2.0]]}) == {"predictions": [1.0]}


def test_a_server_that_does_not_come_up_or_can_not_be_asked_alike_changes_nothing(own_mesh: str) -> None:
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
    mute = {"runtime": "container", "command": ["sleep", "60"], "readiness": "/ping", "ready_timeout": 2}
    with pytest.raises(
        IstioDeploymentError,
        match=r"it must answer GET /ping with 200 at 127\.0\.0\.1 \(\$HOST\), at the port \$PORT, which neither its command nor "
        "'args' nor the profile's 'env' says; it was taken away again and no traffic has changed",
    ):
        client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config=mute)
    with pytest.raises(
        IstioDeploymentError, match="is asked at /score, but callers of endpoint 'churn' ask at /invocations"
    ):
        client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={**mute, "scoring": "/score"})
    assert [one["name"] for one in client.list_deployments("churn")] == ["churn-v1"]


def test_a_server_that_can_not_record_is_a_shadow_with_a_recorder_in_front_of_it(own_mesh: str, tmp_path: Path) -> None:
    client = get_deploy_client(own_mesh)

    def recording(version: int) -> dict[str, object]:
        env = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / f"records-{version}")}
        return {**THEIRS, "env": {**THEIRS["env"], **env}}  # type: ignore[dict-item]

    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=recording(1))
    with pytest.raises(IstioDeploymentError, match="records none: .* let both record"):
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**THEIRS, "strategy": "shadow"}
        )
    client.create_deployment(
        "churn-v2", "models:/churn/2", endpoint="churn", config={**recording(2), "strategy": "shadow"}
    )
    url = client.get_endpoint("churn")["scoring_url"]
    time.sleep(0.3)  # what comes within settle (0.2 s) of a shadow's beginning is not compared
    with requests.Session() as session:
        for _ in range(60):
            answer = session.post(url, json={"inputs": [[1.0, 2.0]]}, timeout=60)
            assert (answer.json(), answer.headers["x-mlflow-model-version"]) == ({"predictions": [1.0]}, "churn/1")
    deadline = time.monotonic() + 60
    # Nobody waits for a mirrored request, nor sends it again.
    while (found := client.compare("churn", answers="numbers", settle=0.2))["figures"]["shadow/compared"] < 58:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found["figures"]["shadow/difference"] == pytest.approx(1.0), "version 1 answers 1.0, version 2 answers 2.0"
    assert found["verdict"]["word"] == "rollback"
    row = found["most_different"][0]
    assert (row["stable_output"], row["candidate_output"]) == ({"predictions": [1.0]}, {"predictions": [2.0]})

    recorders = _running("serving.beside", str(tmp_path))
    assert len(recorders) == 2
    client.abort("churn")
    client.delete_endpoint("churn")
    assert _running("models\0serve", str(tmp_path)) == [], "servers end with their recorders"


def _running(*parts: str, but: str = "nothing of the kind") -> list[int]:
    """Processes whose commands have these parts, and not the other."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(part in argv for part in parts) and but not in argv:
            found.append(int(process.name))
    return found


STREAMING = """
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["path"] == "/stream":
        for number in range(20):
            await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % number, "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
"""


def test_streams_pass_the_recorder_one_by_one_and_end_before_their_server(own_mesh: str, tmp_path: Path) -> None:
    (tmp_path / "streaming.py").write_text(STREAMING)
    client = get_deploy_client(own_mesh)
    serve = ["python", "-m", "uvicorn", "streaming:app", "--app-dir", str(tmp_path), "--port", "$PORT"]
    env = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / "records")}
    config = {"runtime": "container", "command": serve, "readiness": "/ok", "scoring": "/stream", "env": env}
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config={**config, "drain": 60})
    url = client.get_endpoint("churn")["scoring_url"]

    def read() -> tuple[list[bytes], float]:
        with requests.Session() as session:
            session.trust_env = False
            with session.post(url, json={}, stream=True, timeout=60) as answer:
                lines = answer.iter_lines()
                first = next(lines)
                begun = time.monotonic()
                started.set()
                return [first, *filter(None, lines)], time.monotonic() - begun

    whole = [b"data: %d" % number for number in range(20)] + [b"data: [DONE]"]
    started = threading.Event()
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        assert started.wait(60)
        client.update_deployment("churn-v1", config={"env": {**env, "ANOTHER": "start"}})  # its process is replaced
        lines, seconds = reader.result(timeout=120)
    assert lines == whole
    assert seconds > 0.5, "the first chunk came long before the last, which two seconds of pauses part"

    (recorder,) = _running("serving.beside", str(tmp_path))
    (server,) = _running("-m\0uvicorn\0streaming:app", str(tmp_path), but="serving.beside")
    os.kill(recorder, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline, "a server outlives its recorder"
        time.sleep(0.05)
    while True:  # the supervisor starts both again
        try:
            assert read()[0] == whole
            break
        except (requests.RequestException, AssertionError, StopIteration):
            assert time.monotonic() < deadline
            time.sleep(0.2)


# It plays the unlucky moment: of a connection that was idle for a second it takes the next request, and closes without an answer.
CLOSING = """
import socketserver, sys, time

class Closing(socketserver.StreamRequestHandler):
    def handle(self):
        asked = time.monotonic()
        while (line := self.rfile.readline()):
            length = 0
            while (header := self.rfile.readline().strip()):
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            if time.monotonic() - asked > 1:
                return
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
            asked = time.monotonic()

socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Closing).serve_forever()
"""


@pytest.mark.parametrize(("keep_alive", "statuses"), [(1, {200}), (0, {200, 503})])
def test_no_request_meets_the_end_of_a_connection_that_its_server_closes_soon(
    own_mesh: str, tmp_path: Path, keep_alive: int, statuses: set[int]
) -> None:
    (tmp_path / "closing.py").write_text(CLOSING)
    profile = tmp_path / "closing.yaml"
    command = json.dumps(["python", str(tmp_path / "closing.py"), "$PORT"])
    profile.write_text(
        f"{{name: closing, command: {command}, readiness: /, scoring: /score, keep_alive: {keep_alive}}}"
    )
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config={"runtime": str(profile)})
    url = client.get_endpoint("churn")["scoring_url"]
    seen = set()
    with (
        requests.Session() as session
    ):  # one connection: each of Envoy's workers has connections to the server of its own
        for _ in range(4):
            seen.add(session.post(url, json={}, timeout=60).status_code)
            time.sleep(1.3)
    assert seen == statuses
