"""What a release does for callers inside the mesh, asked from a pod with an injected sidecar: rules, routes, faults, arms."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import requests

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node.client import apply, kubectl, pod, shell
from tests.node.endpoint import SLEEP, Endpoint, strict_namespace
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

# Says what it was told in a header of the request.
SERVER = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.reply(b"")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.reply(json.dumps({"outputs": [sum(asked["inputs"])]}).encode())

    def reply(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-told", self.headers.get("x-tenant", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
OPTIONS = {
    "runtime": "container",
    "image": f"docker.io/library/{DEFAULT_IMAGE}",
    "command": json.dumps(["python", "-c", SERVER, "$PORT"]),
    "port": "9000",
    "readiness": "/",
    "scoring": "/score",
    "env": json.dumps({"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_FIELDS": "output"}),
}
BODY = '{"inputs": [1, 2]}'
JSON = {"content-type": "application/json"}
# Asks once for each set of headers, each time on a connection of its own.
ASK = f"""
import json, sys, urllib.request
found = []
for headers in json.loads(sys.argv[2]):
    request = urllib.request.Request(sys.argv[1], data={BODY.encode()!r}, headers={{**{JSON!r}, **headers}})
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    found.append([answer.status, {{name.lower(): value for name, value in answer.headers.items()}}])
print(json.dumps(found))
"""
OLD, NEW = "churn/1", "churn/2"
STAFF = {"x-user": "staff-7"}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]

    @property
    def version(self) -> str:
        return self.headers.get("x-mlflow-model-version", "")


class Inside:
    """A pod of the mesh that calls the endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def ask(self, *requests: Mapping[str, str]) -> list[Answer]:
        command = ("python", "-c", ASK, f"http://{self._endpoint.host}/score", json.dumps(requests))
        return [Answer(*one) for one in json.loads(shell(self._endpoint.namespace, "inside", *command))]

    def versions(self, *requests: Mapping[str, str]) -> list[str]:
        return [one.version for one in self.ask(*requests)]


def at_gateway(endpoint: Endpoint, headers: Mapping[str, str]) -> Answer:
    answer = requests.post(
        f"{os.environ['GATEWAY_URL']}/score",
        data=BODY,
        headers={"Host": endpoint.host, **JSON, **headers},
        timeout=60,
    )
    return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()})


def moved(endpoint: Endpoint, **options: Any) -> None:
    words = [word for name, value in options.items() for word in ("-C", f"{name}={value}")]
    endpoint.run("mlflow", "deployments", "update-endpoint", "--endpoint", "churn", *words)


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 has the traffic, version 2 stands beside it."""
    with strict_namespace("inside") as name:
        apply(pod(name, "inside", DEFAULT_IMAGE, SLEEP, labels={"app": "shop"}))
        made = Endpoint(name, server)
        for version in (1, 2):
            made.deploy(version, *(word for option, value in OPTIONS.items() for word in ("-C", f"{option}={value}")))
        kubectl("wait", "--for=condition=Ready", "pod/inside", "-n", name, "--timeout=100s")
        yield made


@pytest.fixture(scope="module")
def inside(endpoint: Endpoint) -> Inside:
    return Inside(endpoint)


@pytest.fixture
def released(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The release that a test opens is aborted."""
    yield endpoint
    endpoint.run("mlflow-istio", "abort", "churn", "--reason", "the test is over")


def test_header_rules_of_the_endpoint_and_of_a_version_hold_for_them(endpoint: Endpoint, inside: Inside) -> None:
    rules = {"request": {"set": {"x-tenant": "a"}}, "response": {"set": {"x-team": "risk"}}}
    endpoint.run("mlflow-istio", "policy", "churn", "--headers", json.dumps(rules))
    arm = {"response": {"set": {"x-arm": "old"}}}
    endpoint.run("mlflow-istio", "policy", "churn", "--subset", "churn-v1", "--headers", json.dumps(arm))

    def seen() -> list[str | None]:
        (answer,) = inside.ask({})
        return [answer.headers.get(name) for name in ("x-told", "x-team", "x-arm")]

    wait_for("the rules", lambda: seen() == ["a", "risk", "old"])
    endpoint.run("mlflow-istio", "policy", "churn", "--headers", "none")
    endpoint.run("mlflow-istio", "policy", "churn", "--subset", "churn-v1", "--headers", "none")
    wait_for("their end", lambda: seen() == ["", None, None])


