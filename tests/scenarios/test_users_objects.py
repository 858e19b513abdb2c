"""A user's own VirtualService, full of fields that are none of ours, through canary, promotion, rollback and shadow."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import BODY, VERSION, Place

TILL = "till/1"
NO_ALIASES = {"champion_alias": "", "challenger_alias": ""}
NOTHING = {"value": 0}

MAIN: Object = {
    "name": "main",
    "match": [
        {"name": "scores", "uri": {"prefix": "/API/score"}, "ignoreUriCase": True, "withoutHeaders": {"x-skip": {}}},
        {
            "uri": {"prefix": "/score"},
            "headers": {"x-team": {"regex": "red|blue"}},
            "queryParams": {"v": {"exact": "1"}},
        },
    ],
    "rewrite": {"uri": "/invocations"},
    "timeout": "20s",
    "retries": {"attempts": 2, "perTryTimeout": "15s", "retryOn": "reset,503", "backoff": "20ms"},
    "headers": {
        "request": {"set": {"x-set": "%REQ(x-team)%"}, "add": {"x-add": "1"}, "remove": ["x-secret"]},
        "response": {"set": {"x-shop": "yes"}, "add": {"x-more": "1"}, "remove": ["server"]},
    },
    "fault": {
        "delay": {"fixedDelay": "5s", "percentage": NOTHING},
        "abort": {"httpStatus": 503, "percentage": NOTHING},
    },
    "mirrors": [{"destination": {"host": "till"}, "percentage": NOTHING}],
    "route": [
        {"destination": {"host": "till", "port": {"number": 80}}, "headers": {"request": {"set": {"x-to": "till"}}}}
    ],
}
AROUND: list[Object] = [
    {
        "name": "docs",
        "match": [{"uri": {"exact": "/docs"}}],
        "directResponse": {"status": 200, "body": {"string": "docs"}},
    },
    {"name": "moved", "match": [{"uri": {"regex": "/old/.*"}}], "redirect": {"uri": "/new", "redirectCode": 308}},
    {
        "match": [{"headers": {"cookie": {"regex": "^(.*?;)?(beta=1)(;.*)?$"}}, "method": {"exact": "PUT"}}],
        "rewrite": {"uriRegexRewrite": {"match": "^/a/(.*)$", "rewrite": "/b/\\1"}, "authority": "other.example"},
        "route": [{"destination": {"host": "till"}, "weight": 0}, {"destination": {"host": "till"}, "weight": 5}],
    },
]
ON_A_CLUSTER: list[Object] = [
    {
        "name": "cors",
        "match": [{"uri": {"prefix": "/cors"}, "port": 80, "statPrefix": "cors"}],
        "corsPolicy": {"allowOrigins": [{"prefix": "https://"}], "allowMethods": ["GET"], "maxAge": "24h"},
        "retries": {"attempts": 1, "retryRemoteLocalities": True},
        "route": [{"destination": {"host": "till"}}],
    },
    {
        "name": "callers",
        "match": [{"sourceLabels": {"app": "web"}, "sourceNamespace": "web", "gateways": ["mesh"]}],
        "fault": {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 1}}},
        "route": [{"destination": {"host": "till.elsewhere.svc.cluster.local"}}],
        "mirror": {"host": "till"},
        "mirrorPercentage": {"value": 12.5},
    },
]


def store(place: Place) -> Object:
    """What the user had: one route to release on, and others with whatever the target carries out."""
    main = copy.deepcopy(MAIN)
    spec: Object = {"hosts": ["store.example"], "http": [*AROUND, main]}
    if place.target != "istio-local":
        main["corsPolicy"] = {"allowOrigins": [{"exact": "https://a.example"}], "allowCredentials": True}
        spec["http"] = [*AROUND, *ON_A_CLUSTER, main]
        spec |= {"gateways": [os.environ["MLFLOW_ISTIO_GATEWAY"], "mesh"], "exportTo": ["*"]}
    metadata = {"name": "store", "labels": {"team": "risk"}, "annotations": {"note": "theirs"}}
    return {"apiVersion": API_VERSIONS["VirtualService"], "kind": "VirtualService", "metadata": metadata, "spec": spec}


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    found = Verbs(place.target)._read().cluster
    found.apply(deployment("till", "till-1", version=TILL))
    found.apply(service("till"))
    found.apply(store(place))
    found.wait_ready("till-1", 60)
    yield found
    place.client.delete_endpoint("talk", {"force": True})
    for kind, name in (("VirtualService", "store"), ("Service", "till"), ("Deployment", "till-1")):
        found.delete(kind, name)


def theirs(cluster: Cluster) -> str:
    """All of the object but what a release is about: our routes and annotations, the destinations' weights, our mirror."""
    obj = cluster.get("VirtualService", "store")
    assert obj is not None
    spec = copy.deepcopy(obj["spec"])
    spec["http"] = [route for route in spec["http"] if not str(route.get("name", "")).startswith("mlflow-istio.")]
    (main,) = (route for route in spec["http"] if route.get("name") == "main")
    main["route"] = [
        {key: value for key, value in entry.items() if key != "weight"}
        for entry in main["route"]
        if entry["destination"]["host"] == "till"
    ]
    main["mirrors"] = [mirror for mirror in main["mirrors"] if mirror["destination"]["host"] == "till"]
    annotations = {key: value for key, value in obj["metadata"]["annotations"].items() if "mlflow-istio" not in key}
    return json.dumps([spec, obj["metadata"]["labels"], annotations], sort_keys=True)


def whole(cluster: Cluster) -> str:
    obj = cluster.get("VirtualService", "store")
    assert obj is not None
    return json.dumps([obj["spec"], obj["metadata"]["labels"], obj["metadata"]["annotations"]], sort_keys=True)


def who(view: dict[str, Any]) -> set[str]:
    """Who answers, and that what the user's route does to answers is done still."""
    seen = set()
    with requests.Session() as session:
        for _ in range(40):
            answer = session.post(view["scoring_url"], json=BODY, headers=view["headers"], timeout=60)
            assert (answer.status_code, answer.headers.get("x-shop")) == (200, "yes")
            seen.add(answer.headers[VERSION])
    return seen


def test_every_field_of_the_users_is_kept_through_a_whole_release(place: Place, cluster: Cluster) -> None:
    before, before_whole = theirs(cluster), whole(cluster)
    client = place.client
    view = client.adopt("talk", "store", "main", **NO_ALIASES)
    assert theirs(cluster) == before

    config = {"strategy": "canary", "weight": 50, "ready_timeout": 120}
    client.create_deployment("talk-v1", "models:/m/1", endpoint="talk", config=config)
    assert theirs(cluster) == before
    assert who(view) == {TILL, "m/1"}
    client.promote("talk")
    assert theirs(cluster) == before
    assert who(view) == {"m/1"}
    client.rollback("talk")
    assert theirs(cluster) == before
    assert who(view) == {TILL}

    client.update_endpoint("talk", {"strategy": "shadow", "candidate": "talk-v1", "mirror": 100})
    assert theirs(cluster) == before
    assert who(view) == {TILL}
    client.update_endpoint("talk", {"action": "abort"})
    assert theirs(cluster) == before

    client.delete_endpoint("talk")
    assert whole(cluster) == before_whole
    assert who(view) == {TILL}
