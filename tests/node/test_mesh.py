"""A canary whose pods have injected sidecars, in a namespace of STRICT mTLS, and what a real Istio gateway counts of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.core.analysis.measures import REQUESTS
from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.node.client import apply, gateway_pod, kubectl, pod, read
from tests.node.endpoint import SLEEP, Endpoint, strict_namespace
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 and a canary of version 2 at 30%, every pod with a sidecar, only mTLS let in."""
    with strict_namespace("mesh") as name:
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


def test_the_models_pods_have_a_sidecar_and_whoever_has_none_is_let_in_nowhere(endpoint: Endpoint) -> None:
    pods = endpoint.pods()
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
    (name,) = (one for one in endpoint.pods() if one.startswith("churn-v2"))
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