def test_a_route_by_the_callers_labels_and_a_fault_are_theirs_and_no_pin_without_its_key(
    endpoint: Endpoint, inside: Inside
) -> None:
    match = json.dumps({"sourceLabels": {"app": "shop"}, "headers": {"x-user": {"prefix": "staff-"}}})
    endpoint.run("mlflow-istio", "route", "churn", "--to", "churn-v2", "--name", "staff", "--match", match)
    wait_for("the route", lambda: inside.versions(STAFF) == [NEW])
    assert inside.versions({}, {"x-user": "ann"}) == [OLD, OLD]
    assert at_gateway(endpoint, STAFF).version == OLD, "whoever has no such labels"
    endpoint.run("mlflow-istio", "route", "churn", "--remove", "staff")

    fault = ("--abort", "503", "--percentage", "100", "--ttl", "5m", "--match", '{"headers": {"x-user": "ann"}}')
    endpoint.run("mlflow-istio", "fault", "churn", *fault)
    wait_for("the fault", lambda: inside.ask({"x-user": "ann"})[0].status == 503)
    assert [one.status for one in inside.ask({}, STAFF)] == [200, 200]
    endpoint.run("mlflow-istio", "fault", "churn", "--end")
    wait_for("its end", lambda: inside.ask({"x-user": "ann"})[0].status == 200)

    assert inside.versions({"x-mlflow-deployment": "churn-v2"}) == [OLD]


def test_users_inside_the_mesh_stay_on_their_arm_wherever_they_ask(released: Endpoint, inside: Inside) -> None:
    moved(released, strategy="ab", candidate="churn-v2", weight="50", cookie="arm")
    wait_for("cookies", lambda: "set-cookie" in inside.ask({})[0].headers)
    seen = inside.ask(*[{}] * 60)
    assert set(Counter(one.version for one in seen)) == {OLD, NEW}
    users = [(one.version, {"cookie": one.headers["set-cookie"].partition(";")[0]}) for one in seen]
    assert inside.versions(*(cookie for _, cookie in users for _ in range(3))) == [
        version for version, _ in users for _ in range(3)
    ]
    for version, cookie in users[:10]:
        assert at_gateway(released, cookie).version == version


def test_arms_that_callers_name_are_theirs(released: Endpoint, inside: Inside) -> None:
    values = json.dumps({"churn-v1": "a", "churn-v2": "b"})
    moved(released, strategy="ab", candidate="churn-v2", header="x-arm", values=values)
    wait_for("the arms", lambda: inside.versions({"x-arm": "b"}) == [NEW])
    assert inside.versions({"x-arm": "a"}, {"x-arm": "b"}, {}) == [OLD, NEW, OLD]


def test_copies_of_what_they_ask_reach_the_shadow_and_are_compared(released: Endpoint, inside: Inside) -> None:
    moved(released, strategy="shadow", candidate="churn-v2", mirror="100")
    (shadow,) = (name for name in released.pods() if name.startswith("churn-v2-"))
    look = (
        "import pathlib; files = pathlib.Path('/tmp/mlflow-istio/records').rglob('*');"
        " print(sum(one.stat().st_size for one in files if one.is_file()))"
    )

    def recorded() -> int:
        return int(kubectl("exec", shadow, "-n", released.namespace, "-c", "recorder", "--", "python", "-c", look))

    before = recorded()
    # The sidecar may hear of the shadow later than the gateway, which has proved it.
    wait_for("the first copies", lambda: inside.ask({}) and recorded() > before)
    assert set(inside.versions(*[{}] * 200)) == {OLD}
    found = json.loads(
        released.run("mlflow-istio", "compare", "churn", "--json", "-C", "settle=0.5", "-C", "agreement=0.9")
    )
    assert found["verdict"]["word"] == "advance", found
    assert found["figures"]["shadow/pairs"] >= 200
