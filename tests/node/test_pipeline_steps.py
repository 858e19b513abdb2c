"""Steps of a pipeline as Jobs in the image we ship: the command that the compiled YAML names, a service account, a sidecar.

KFP's backend can't be had here. What its driver and launcher do to a step is done by hand, as the SDK's executor reads it
(`kfp.dsl.executor`): the placeholder for its input is filled in, and what it gives is written to files. That the file with its
parameters is the container's last words is this test's own way of getting at it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from mlflow_istio.core.basics.objects import Object
from tests.node.client import apply, gateway_pod, kubectl, read
from tests.node.endpoint import Endpoint, bound, strict_namespace
from tests.support.callers import calling
from tests.support.compiled_components import FOLDER
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.node_long, pytest.mark.timeout(900)]

ACCOUNT = "releases"
INPUT = "{{$}}"
# Where the kubelet reads a container's last words from.
LAST_WORDS = "/dev/termination-log"
RELEASE = "run-7f3a"
# Else it is the step's own proxy that answers at that port, whatever address is asked.
PAST_THE_PROXY = {"traffic.sidecar.istio.io/excludeOutboundPorts": "15090"}
# A release that decides within seconds.
QUICK = {
    "interval": 1,
    "hold": 2,
    "min_requests": 20,
    "warmup": 1,
    "phase": 2,
    "deadline": 120,
    "analysis": [{"guard": "errors", "allowed": 0.3}],
    "metrics": "envoy",
}


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 in a namespace of STRICT mTLS that has the service account, with the least rights, and the ledger's Secret."""
    with strict_namespace("steps") as name:
        apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": name}},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "mlflow", "namespace": name},
                "stringData": {"uri": server},
            },
        )
        made = Endpoint(name, server)
        made.deploy(1)
        with bound(name, ACCOUNT):
            yield made


def step(component: str, namespace: str, arguments: Mapping[str, Any]) -> Object:
    """The Job of one step."""
    spec = yaml.safe_load((FOLDER / f"{component}.yaml").read_text(encoding="utf-8"))
    (executor,) = spec["deploymentSpec"]["executors"].values()
    (declared,) = spec["components"].values()
    container = executor["container"]
    outputs = declared.get("outputDefinitions", {})
    given = {
        "inputs": {"parameterValues": {**defaults(declared), **arguments}},
        "outputs": {
            "parameters": {name: {"outputFile": f"/tmp/outputs/{name}"} for name in outputs.get("parameters", ())},
            "artifacts": {
                name: {"artifacts": [{"name": name, "type": about["artifactType"], "uri": f"/tmp/outputs/{name}"}]}
                for name, about in outputs.get("artifacts", {}).items()
            },
            "outputFile": LAST_WORDS,
        },
    }
    assert INPUT in container["args"]
    main = {
        "name": "main",
        "image": container["image"],
        "command": container["command"],
        "args": [json.dumps(given) if word == INPUT else word for word in container["args"]],
        "env": [
            {"name": "MLFLOW_TRACKING_URI", "valueFrom": {"secretKeyRef": {"name": "mlflow", "key": "uri"}}},
            {"name": "MLFLOW_ISTIO_GATEWAY", "value": os.environ["MLFLOW_ISTIO_GATEWAY"]},
            {"name": "MLFLOW_ISTIO_WHO", "value": "the pipeline"},
            {"name": "MLFLOW_ISTIO_ENVOY_URL", "value": f"http://{gateway_pod()['status']['podIP']}:15090"},
        ],
    }
    pod = {"serviceAccountName": ACCOUNT, "restartPolicy": "Never", "containers": [main]}
    name = component.replace("_", "-")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"annotations": dict(PAST_THE_PROXY)}, "spec": pod}},
    }


def defaults(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What KFP's driver gives a component of which nothing else is said."""
    parameters = declared["inputDefinitions"]["parameters"]
    return {name: about["defaultValue"] for name, about in parameters.items() if "defaultValue" in about}


def given_by(component: str, namespace: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a step to its end; what it gives, by name. Its pod has a sidecar, which mustn't keep it from ending."""
    job = step(component, namespace, arguments)
    name = job["metadata"]["name"]
    apply(job)

    def ended() -> str:
        conditions = read("job", name, namespace)["status"].get("conditions") or ()
        return next((one["type"] for one in conditions if one["type"] in ("Complete", "Failed")), "")

    outcome = wait_for(f"the step {component} to end", ended, seconds=240)
    said = kubectl("logs", f"job/{name}", "-n", namespace, "-c", "main")
    assert outcome == "Complete", said
    print(said)
    (pod,) = json.loads(kubectl("get", "pods", "-n", namespace, "-l", f"job-name={name}", "-o", "json"))["items"]
    names = [one["name"] for one in (*pod["spec"]["containers"], *pod["spec"]["initContainers"])]
    assert "istio-proxy" in names
    (status,) = (one for one in pod["status"]["containerStatuses"] if one["name"] == "main")
    given: dict[str, Any] = json.loads(status["state"]["terminated"]["message"])["parameterValues"]
    return given


def test_a_step_releases_a_version_by_the_gateways_own_figures_and_another_takes_it_back(endpoint: Endpoint) -> None:
    seen: Counter[str] = Counter()

    def ask(_session: object, _number: int) -> None:
        seen.update(endpoint.ask(1))

    target = {"target": f"istio:/{endpoint.namespace}", "endpoint": "churn", "release_id": RELEASE}
    with calling(ask, workers=2, seconds=300):
        released = given_by(
            "release_version",
            endpoint.namespace,
            {**target, "model_uri": "models:/churn/2", "steps": "50", "options": QUICK, "reason": "as a step"},
        )
        assert (released["outcome"], released["verdict"]) == ("promoted", "advance"), released
        assert endpoint.ask(20) == {"churn-v2": 20}
        undone = given_by("roll_back_release", endpoint.namespace, {**target, "reason": "second thoughts"})
        assert undone["Output"] == "rolled-back"
        assert endpoint.ask(20) == {"churn-v1": 20}
    assert set(seen) == {"churn-v1", "churn-v2"}, "no request was lost"
    changes = json.loads(endpoint.run("mlflow-istio", "history", "churn", "--json"))
    assert {"promote", "rollback"} <= {change["action"] for change in changes if change["release"] == RELEASE}
    assert {change["who"] for change in changes if change["release"] == RELEASE} == {"the pipeline"}
