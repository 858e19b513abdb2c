"""What breaks can be broken on purpose, and what was ended comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import requests
import urllib3
from kubernetes import client
from kubernetes.client.rest import ApiException

from tests.testbed.client import Testbed, wait_for
from tests.testbed.errors import TestbedError
from tests.testbed.workloads import Cluster, server

pytestmark = pytest.mark.control_plane


@pytest.fixture
def breakable(bed: Testbed) -> Iterator[Testbed]:
    """The testbed, made whole again after the test."""
    yield bed
    bed.heal()


def test_a_pod_that_is_cut_off_turns_unready_and_comes_back(cluster: Cluster, bed: Testbed) -> None:
    pod = cluster.create_pod("lonely", server("here"))
    cluster.create_service("lonely", {"app": "lonely"})
    address = cluster.wait_ready("lonely").status.pod_ip
    wait_for("the endpoint", lambda: cluster.ready_addresses("lonely") == {address})

    bed.cut_off(pod)
    wait_for("the pod to turn unready", lambda: not cluster.is_ready("lonely"))
    wait_for("the endpoint to go", lambda: not cluster.ready_addresses("lonely"))

    bed.reconnect(pod)
    wait_for("the endpoint to come back", lambda: cluster.ready_addresses("lonely") == {address})


def test_without_istiod_traffic_flows_and_changes_are_refused_until_it_is_back(
    cluster: Cluster, breakable: Testbed
) -> None:
    endpoint = cluster.create_endpoint({"v1": 100, "v2": 0})

    breakable.kill("istiod")
    assert endpoint.count(50) == {"v1": 50}
    with pytest.raises(ApiException, match="validation.istio.io"):
        endpoint.shift({"v1": 0, "v2": 100}, change="second")

    breakable.start("istiod")
    endpoint.shift({"v1": 0, "v2": 100}, change="second")
    endpoint.wait_routed("second")
    assert endpoint.count(50) == {"v2": 50}


def test_without_the_api_server_traffic_flows_and_pods_start_again_once_it_is_back(
    cluster: Cluster, breakable: Testbed
) -> None:
    endpoint = cluster.create_endpoint({"v1": 100})

    breakable.kill("kube-apiserver")
    assert endpoint.count(50) == {"v1": 50}
    with pytest.raises(urllib3.exceptions.HTTPError):
        cluster.pod("any")

    breakable.start("kube-apiserver")
    cluster.create_pod("later", server("later"))
    cluster.wait_ready("later")


def test_a_gateway_that_was_ended_serves_the_same_routes_again(cluster: Cluster, breakable: Testbed) -> None:
    endpoint = cluster.create_endpoint({"v1": 100})

    breakable.kill("gateway")
    with pytest.raises(requests.ConnectionError):
        endpoint.ask()

    breakable.start("gateway")
    endpoint.wait_routed("created")
    assert endpoint.count(10) == {"v1": 10}


def test_a_fault_on_something_unknown_names_what_there_is(bed: Testbed) -> None:
    with pytest.raises(TestbedError, match="no program 'istio', only etcd, gateway, istiod"):
        bed.kill("istio")
    with pytest.raises(TestbedError, match="no pod 'default/none' runs"):
        bed.cut_off("default/none")


def test_the_gateway_has_the_address_of_its_load_balancer(admin: client.ApiClient) -> None:
    service = client.CoreV1Api(admin).read_namespaced_service("istio-ingressgateway", "istio-system")

    assert os.environ["GATEWAY_URL"] == f"http://{service.status.load_balancer.ingress[0].ip}"
