"""A canary whose pods have injected sidecars, in a namespace of STRICT mTLS, and what a real Istio gateway counts of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.core.analysis.measures import REQUESTS
from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.control_plane.namespaces import fresh_namespace, give_least_rights, kubeconfig
from tests.node.client import apply, environment, gateway_pod, kubectl, pod, read, shell
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

BODY = json.dumps({"dataframe_records": [{"tenure": 3.0, "calls": 12.0, "spend": 30.5}]})
JSON = {"content-type": "application/json"}
# Asks from inside the mesh and prints which deployment answered how often; a failure counts by its name.
ASK = f"""
import collections, sys, urllib.request
seen = collections.Counter()
for _ in range(int(sys.argv[2])):
    request = urllib.request.Request(sys.argv[1], data={BODY.encode()!r}, headers={JSON!r})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            seen[answer.headers.get("x-mlflow-deployment", "?")] += 1
    except urllib.error.HTTPError as error:
        seen[str(error.code)] += 1
    except OSError as error:
        seen[type(getattr(error, "reason", error)).__name__] += 1
import json
print(json.dumps(seen))
"""
SLEEP = ["python", "-c", "import time; time.sleep(3600)"]


class Endpoint:
    """The endpoint `churn` of a namespace, released by the user with the least rights through the shipped commands."""

    def __init__(self, namespace: str, server: str) -> None:
        self.namespace, self._server = namespace, server
        self.host = f"churn.{namespace}.svc.cluster.local"

    def run(self, *command: str) -> str:
        """Runs one of our commands or MLflow's; returns what it printed."""
        program, *arguments = command
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments, "-t", f"istio:/{self.namespace}"],
            env=environment(
                KUBECONFIG=kubeconfig("least"),
                MLFLOW_TRACKING_URI=self._server,
                MLFLOW_ISTIO_GATEWAY=os.environ["MLFLOW_ISTIO_GATEWAY"],
            ),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def deploy(self, version: int, *options: str) -> None:
        name, model = f"churn-v{version}", f"models:/churn/{version}"
        self.run("mlflow", "deployments", "create", "--endpoint", "churn", "--name", name, "-m", model, *options)

    def move(self, option: str) -> None:
        self.run("mlflow", "deployments", "update-endpoint", "--endpoint", "churn", "-C", option)

    def ask(self, times: int) -> Counter[str]:
        """Which deployment answered how often, asked through the gateway; failures by their status."""
        seen: Counter[str] = Counter()
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(times):
                reply = session.post(
                    f"{os.environ['GATEWAY_URL']}/invocations",
                    data=BODY,
                    headers={"Host": self.host, **JSON},
                    timeout=60,
                )
                seen[reply.headers["x-mlflow-deployment"] if reply.ok else str(reply.status_code)] += 1
        return seen

    def ask_from(self, caller: str, times: int) -> Counter[str]:
        """The same, asked from a pod of the namespace."""
        url = f"http://{self.host}/invocations"
        return Counter(json.loads(shell(self.namespace, caller, "python", "-c", ASK, url, str(times))))


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 and a canary of version 2 at 30%, every pod with a sidecar, only mTLS let in."""
    with fresh_namespace("mesh") as name:
        kubectl("label", "namespace", name, "istio-injection=enabled")
        strict = {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "spec": {"mtls": {"mode": "STRICT"}},
        }
        apply({**strict, "metadata": {"name": "default", "namespace": name}})
        give_least_rights(name)
        apply(
            pod(name, "inside", DEFAULT_IMAGE, SLEEP),
            pod(name, "outside", DEFAULT_IMAGE, SLEEP, annotations={"sidecar.istio.io/inject": "false"}),
        )
        made = Endpoint(name, server)
        made.deploy(1)
        made.deploy(2, "-C", "strategy=canary", "-C", "weight=30", "-C", 'env={"MLFLOW_ISTIO_RECORD": "1"}')
        for caller in ("inside", "outside"):
            kubectl("wait", "--for=condition=Ready", f"pod/{caller}", "-n", name, "--timeout=100s")
        yield made


def pods_of(endpoint: Endpoint) -> dict[str, Any]:
    """The endpoint's model pods by name."""
    found = json.loads(kubectl("get", "pods", "-n", endpoint.namespace, "-o", "json"))["items"]
    return {one["metadata"]["name"]: one for one in found if one["metadata"]["name"].startswith("churn-")}


def test_the_models_pods_have_a_sidecar_and_whoever_has_none_is_let_in_nowhere(endpoint: Endpoint) -> None:
    pods = pods_of(endpoint)
    assert len(pods) == 2
    for one in pods.values():
        containers = (*one["spec"]["containers"], *one["spec"].get("initContainers", ()))
        assert "istio-proxy" in [container["name"] for container in containers]
    assert endpoint.ask_from("outside", 5) == {"ConnectionResetError": 5}


def test_callers_at_the_gateway_and_in_the_mesh_get_the_weights(endpoint: Endpoint) -> None:
    for seen in (endpoint.ask(200), endpoint.ask_from("inside", 200)):
        assert set(seen) == {"churn-v1", "churn-v2"}
        # 200 requests at 30%: outside of this once in ten million times.
        assert 25 <= seen["churn-v2"] <= 97


def test_envoys_own_figures_are_read_at_a_real_istio_gateway(endpoint: Endpoint) -> None:
    address = f"http://{gateway_pod()['status']['podIP']}:15090"
    metrics = EnvoyMetrics(lambda: [address], live=False, namespace=endpoint.namespace)
    names = ("churn-v1", "churn-v2")

    def counted() -> dict[str, float]:
        found = metrics.read("churn", names)
        return {name: sum(one.get(REQUESTS, 0.0) for one in found.get(name, {}).values()) for name in names}

    before = counted()
    asked = endpoint.ask(60)
    assert set(asked) == set(names)
    wait_for("the gateway's counts", lambda: sum(counted().values()) >= sum(before.values()) + 60, seconds=30)
    after = counted()
    assert {name: after[name] - before[name] for name in names} == asked


def test_a_hardened_pod_records_what_it_answered(endpoint: Endpoint) -> None:
    """Its root is read-only: records go where it may write."""
    endpoint.ask(40)
    (name,) = (one for one in pods_of(endpoint) if one.startswith("churn-v2"))
    look = (
        "import pathlib; files = pathlib.Path('/tmp/mlflow-istio/records').rglob('*');"
        " print(sum(one.stat().st_size for one in files if one.is_file()))"
    )
    command = ("exec", name, "-n", endpoint.namespace, "-c", "model-server", "--", "python", "-c", look)
    wait_for("records", lambda: int(kubectl(*command)) > 0, seconds=30)


def test_a_promotion_moves_every_request_and_a_rollback_brings_them_back(endpoint: Endpoint) -> None:
    endpoint.move("action=promote")
    assert endpoint.ask(40) == {"churn-v2": 40}
    endpoint.run("mlflow-istio", "rollback", "churn", "--reason", "to see it")
    assert endpoint.ask(40) == {"churn-v1": 40}
    assert read("destinationrule", "churn", endpoint.namespace)["metadata"]["name"] == "churn"
