"""What dies during a release on the real thing, under load: model servers, gateways, the driver, kubelet and istiod. No request is
lost by it (`losses.py` says which count)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node.client import gateway_pod, gateway_pods, kubectl
from tests.node.endpoint import Endpoint, strict_namespace
from tests.node.losses import Load
from tests.support.callers import calling
from tests.support.pod_processes import process_of
from tests.testbed.client import Testbed, wait_for

pytestmark = [pytest.mark.node, pytest.mark.node_long, pytest.mark.timeout(900)]

GATEWAY = ("deployment/istio-ingressgateway", "-n", "istio-system")
ISTIOD = ("deployment/istiod", "-n", "istio-system")
# By Istio's own default a 503 is no reason to ask another replica, and one comes from the proxy beside a server that died, until
# the mesh knows that it did: without this, 17 of 2,600 requests were lost by the two servers. Five attempts, not two: of two
# replicas the dead one has less to do, so that it is chosen again and again (with two attempts, 1 of 4,672 was lost while no
# kubelet said that it is dead).
RETRIES = {"attempts": 5, "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503"}
SERVER, PROXY, DISCOVERY = b"mlflow_istio.serving", b"envoy", b"pilot-discovery"
# Dies of each question, as one does of a request that takes all memory.
FRAGILE = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        os._exit(1)

http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
STRATEGIES = {
    "blue-green": (),
    "shadow": ("-C", "mirror=100"),
}


@pytest.fixture(scope="module")
def gateways() -> Iterator[None]:
    """Two gateways."""
    kubectl("scale", *GATEWAY, "--replicas=2")
    kubectl("rollout", "status", *GATEWAY, "--timeout=100s")
    yield
    kubectl("scale", *GATEWAY, "--replicas=1")


@pytest.fixture
def namespace(gateways: None, own_server: str) -> Iterator[Endpoint]:
    """Nothing yet, behind two gateways, in a namespace of STRICT mTLS, with a registry of its own."""
    kubectl("rollout", "status", *GATEWAY, "--timeout=100s")
    with strict_namespace("chaos") as name:
        yield Endpoint(name, own_server)


@pytest.fixture
def endpoint(namespace: Endpoint) -> Endpoint:
    """Version 1 with two replicas."""
    namespace.deploy(1, "-C", "replicas=2")
    namespace.move(f"retries={json.dumps(RETRIES)}")
    return namespace


def pods_of(endpoint: Endpoint, version: int) -> list[str]:
    return [name for name in endpoint.pods() if name.startswith(f"churn-v{version}-")]


def is_ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def figures() -> str:
    return f"http://{gateway_pod()['status']['podIP']}:15090"


@contextmanager
def driving(
    endpoint: Endpoint, log: Path, *, steps: str, hold: int, analysis: str = '[{"guard": "errors", "allowed": 0.3}]'
) -> Iterator[subprocess.Popen[bytes]]:
    """A release of version 2 in a process of its own."""
    with log.open("wb") as output:
        driver = subprocess.Popen(
            endpoint.command(
                *("mlflow-istio", "release", "churn", "models:/churn/2", "--metrics", "envoy", "--steps", steps),
                *("--interval", "1", "--hold", str(hold), "--warmup", "1", "--phase", "2"),
                *("--analysis", analysis),
                *("-C", "replicas=2", "-C", f"envoy_url={figures()}"),
            ),
            env=endpoint.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield driver
        finally:
            driver.kill()
            driver.wait()


def wait_for_users(load: Load, log: Path) -> None:
    """Of the candidate."""
    wait_for(f"the candidate's users: {log}", lambda: any(who == "churn-v2" for who, _ in load.answers), 300)


def test_servers_a_gateway_and_the_driver_die_during_one_canary(endpoint: Endpoint, tmp_path: Path) -> None:
    load, log = Load(endpoint), tmp_path / "driver.log"
    with calling(load.ask, workers=4, seconds=500):
        load.goes_on()
        with driving(endpoint, log, steps="50", hold=5):
            wait_for_users(load, log)
        load.goes_on()

        load.kill(pods_of(endpoint, 2)[0], SERVER)
        load.goes_on()
        load.kill(pods_of(endpoint, 1)[0], SERVER)
        load.goes_on()
        load.kill(gateway_pods()[1]["metadata"]["name"], PROXY)
        load.goes_on()
        said = endpoint.run(
            "mlflow-istio", "resume", "churn", "--force", "--metrics", "envoy", "-C", f"envoy_url={figures()}"
        )
        load.goes_on()
    assert "promoted" in said
    print(load)
    assert load.lost == []
    assert endpoint.ask(20) == {"churn-v2": 20}


def test_a_release_goes_on_when_the_kubelet_and_istiod_die_and_waits_while_istiod_is_away(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """While the kubelet is away a server dies, which nobody starts again. While istiod is away the next step is due.

    Nothing is compared: a gateway that hears of the step seconds late, since it has to find istiod again, leaves shares that don't
    fit the weights, and a release that compares waits for some thousands of requests until they do.
    """
    bed, load, log = Testbed.of_this_process(), Load(endpoint), tmp_path / "driver.log"
    with (
        calling(load.ask, workers=4, seconds=700),
        driving(endpoint, log, steps="30,60", hold=25, analysis="none") as driver,
    ):
        wait_for_users(load, log)
        bed.kill("kubelet")
        load.goes_on()
        load.kill(pods_of(endpoint, 1)[0], SERVER)
        load.goes_on()
        bed.start("kubelet")

        (istiod,) = json.loads(kubectl("get", "pods", "-n", "istio-system", "-l", "app=istiod", "-o", "json"))["items"]
        os.kill(process_of(istiod["metadata"]["name"], DISCOVERY), signal.SIGKILL)
        load.goes_on()
        kubectl("rollout", "status", *ISTIOD, "--timeout=100s")
        assert driver.poll() is None, log.read_text()

        kubectl("scale", *ISTIOD, "--replicas=0")
        try:
            wait_for("a word on it", lambda: "trying again" in log.read_text())
            (said,) = (line for line in log.read_text().splitlines() if "trying again" in line)
            assert "istiod" in said, "the webhook's own words"
            load.goes_on()
            assert driver.poll() is None, log.read_text()
        finally:
            kubectl("scale", *ISTIOD, "--replicas=1")
        assert driver.wait(timeout=300) == 0, log.read_text()
        load.goes_on()
    print(load)
    print(log.read_text())
    assert load.lost == []
    assert endpoint.ask(20) == {"churn-v2": 20}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_servers_and_a_gateway_die_under_other_strategies(endpoint: Endpoint, strategy: str) -> None:
    load = Load(endpoint)
    with calling(load.ask, workers=4, seconds=500):
        endpoint.deploy(2, "-C", "replicas=2", "-C", f"strategy={strategy}", *STRATEGIES[strategy])
        load.goes_on()
        load.kill(pods_of(endpoint, 2)[0], SERVER)
        load.goes_on()
        load.kill(pods_of(endpoint, 1)[0], SERVER)
        load.goes_on()
        endpoint.move("action=promote")
        load.kill(gateway_pods()[1]["metadata"]["name"], PROXY)
        load.goes_on()
        assert load.answers[-1][0] == "churn-v2"
        wait_for("the servers to be there again", lambda: all(map(is_ready, endpoint.pods().values())))
        load.kill(pods_of(endpoint, 2)[1], SERVER)
        load.goes_on()
        endpoint.run("mlflow-istio", "rollback", "churn", "--reason", "to see it")
        load.goes_on()
    print(strategy, load)
    assert load.lost == []
    assert endpoint.ask(20) == {"churn-v1": 20}


@pytest.mark.parametrize(("retries", "died"), [(None, 1), (RETRIES, 3)], ids=["istios-default", "503"])
def test_a_request_that_kills_a_server_is_given_to_others_where_a_503_is_retried(
    namespace: Endpoint, retries: dict[str, Any] | None, died: int
) -> None:
    """So it is asked for, and no default: whoever asks for it has requests that may be carried out more than once."""
    options = {
        "runtime": "container",
        "image": f"docker.io/library/{DEFAULT_IMAGE}",
        "command": json.dumps(["python", "-c", FRAGILE, "$PORT"]),
        "port": "9000",
        "readiness": "/",
        "replicas": "3",
    }
    namespace.deploy(1, *(word for name, value in options.items() for word in ("-C", f"{name}={value}")))
    if retries:
        namespace.move(f"retries={json.dumps(retries)}")
    assert namespace.ask(1) == {"503": 1}

    def restarts() -> int:
        found = [one for pod in namespace.pods().values() for one in pod["status"]["containerStatuses"]]
        return sum(one["restartCount"] for one in found if one["name"] == "model-server")

    wait_for("the servers to start again", lambda: restarts() >= died)
    kubectl("rollout", "status", "deployment/churn-v1", "-n", namespace.namespace, "--timeout=100s")
    assert restarts() == died
