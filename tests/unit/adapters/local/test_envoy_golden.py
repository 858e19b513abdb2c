"""What Envoy is told for the objects that our verbs write, as files that a reader can check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pytest

from mlflow_istio.adapters.local.envoy import documents
from mlflow_istio.adapters.local.envoy.clusters import Endpoint, clusters
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.workloads import Readiness
from mlflow_istio.core.basics.objects import Object
from tests.contract.model_server import destination_rule, service, virtual_service
from tests.golden import OPTION, check_golden

FOLDER = PurePosixPath("/home/user/.mlflow-istio/default/envoy")
V1, V2 = "churn-v1", "churn-v2"
TO_V2 = [{"destination": {"host": "churn", "subset": V2}}]


def arm_route() -> Object:
    return {
        "name": f"mlflow-istio.churn.arm.{V2}",
        "match": [
            {"headers": {"x-arm": {"exact": "r1.b"}}},
            {"headers": {"cookie": {"regex": r"^(.*;\s*)?mlflow-arm=r1\.b(\s*;.*)?$"}}},
        ],
        "route": TO_V2,
    }


def sticky_split() -> Object:
    destinations = [
        {
            "destination": {"host": "churn", "subset": name},
            "weight": weight,
            "headers": {"response": {"add": {"set-cookie": f"mlflow-arm=r1.{name}; Path=/; SameSite=Lax"}}},
        }
        for name, weight in ((V1, 80), (V2, 20))
    ]
    return {"name": "mlflow-istio.churn.split", "route": destinations}


def everything() -> Object:
    """Every field of a route that is carried out, at least once."""
    to_v1 = [{"destination": {"host": "churn", "subset": V1, "port": {"number": 8080}}}]
    http = [
        {
            "name": "conditions",
            "match": [
                {
                    "name": "all-at-once",
                    "uri": {"prefix": "/api/"},
                    "ignoreUriCase": True,
                    "method": {"exact": "POST"},
                    "authority": {"prefix": "model."},
                    "scheme": {"exact": "http"},
                    "headers": {"x-b": {"exact": "1"}, "x-a": {"prefix": "2"}, "x-c": {"regex": "3+"}, "x-d": {}},
                    "withoutHeaders": {"x-e": {"exact": "4"}, "x-f": {}},
                    "queryParams": {"q": {"exact": "5"}, "r": {"regex": "6|7"}, "s": {}},
                },
                {"uri": {"exact": "/ping"}},
                {"uri": {"regex": "/v[0-9]+/.*"}},
            ],
            "route": to_v1,
        },
        {
            "name": "redirect",
            "match": [{}],
            "redirect": {"uri": "/new", "authority": "new.example", "redirectCode": 308},
        },
        {
            "name": "policies",
            "headers": {
                "request": {
                    "set": {"x-set": "1", "host": "model.example"},
                    "add": {"x-add": "2"},
                    "remove": ["x-gone"],
                },
                "response": {"set": {"x-set": "3"}, "add": {"x-add": "4"}, "remove": ["x-gone"]},
            },
            "route": [{**to_v1[0], "headers": {"request": {"add": {"x-add": "5"}}}}],
            "rewrite": {"uriRegexRewrite": {"match": "^/v([0-9]+)/", "rewrite": "/version-\\1/"}},
            "timeout": "1m1.5s",
            "retries": {
                "attempts": 4,
                "perTryTimeout": "250ms",
                "retryOn": "5xx,429,connect-failure",
                "backoff": "10ms",
                "retryIgnorePreviousHosts": False,
            },
            "fault": {
                "delay": {"fixedDelay": "2s", "percentage": {"value": 12.5}},
                "abort": {"httpStatus": 503, "percentage": {"value": 0.1}},
            },
            "mirror": {"host": "churn", "subset": V2},
            "mirrorPercentage": {"value": 30},
        },
        {"name": "no-retries", "route": to_v1, "retries": {"attempts": 0}, "rewrite": {"uri": "/", "authority": "a"}},
    ]
    return {**virtual_service("churn", "", {}), "spec": {"hosts": ["churn"], "gateways": ["mesh"], "http": http}}


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a golden file."""
    return partial(check_golden, update=request.config.getoption(OPTION))


VIRTUAL_SERVICES: Mapping[str, Object] = {
    "canary": virtual_service("churn", "change-7", {V1: 90, V2: 10}),
    "ab": virtual_service("churn", "change-7", {V1: 100, V2: 0}, arm_route(), sticky_split()),
    "blue-green": virtual_service("churn", "change-8", {V1: 0, V2: 100}, timeout="30s"),
    "shadow": virtual_service(
        "churn",
        "change-9",
        {V1: 100},
        mirrors=[{"destination": {"host": "churn", "subset": V2}, "percentage": {"value": 25.0}}],
    ),
    "everything": everything(),
}


@pytest.mark.parametrize("case", VIRTUAL_SERVICES)
def test_routes(case: str, golden: Callable[[str, str], None]) -> None:
    config = route_configuration(VIRTUAL_SERVICES[case], {"churn": (80,)})
    golden(f"envoy/routes-{case}.json", pretty(config))


def test_clusters(golden: Callable[[str, str], None]) -> None:
    """Two versions behind one Service: the whole of it, a subset each, and one that nobody answers."""
    check = Readiness(path="/ping", period=2)
    endpoints = [
        Endpoint(deployment=V1, labels={"app": "churn", "version": V1}, port=20001, readiness=check),
        Endpoint(deployment=V1, labels={"app": "churn", "version": V1}, port=20000, readiness=check),
        Endpoint(deployment=V2, labels={"app": "churn", "version": V2}, port=20002, readiness=None),
        Endpoint(deployment="other", labels={"app": "other"}, port=20003, readiness=check),
    ]
    rule = destination_rule("churn", V1, V2, "churn-gone")
    golden("envoy/clusters.json", pretty(clusters([service("churn")], [rule], endpoints)))


def test_traffic_policies(golden: Callable[[str, str], None]) -> None:
    """Policies of the host, and what a subset has of its own."""
    rule = destination_rule(
        "churn",
        V1,
        loadBalancer={"simple": "ROUND_ROBIN"},
        connectionPool={
            "tcp": {"maxConnections": 10, "connectTimeout": "1s", "maxConnectionDuration": "1h"},
            "http": {
                "http1MaxPendingRequests": 5,
                "http2MaxRequests": 20,
                "maxRequestsPerConnection": 100,
                "maxRetries": 1,
                "idleTimeout": "30s",
            },
        },
        tls={"mode": "DISABLE"},
    )
    rule["spec"]["subsets"][0]["trafficPolicy"] = {
        "loadBalancer": {"simple": "RANDOM"},
        "outlierDetection": {
            "consecutive5xxErrors": 3,
            "consecutiveGatewayErrors": 0,
            "interval": "1s",
            "baseEjectionTime": "10s",
            "maxEjectionPercent": 50,
            "splitExternalLocalOriginErrors": True,
            "consecutiveLocalOriginFailures": 2,
        },
    }
    golden("envoy/traffic-policies.json", pretty(clusters([service("churn")], [rule], [])))


def test_bootstrap_and_listeners(golden: Callable[[str, str], None]) -> None:
    golden(
        "envoy/bootstrap.json",
        pretty(
            documents.bootstrap(
                mesh="default",
                admin=FOLDER.parent / "run/envoy.sock",
                folder=FOLDER,
            )
        ),
    )
    golden(
        "envoy/listeners.json", pretty(documents.listeners({"fraud": 20012, "churn": 20011}, FOLDER, statistics=20010))
    )


def pretty(config: Any) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
