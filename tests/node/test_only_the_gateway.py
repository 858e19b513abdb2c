"""A namespace whose AuthorizationPolicy lets in the gateway alone: what of ours works there, and what says what it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from mlflow_istio.calls.denial import NEED
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node.client import apply, gateway_pod, kubectl, pod
from tests.node.endpoint import SLEEP, Endpoint, bound, strict_namespace
from tests.node.test_images import COMMAND_IMAGE
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

ACCOUNT = "releases"
RECORDING = 'env={"MLFLOW_ISTIO_RECORD": "1"}'


def principal(namespace: str, account: str) -> str:
    return f"cluster.local/ns/{namespace}/sa/{account}"


def letting_in(namespace: str, *principals: str) -> Object:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "only-the-gateway", "namespace": namespace},
        "spec": {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": list(principals)}}]}]},
    }


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 and its shadow, deployed while the policy stands: each answered its probe and its preflight under it."""
    gateways = principal("istio-system", gateway_pod()["spec"]["serviceAccountName"])
    with strict_namespace("guarded") as name:
        apply(letting_in(name, gateways))
        made = Endpoint(name, server)
        made.deploy(1, "-C", RECORDING)
        made.deploy(2, "-C", RECORDING, "-C", "strategy=shadow", "-C", "mirror=100")
        yield made


def test_a_shadow_is_compared_through_the_gateway(endpoint: Endpoint) -> None:
    """Its answers are read by the pinned routes; the copies come from the gateway, too."""
    assert endpoint.ask(150) == {"churn-v1": 150}
    found = json.loads(
        endpoint.run("mlflow-istio", "compare", "churn", "--json", "-C", "settle=0.5", "-C", "agreement=0.5")
    )
    assert found["figures"]["shadow/pairs"] == 150


def test_a_caller_in_the_mesh_is_kept_out_and_a_command_there_says_what_it_needs(
    endpoint: Endpoint, server: str
) -> None:
    """The command's own sidecar has the change, but nobody answers a pinned request that it sends."""
    namespace = endpoint.namespace
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}}
    with bound(namespace, ACCOUNT):
        env = {
            "MLFLOW_TRACKING_URI": server,
            "MLFLOW_ISTIO_GATEWAY": os.environ["MLFLOW_ISTIO_GATEWAY"],
            "HOME": "/tmp",
        }
        caller = pod(namespace, "inside", DEFAULT_IMAGE, SLEEP)
        commands = pod(namespace, "commands", COMMAND_IMAGE, SLEEP, env)
        commands["spec"].update(serviceAccountName=ACCOUNT, automountServiceAccountToken=True)
        apply(account, caller, commands)
        for name in ("inside", "commands"):
            kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", namespace, "--timeout=100s")
        assert endpoint.ask_from("inside", 3) == {"403": 3}

        def promoted() -> str:
            """What the command says."""
            change = "--endpoint churn -C action=promote -C confirm_timeout=5"
            script = f"mlflow deployments update-endpoint -t istio:/{namespace} {change} 2>&1 || true"
            return kubectl("exec", "commands", "-n", namespace, "-c", "main", "--", "sh", "-c", script)

        said = promoted()
        assert NEED in said
        assert endpoint.ask(20) == {"churn-v1": 20}, "nobody got a version that can't be asked"
        apply(
            letting_in(
                namespace,
                principal("istio-system", gateway_pod()["spec"]["serviceAccountName"]),
                principal(namespace, ACCOUNT),
            )
        )
        wait_for("the promotion", lambda: NEED not in promoted())
        assert endpoint.ask(20) == {"churn-v2": 20}
