"""Pods that are replaced under load: by an update, by another number of them, and by evictions as `kubectl drain` makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.node.client import apply, kubectl
from tests.node.endpoint import Endpoint, strict_namespace
from tests.node.losses import Load
from tests.support.callers import calling
from tests.testbed.client import wait_for
from tests.testbed.errors import TestbedError

pytestmark = [pytest.mark.node, pytest.mark.node_long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    """Version 1 with two replicas under STRICT mTLS."""
    with strict_namespace("replaced") as name:
        made = Endpoint(name, server)
        made.deploy(1, "-C", "replicas=2")
        yield made


def environments(endpoint: Endpoint) -> list[str]:
    """What each pod that stays has for the variable that is changed."""
    return [
        variable.get("value", "")
        for pod in endpoint.pods().values()
        if "deletionTimestamp" not in pod["metadata"]
        for container in pod["spec"]["containers"]
        for variable in container.get("env", ())
        if variable["name"] == "GREETING"
    ]


def update(endpoint: Endpoint, option: str) -> None:
    endpoint.run("mlflow", "deployments", "update", "--endpoint", "churn", "--name", "churn-v1", "-C", option)


def test_nothing_is_lost_by_an_update_by_other_resources_and_by_fewer_replicas(endpoint: Endpoint) -> None:
    load = Load(endpoint)
    with calling(load.ask, workers=4, seconds=600):
        load.goes_on()
        update(endpoint, 'env={"GREETING": "hello"}')
        load.goes_on()
        assert environments(endpoint) == ["hello", "hello"]
        endpoint.deploy(
            1, "-C", 'env={"GREETING": "hello"}', "-C", 'resources={"requests": {"cpu": "20m", "memory": "64Mi"}}'
        )
        load.goes_on()
        update(endpoint, "replicas=3")
        load.goes_on()
        update(endpoint, "replicas=2")
        wait_for("the third to be gone", lambda: len(endpoint.pods()) == 2)
        load.goes_on()
    print(load)
    assert load.failures == []


def evict(endpoint: Endpoint, pod: str) -> str:
    """Asks for a pod to go, as `kubectl drain` does; what is said against it."""
    where = f"/api/v1/namespaces/{endpoint.namespace}/pods/{pod}/eviction"
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": endpoint.namespace},
    }
    try:
        kubectl("create", "--raw", where, "-f", "-", text=json.dumps(eviction))
    except TestbedError as error:
        return str(error)
    return ""


def test_a_budget_of_the_users_for_each_version_lets_a_node_be_drained_and_nothing_is_lost(endpoint: Endpoint) -> None:
    """By the labels that docs/kubernetes.md names."""
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "churn-v1", "namespace": endpoint.namespace},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "churn", "version": "churn-v1"}}},
    }
    apply(budget)
    load = Load(endpoint)
    first, second = sorted(endpoint.pods())
    with calling(load.ask, workers=4, seconds=600):
        load.goes_on()
        wait_for("the budget to be counted and the first to go", lambda: not evict(endpoint, first))
        assert "disruption budget" in evict(endpoint, second)
        load.goes_on()
        wait_for("the second to be let go", lambda: not evict(endpoint, second))
        wait_for("both to be gone", lambda: not {first, second} & set(endpoint.pods()))
        kubectl("rollout", "status", "deployment/churn-v1", "-n", endpoint.namespace, "--timeout=100s")
        load.goes_on()
    print(load)
    assert load.failures == []
