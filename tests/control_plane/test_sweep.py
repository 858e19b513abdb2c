"""The CronJob of deploy/sweep-cronjob.yaml ends, with its own rights, what must end; what only a cluster can match or limit."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, utils

from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.policy.settings import CustomRoute, Fault, PolicyRequest
from mlflow_istio.releases.context import endpoint_of
from mlflow_istio.releases.moving import policy
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office, open_office
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane
MANIFEST = Path(__file__).parents[2] / "deploy" / "sweep-cronjob.yaml"


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    """Versions 1 (stable) and 2 behind endpoint m."""
    with open_office() as opened:
        opened.deploy(1)
        opened.deploy(2)
        yield opened


def manifests(namespace: str) -> list[dict[str, Any]]:
    """The file as an administrator applies it, with the namespace put in and the ledger left to the next command."""
    text = MANIFEST.read_text(encoding="utf-8").replace("namespace: models", f"namespace: {namespace}")
    text = text.replace('"istio:/models"]', f'"istio:/{namespace}", -C, record=false]')
    found = list(yaml.safe_load_all(text))
    for obj in found:  # the gateway's namespace is shared by all tests
        if obj["metadata"]["namespace"] == "istio-system":
            obj["metadata"]["name"] = f"sweep-{namespace}"
            if "roleRef" in obj:
                obj["roleRef"]["name"] = f"sweep-{namespace}"
    return found


def test_a_fault_on_a_cluster_is_ended_by_the_cron_job_with_its_own_rights(office: Office) -> None:
    until = office.context.clock.now() + timedelta(seconds=1)
    policy.start_fault(office.context, ENDPOINT, Fault(abort=418, until=until))
    assert office.ask()[0] == 418
    with admin() as api:
        for obj in manifests(office.namespace):
            utils.create_from_dict(api, obj)
        batch, core = client.BatchV1Api(api), client.CoreV1Api(api)

        def over() -> bool:
            return office.ask()[0] == 200

        try:
            wait_for("the end of the fault", over, 240)
        except AssertionError:
            for pod in core.list_namespaced_pod(office.namespace, label_selector="job-name").items:
                print(pod.status.phase, core.read_namespaced_pod_log(pod.metadata.name, office.namespace))
            raise
        finally:
            batch.delete_namespaced_cron_job("mlflow-istio-sweep", office.namespace, propagation_policy="Foreground")
    endpoint = endpoint_of(office.cluster, ENDPOINT)
    assert (endpoint.traffic.policy.fault, endpoint.deadlines) == (None, ())
    (entry,) = [one for one in endpoint.outbox if one.action == "fault-end"]
    assert entry.reason == "its time is over"


def test_matches_on_where_a_request_comes_from_are_stored_and_leave_the_others_alone(office: Office) -> None:
    """The routes of the gateway leave a rule for the mesh alone out; istiod's own check took it."""
    match = read_match(
        [
            {"sourceLabels": {"app": "web"}, "gateways": ["mesh"], "port": 80},
            {"sourceNamespace": "shop", "authority": {"prefix": "m."}},
            {"gateways": [os.environ["MLFLOW_ISTIO_GATEWAY"]], "headers": {"x-user": "staff"}},
        ]
    )
    policy.set_rule(office.context, ENDPOINT, CustomRoute(name="inner", deployment="m-v2", match=match))
    (route,) = [one for one in office.raw("virtualservices")["spec"]["http"] if one["name"].endswith(".rule.inner")]
    assert tuple(route["match"]) == match
    assert office.ask()[1] == "m/1"
    assert office.ask({"x-user": "staff"})[1] == "m/2"
    policy.remove_rule(office.context, ENDPOINT, "inner")


def test_limits_balancing_and_tls_are_what_istiod_takes_for_host_and_subset(office: Office) -> None:
    traffic_request = PolicyRequest(
        changes={
            "connection_pool": {"tcp": {"maxConnections": 50, "connectTimeout": "3s"}, "http": {"maxRetries": 2}},
            "outlier_detection": {"consecutive5xxErrors": 7, "baseEjectionTime": "5s", "maxEjectionPercent": 50},
            "load_balancer": {"consistentHash": {"httpCookie": {"name": "home", "ttl": "60s"}}},
            "tls": "DISABLE",
        }
    )
    policy.set_policy(office.context, ENDPOINT, traffic_request)
    policy.set_policy(office.context, ENDPOINT, PolicyRequest(changes={"load_balancer": "random"}, subset="m-v2"))
    rule = office.raw("destinationrules")["spec"]
    assert set(rule["trafficPolicy"]) == {"connectionPool", "outlierDetection", "loadBalancer", "tls"}
    subsets = {subset["name"]: subset.get("trafficPolicy") for subset in rule["subsets"]}
    assert subsets == {"m-v1": None, "m-v2": {"loadBalancer": {"simple": "RANDOM"}}}
    assert office.count(20)["m/1"] == 20
    policy.set_policy(office.context, ENDPOINT, PolicyRequest(changes=dict.fromkeys(traffic_request.changes)))
    policy.set_policy(office.context, ENDPOINT, PolicyRequest(changes={"load_balancer": None}, subset="m-v2"))
    rule = office.raw("destinationrules")["spec"]
    assert "trafficPolicy" not in rule
    assert all("trafficPolicy" not in subset for subset in rule["subsets"])


def test_a_slow_answer_meets_the_timeout_on_a_cluster(office: Office) -> None:
    """No answer comes within a millisecond each time."""
    policy.set_policy(office.context, ENDPOINT, PolicyRequest(changes={"timeout": "1ms", "retries": {"attempts": 0}}))

    def too_late() -> bool:
        try:
            return office.ask()[0] == 504
        except http.client.IncompleteRead:  # its time was over between the answer's head and its body
            return False

    wait_for("an answer that is too late", too_late, 60)
    policy.set_policy(office.context, ENDPOINT, PolicyRequest(changes={"timeout": None, "retries": None}))
    wait_for("an answer in time", lambda: office.ask()[0] == 200, 60)
