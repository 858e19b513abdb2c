"""A server that can't record, with our recorder as a native sidecar under a real kubelet and beside Istio's injected proxies."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_istio.core.mesh.recorder_beside import CONTAINER
from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node.client import kubectl, read
from tests.node.endpoint import Endpoint, strict_namespace
from tests.node.test_images import LOOK
from tests.support.pod_processes import process_of
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

# Knows nothing of us: a port and paths of its own, and when told to end it finishes what it answers.
SOURCE = """
import http.server, json, signal, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.reply(200 if self.path == "/ready" else 404, b"")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "seconds" in asked:
            open("/tmp/asked", "w").close()
            time.sleep(asked["seconds"])
        self.reply(200, json.dumps({"outputs": [sum(asked["inputs"])]}).encode())

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

def stop(*_):
    threading.Thread(target=server.shutdown).start()

server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
server.daemon_threads = False
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
server.server_close()
"""
OPTIONS = {
    "runtime": "container",
    # Under its full name: the short one counts as no word on what runs the server.
    "image": f"docker.io/library/{DEFAULT_IMAGE}",
    "command": json.dumps(["python", "-c", SOURCE, "$PORT"]),
    "port": "9000",
    "readiness": "/ready",
    "scoring": "/score",
    "env": json.dumps({"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "output,input"}),
}
SERVER = "model-server"
PROXY = "istio-proxy"


def given(**options: str) -> list[str]:
    return [word for name, value in {**OPTIONS, **options}.items() for word in ("-C", f"{name}={value}")]


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1, and version 2 as its shadow, each with a recorder; Istio's proxy is a native sidecar of the first alone."""
    with strict_namespace("records") as name:
        made = Endpoint(name, server)
        made.deploy(1, *given())
        classic = json.dumps({"sidecar.istio.io/nativeSidecar": "false"})
        made.deploy(2, *given(annotations=classic, strategy="shadow", mirror="100"))
        yield made


def score(endpoint: Endpoint, body: Any) -> tuple[int, Any]:
    """Status and answer of one request through the gateway."""
    connection = http.client.HTTPConnection(urlsplit(os.environ["GATEWAY_URL"]).netloc, timeout=60)
    try:
        headers = {"Host": endpoint.host, "content-type": "application/json"}
        connection.request("POST", "/score", json.dumps(body), headers=headers)
        answer = connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said) if answer.status == http.client.OK else said
    finally:
        connection.close()


def pod_of(endpoint: Endpoint, version: int) -> dict[str, Any]:
    (found,) = (pod for name, pod in endpoint.pods().items() if name.startswith(f"churn-v{version}-"))
    return dict(found)


def statuses(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the kubelet says of each container, by name."""
    status = pod["status"]
    return {one["name"]: one for part in ("initContainerStatuses", "containerStatuses") for one in status.get(part, ())}


@pytest.mark.parametrize(
    ("version", "first"),
    [(1, ["istio-init", PROXY, CONTAINER]), (2, [CONTAINER, "istio-init"])],
    ids=["native", "classic"],
)
def test_the_kubelet_starts_the_recorder_before_its_server_and_keeps_it(
    endpoint: Endpoint, version: int, first: list[str]
) -> None:
    pod = pod_of(endpoint, version)
    found = statuses(pod)
    assert [one["name"] for one in pod["spec"]["initContainers"]] == first
    running = {name: found[name]["state"]["running"]["startedAt"] for name in (CONTAINER, SERVER, PROXY)}
    assert running[CONTAINER] <= running[SERVER]
    for name in running:
        assert (found[name]["ready"], found[name]["restartCount"]) == (True, 0), name


def test_the_recorder_runs_without_root_on_a_read_only_root(endpoint: Endpoint) -> None:
    (name,) = (name for name in endpoint.pods() if name.startswith("churn-v1-"))
    code = f"{LOOK}\nprint('nothing is wrong with it')"
    for container in (CONTAINER, SERVER):
        said = kubectl("exec", name, "-n", endpoint.namespace, "-c", container, "--", "python", "-c", code)
        assert "nothing is wrong with it" in said


def test_a_shadow_is_compared_by_what_both_recorders_saw(endpoint: Endpoint) -> None:
    """Records are read by the pinned routes, through the gateway and both kinds of proxies."""
    for number in range(200):
        assert score(endpoint, {"inputs": [number, 2]}) == (200, {"outputs": [number + 2]})
    said = endpoint.run("mlflow-istio", "compare", "churn", "--json", "-C", "settle=0.5", "-C", "agreement=0.9")
    found = json.loads(said)
    assert found["verdict"]["word"] == "advance", said
    assert found["figures"]["shadow/pairs"] == 200
    assert found["dropped"] == {"churn-v1": {}, "churn-v2": {}}


def test_a_recorder_that_is_killed_is_started_again_and_its_server_goes_on(endpoint: Endpoint) -> None:
    name = pod_of(endpoint, 1)["metadata"]["name"]
    os.kill(process_of(name, b"mlflow_istio.serving.beside"), signal.SIGKILL)

    def started() -> dict[str, dict[str, Any]]:
        return statuses(read("pod", name, endpoint.namespace))

    wait_for("another start", lambda: started()[CONTAINER]["restartCount"] == 1 and started()[CONTAINER]["ready"])
    wait_for("an answer", lambda: score(endpoint, {"inputs": [1, 2]}) == (200, {"outputs": [3]}))
    assert {started()[other]["restartCount"] for other in (SERVER, PROXY)} == {0}


def test_a_pod_that_goes_answers_what_it_has_and_its_recorder_ends_after_the_server(endpoint: Endpoint) -> None:
    """The answer takes longer than the pause before the server is told to end; a finalizer keeps the pod's last words."""
    pod = pod_of(endpoint, 1)
    name, where = pod["metadata"]["name"], ("-n", endpoint.namespace)
    kubectl("patch", "pod", name, *where, "--type=merge", "-p", '{"metadata": {"finalizers": ["tests.node/look"]}}')
    got: list[tuple[int, Any]] = []
    look = ("exec", name, *where, "-c", SERVER, "--", "python", "-c", "import os; print(os.path.exists('/tmp/asked'))")
    asking = threading.Thread(target=lambda: got.append(score(endpoint, {"inputs": [1, 2], "seconds": 9})))
    asking.start()
    try:
        wait_for("the request to be there", lambda: kubectl(*look).strip() == "True")
        kubectl("delete", "pod", name, *where, "--wait=false")

        def ended() -> dict[str, Any]:
            found = statuses(read("pod", name, endpoint.namespace))
            states = {
                container: found[container]["state"].get("terminated") for container in (CONTAINER, SERVER, PROXY)
            }
            return states if all(states.values()) else {}

        states = wait_for("all containers to end", ended)
    finally:
        asking.join()
        kubectl("patch", "pod", name, *where, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    assert got == [(200, {"outputs": [3]})]
    assert states[SERVER]["finishedAt"] <= states[CONTAINER]["finishedAt"] <= states[PROXY]["finishedAt"]
    assert {container: states[container]["exitCode"] for container in (SERVER, CONTAINER)} == {SERVER: 0, CONTAINER: 0}
