"""What timeouts and retries do to a slow pod and to one whose packets vanish."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kubernetes import client

from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.releases.moving.policy import set_policy
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office
from tests.testbed.client import Testbed

pytestmark = pytest.mark.control_plane


def setting(office: Office, **changes: Any) -> None:
    set_policy(office.context, ENDPOINT, PolicyRequest(changes=changes))


def test_a_slow_pod_meets_the_timeout(office: Office) -> None:
    """It takes 0.2 s for an answer."""
    office.deploy(1, env={"MODE": "slow"})
    assert office.ask()[0] == 200
    setting(office, timeout="50ms", retries={"attempts": 0})
    assert office.ask()[0] == 504
    setting(office, timeout="20s")
    assert office.ask()[0] == 200
    setting(office, timeout=None, retries=None)
    assert office.ask()[0] == 200


def test_a_pod_that_is_cut_off_costs_a_try_and_no_request(office: Office, bed: Testbed) -> None:
    """Whoever asks the pod whose cable is down is answered by the other, until the cluster takes it out."""
    office.deploy(1, replicas=2)
    with admin() as api:
        pods = client.CoreV1Api(api).list_namespaced_pod(office.namespace, label_selector="version=m-v1").items
    assert len(pods) == 2
    first = f"{office.namespace}/{pods[0].metadata.name}"

    def ask_twelve() -> list[int]:
        with ThreadPoolExecutor(12) as pool:
            return [status for status, _ in pool.map(lambda _: office.ask(), range(12))]

    setting(office, load_balancer="round-robin", timeout="1s", retries={"attempts": 0})
    assert set(ask_twelve()) == {200}
    bed.cut_off(first)
    assert 504 in ask_twelve(), "without a second try, those who meet it wait in vain"
    bed.reconnect(first)
    office.cluster.wait_ready("m-v1", 60)

    setting(office, timeout="25s", retries={"attempts": 3, "perTryTimeout": "1s", "retryOn": "5xx,reset"})
    bed.cut_off(first)
    assert set(ask_twelve()) == {200}
