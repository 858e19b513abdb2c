"""A model server that can't record, in pods with a recorder beside it: shadowed, compared, promoted; nothing is lost or cut."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes import client

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput, NotReady
from mlflow_istio.ports.cluster import Address
from mlflow_istio.releases.deploying import deployments, removal
from tests.control_plane.foreign_servers import RECORDING, compared, context_of, deployed, records_of
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office
from tests.support.pod_processes import process_of
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

# Knows nothing of us: scores at a path of its own, streams for who asks for it, and finishes what it answers when told to end.
SOURCE = """
import http.server, json, signal, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.reply(200 if self.path == "/ready" else 404, b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        asked = json.loads(body)
        if not asked.get("stream"):
            self.reply(200, json.dumps({"outputs": [sum(asked["inputs"])]}).encode())
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(asked["stream"]):
            self.chunk(b"data: %d\\n\\n" % number)
            time.sleep(0.2)
        self.chunk(b"data: [DONE]\\n\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
        self.close_connection = stopping.is_set()

    def chunk(self, data):
        self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(data), data))

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = stopping.is_set()

    def log_message(self, *arguments):
        pass

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

def stop(*_):
    stopping.set()
    threading.Thread(target=server.shutdown).start()

stopping = threading.Event()
server = Server(("0.0.0.0", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
time.sleep(12)  # what streams goes on
"""
THEIRS = Runtime(
    name="theirs", command=("python", "-c", SOURCE), args=("$PORT",), port=9000, readiness="/ready", scoring="/score"
)


def asked(address: Address, body: Any) -> tuple[int, bytes, str]:
    """Status, answer and version of one request through the gateway, on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(address.url).netloc, timeout=60)
    try:
        connection.request("POST", "/score", json.dumps(body), headers=dict(address.headers))
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("x-mlflow-model-version") or ""
    finally:
        connection.close()


@contextmanager
def users(office: Office) -> Iterator[Counter[tuple[int, bytes, str]]]:
    """Three who go on asking; what they got."""
    seen: Counter[tuple[int, bytes, str]] = Counter()
    stop = threading.Event()
    address = office.cluster.address(ENDPOINT)

    def ask() -> None:
        while not stop.wait(0.01):
            try:
                seen[asked(address, {"inputs": [1, 2]})] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[0, repr(error).encode(), ""] += 1

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def pods_of(office: Office, deployment: str) -> list[Any]:
    with admin() as api:
        found = client.CoreV1Api(api).list_namespaced_pod(office.namespace, label_selector=f"version={deployment}")
        return list(found.items)


def test_a_server_that_can_not_record_is_a_shadow_that_is_compared_and_promoted(office: Office) -> None:
    deployed(office, 1, THEIRS, env=RECORDING)
    with users(office) as seen:
        with pytest.raises(InvalidInput, match="runtime 'theirs' records none: .*let both record"):
            deployed(office, 2, THEIRS, strategy="shadow", traffic_request=TrafficRequest(mirror=100))
        deployed(office, 2, THEIRS, env=RECORDING, strategy="shadow", traffic_request=TrafficRequest(mirror=100))
        found = wait_for(
            "200 pairs",
            lambda: result if (result := compared(office, "classes")).comparison.tally.pairs >= 200 else None,
        )
        assert (found.verdict.word, found.comparison.tally.agreeing) == ("advance", found.comparison.tally.pairs)
        assert found.comparison.tally.unmatched_share == 0
        office.promote()
        removal.delete(context_of(office), "m-v1")
        office.wait_for_no_pods("m-v1")
        before = seen.total()
        wait_for("more answers", lambda: seen.total() > before + 100)
    right = b'{"outputs": [3]}'
    assert set(seen) == {(200, right, "m/1"), (200, right, "m/2")}, "no request was lost"

    record = records_of(office).read(ENDPOINT, "m-v2", 1).records[-1]
    assert (record["deployment"], record["model_version"], record["status"]) == ("m-v2", "m/2", 200)
    assert (record["input"], record["output"]) == ({"inputs": [1, 2]}, {"outputs": [3]})
    assert not office.warnings


def test_a_recorder_that_is_killed_comes_back_with_its_records_and_its_server_goes_on(office: Office) -> None:
    deployed(office, 1, THEIRS, env=RECORDING)
    address = office.cluster.address(ENDPOINT)
    for _ in range(20):
        assert asked(address, {"inputs": [1, 2]})[0] == 200
    (pod,) = pods_of(office, "m-v1")

    def started() -> Any:
        (now,) = pods_of(office, "m-v1")
        (recorder,) = now.status.init_container_statuses
        (server,) = now.status.container_statuses
        return recorder, server

    wait_for("the records", lambda: len(records_of(office).read(ENDPOINT, "m-v1", 1).records) == 20)
    os.kill(process_of(pod.metadata.name, b"mlflow_istio.serving.beside"), signal.SIGKILL)
    wait_for("another start", lambda: started()[0].restart_count == 1 and started()[0].state.running)
    wait_for("an answer", lambda: asked(address, {"inputs": [1, 2]})[0] == 200)
    assert started()[1].restart_count == 0
    wait_for("old and new records", lambda: len(records_of(office).read(ENDPOINT, "m-v1", 1).records) > 20)


def test_streams_pass_and_end_before_their_pod(office: Office) -> None:
    deployed(office, 1, THEIRS, env=RECORDING, drain=30.0, replicas=1)
    got: list[tuple[int, bytes, str]] = []
    address = office.cluster.address(ENDPOINT)
    readers = [threading.Thread(target=lambda: got.append(asked(address, {"stream": 60}))) for _ in range(3)]
    for reader in readers:
        reader.start()
    time.sleep(1)
    deployments.update(context_of(office), "m-v1", env={"ANOTHER": "start"})
    assert any(reader.is_alive() for reader in readers), "they went on when the new pod was ready already"
    for reader in readers:
        reader.join()
    whole = b"".join(b"data: %d\n\n" % number for number in range(60)) + b"data: [DONE]\n\n"
    assert got == [(200, whole, "m/1")] * 3


def test_a_recorder_that_can_not_write_says_so(office: Office) -> None:
    with pytest.raises(NotReady) as found:
        deployed(office, 1, THEIRS, env={**RECORDING, "MLFLOW_ISTIO_RECORD_DIR": "/nowhere"})
    assert "MLFLOW_ISTIO_RECORD_DIR='/nowhere' can't be written" in found.value.detail
    assert pods_of(office, "m-v1") == [] or wait_for("no pods", lambda: not pods_of(office, "m-v1"))
