"""Manifests, and the VirtualService of each strategy, as readers and clusters see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.destination_rule import with_policy, with_subset
from mlflow_istio.core.mesh.manifests import (
    DeploymentValues,
    deployment_manifest,
    destination_rule_manifest,
    service_manifest,
    virtual_service_manifest,
)
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.moves import policies, transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, DestinationPolicy, Fault, Policy, PolicyRequest, StaleCookie
from tests.golden import FOLDER, OPTION, check_golden
from tests.support.endpoint_values import TEMPLATES, TIME, a_release, a_virtual_service, adopted, moved

VALUES = DeploymentValues(
    name="churn-v2",
    endpoint="churn",
    model=ModelVersion(model="Churn Model", version=2, alias="champion"),
    image="registry.example/serving:1",
    replicas=2,
    env={"GREETING": 'says "hello": {{ name }}\n- or not'},
)
POD = PodSettings(
    source="init",
    resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    service_account="serving",
    node_selector={"disk": "ssd"},
    tolerations=[{"key": "gpu", "operator": "Exists"}],
    annotations={"prometheus.io/scrape": "true"},
    image_pull_secrets=("registry",),
    env_from_secret={"TOKEN": "mlflow/token"},
)


def _started(strategy: str, traffic_request: TrafficRequest, *candidates: str) -> Callable[[Endpoint], Endpoint]:
    return lambda now: transitions.start(
        now, a_release(strategy, *candidates, traffic_request=traffic_request), traffic_request
    )


ARMS = TrafficRequest(header="X-Arm", weights={"v1": 60, "v2": 30, "v3": 10})


def _everything(now: Endpoint) -> Endpoint:
    """Settings, a deployment's headers, a route of its own, a stale cookie and a fault beside an A/B by cookie."""
    traffic_request = TrafficRequest(cookie="arm", weight=50)
    changes = {"timeout": "2s", "headers": {"request": {"set": {"x-tenant": "a"}}}}
    now = policies.set_policy(now, PolicyRequest(changes=changes))
    headers = {"response": {"set": {"x-arm": "b"}}}
    now = policies.set_policy(now, PolicyRequest(changes={"headers": headers}, subset="v2"))
    rule = CustomRoute(name="staff", deployment="v3", match=({"headers": {"x-user": {"exact": "staff"}}},))
    now = policies.set_rule(now, rule)
    stale = StaleCookie(cookie="former", release="r0")
    now = replace(now, traffic=replace(now.traffic, policy=replace(now.traffic.policy, stale=(stale,))))
    now = transitions.start(now, a_release("ab", traffic_request=traffic_request), traffic_request)
    return policies.start_fault(now, Fault(abort=503, percentage=10, until=TIME))


def _settings_of_servers() -> Object:
    policy = Policy(
        destination=DestinationPolicy(connection_pool={"tcp": {"maxConnections": 10}}),
        subsets={"v2": DestinationPolicy(load_balancer={"simple": "RANDOM"})},
    )
    rule = destination_rule_manifest(TEMPLATES["DestinationRule"], "churn")
    return with_policy(with_subset(with_subset(rule, "v1"), "v2"), "churn", policy)


DOCUMENTS: dict[str, Callable[[], Object]] = {
    "deployment": lambda: deployment_manifest(TEMPLATES["Deployment"], VALUES),
    "deployment_pods": lambda: deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, pod=POD)),
    "service": lambda: service_manifest(TEMPLATES["Service"], "churn"),
    "destination_rule": lambda: destination_rule_manifest(TEMPLATES["DestinationRule"], "churn"),
    "virtual_service": lambda: virtual_service_manifest(
        TEMPLATES["VirtualService"], "churn", ("a.example",), ("ns/gw",)
    ),
    "routes_first": a_virtual_service,
    "routes_canary": lambda: moved(a_virtual_service(), _started("canary", TrafficRequest(weight=10)), "c1", "start"),
    "routes_blue_green": lambda: moved(
        a_virtual_service(), _started("blue-green", TrafficRequest(weight=100)), "c1", "start"
    ),
    "routes_ab_header": lambda: moved(a_virtual_service(), _started("ab", ARMS, "v2", "v3"), "c1", "start"),
    "routes_ab_cookie": lambda: moved(
        a_virtual_service(), _started("ab", TrafficRequest(cookie="arm", weight=50)), "c1", "start"
    ),
    "routes_shadow": lambda: moved(a_virtual_service(), _started("shadow", TrafficRequest(mirror=25)), "c1", "start"),
    "routes_promoted": lambda: moved(
        moved(a_virtual_service(), _started("canary", TrafficRequest(weight=10)), "c1", "start"),
        transitions.promote,
        "c2",
        "promote",
    ),
    "routes_everything": lambda: moved(a_virtual_service(), _everything, "c1", "start"),
    "routes_maintenance": lambda: moved(
        adopted(),
        lambda now: policies.set_policy(now, PolicyRequest(changes={"maintenance": "503"})),
        "c1",
        "policy",
    ),
    "destination_rule_policy": _settings_of_servers,
    "routes_adopted": lambda: moved(adopted(), _started("canary", TrafficRequest(weight=10)), "c1", "start"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_as_its_golden_file_says(name: str, request: pytest.FixtureRequest) -> None:
    plain = json.loads(json.dumps(DOCUMENTS[name]()))  # parts that two routes share are written twice, as on a cluster
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    check_golden(f"core/{name}.yaml", text, update=request.config.getoption(OPTION))


def test_no_golden_file_is_left_over(request: pytest.FixtureRequest) -> None:
    left = [file for file in (FOLDER / "core").glob("*.yaml") if file.stem not in DOCUMENTS]
    if request.config.getoption(OPTION):
        for file in left:
            file.unlink()
    assert not [file.name for file in left if file.exists()]
