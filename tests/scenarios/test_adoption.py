"""A user's own VirtualService, taken over for a release and given back, with real requests all the while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import BODY, VERSION, Place, inside_bounds

WEB = "web/1"
NO_ALIASES = {"champion_alias": "", "challenger_alias": ""}
"""Those of model m belong to the scenarios' own endpoint."""


def shop(place: Place) -> Object:
    """What a user had before us: two routes, of which ``main`` sends ``/api/score`` to a service of its own."""
    to_web = [{"destination": {"host": "web", "port": {"number": 80}}}]
    http: list[Object] = [
        {
            "name": "docs",
            "match": [{"uri": {"exact": "/docs"}}],
            "directResponse": {"status": 200, "body": {"string": "docs"}},
        },
        {
            "name": "main",
            "match": [{"uri": {"prefix": "/api/score"}}],
            "rewrite": {"uri": "/invocations"},
            "timeout": "20s",
            "route": to_web,
        },
    ]
    spec: Object = {"hosts": ["shop.example"], "http": http}
    if place.target != "istio-local":
        spec["gateways"] = [os.environ["MLFLOW_ISTIO_GATEWAY"]]
    metadata = {"name": "shop", "annotations": {"team": "risk"}}
    return {"apiVersion": API_VERSIONS["VirtualService"], "kind": "VirtualService", "metadata": metadata, "spec": spec}


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    """The target's cluster with the user's objects in it."""
    found = Verbs(place.target)._read().cluster
    found.apply(deployment("web", "web-1", version=WEB))
    found.apply(service("web"))
    found.apply(shop(place))
    found.wait_ready("web-1", 60)
    yield found
    place.client.delete_endpoint("chat", {"force": True})
    for kind, name in (("VirtualService", "shop"), ("Service", "web"), ("Deployment", "web-1")):
        found.delete(kind, name)


def own_part(obj: Object | None) -> Any:
    """An object without what a server adds."""
    assert obj is not None
    metadata = {key: obj["metadata"].get(key) for key in ("name", "labels", "annotations")}
    return {"metadata": metadata, "spec": obj["spec"]}


def ask(view: dict[str, Any], count: int) -> dict[str, int]:
    """Who answers scoring requests, sent as the endpoint's view says."""
    seen: dict[str, int] = {}
    with requests.Session() as session:
        for _ in range(count):
            answer = session.post(view["scoring_url"], json=BODY, headers=view["headers"], timeout=60)
            who = answer.headers.get(VERSION, "") if answer.status_code == 200 else str(answer.status_code)
            seen[who] = seen.get(who, 0) + 1
    return seen


def test_a_route_is_adopted_released_rolled_back_and_given_back(place: Place, cluster: Cluster) -> None:
    before = own_part(cluster.get("VirtualService", "shop"))
    view = place.client.adopt("chat", "shop", "main", reason="from the old service", **NO_ALIASES)
    assert (view["stable"], view["virtual_service"], view["adopted_route"]) == ("web:80", "shop", "main")
    assert view["scoring_url"].endswith("/api/score")
    assert ask(view, 20) == {WEB: 20}

    config = {"strategy": "canary", "weight": 30, "ready_timeout": 120}
    created = place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    assert (created["role"], created["weight"]) == ("candidate", 30)
    seen = ask(view, 500)
    assert set(seen) == {WEB, "m/1"}
    assert inside_bounds(seen["m/1"], 500, 0.30)
    pinned = {**view, "headers": {**view["headers"], "x-mlflow-deployment": "chat-v1"}}
    assert ask(pinned, 5) == {"m/1": 5}
    assert place.client.predict(endpoint="chat", inputs=BODY) is not None

    assert place.client.promote("chat")["traffic"] == {"chat-v1": 100, "web:80": 0}
    assert ask(view, 100) == {"m/1": 100}
    assert place.client.rollback("chat")["traffic"] == {"web:80": 100}
    assert ask(view, 100) == {WEB: 100}

    # The owner works on the object meanwhile: another route, another timeout, and a deployment of ours has all the traffic.
    place.client.update_endpoint("chat", {"strategy": "canary", "candidate": "chat-v1"})
    place.client.promote("chat")

    def by_its_owner(obj: Object | None) -> Object:
        assert obj is not None
        http = [{**route, "timeout": "9s"} if route.get("name") == "main" else route for route in obj["spec"]["http"]]
        late = {"name": "late", "match": [{"uri": {"exact": "/late"}}], "directResponse": {"status": 200}}
        return {**obj, "spec": {**obj["spec"], "http": [*http, late]}}

    cluster.edit("VirtualService", "shop", by_its_owner)
    place.client.delete_endpoint("chat")
    after = own_part(cluster.get("VirtualService", "shop"))
    expected = own_part(by_its_owner({**before, "kind": "VirtualService"}))
    assert after == expected
    assert cluster.get("Service", "chat") is None
    base = view["scoring_url"].removesuffix("/api/score")
    assert ask(view, 20) == {WEB: 20}
    assert requests.get(f"{base}/docs", headers=view["headers"], timeout=60).text == "docs"
    actions = [change["action"] for change in place.client.history("chat")][
        -8:
    ]  # a scenario before may have used the name
    assert actions == ["adopt", "deploy", "start", "promote", "rollback", "start", "promote", "delete"]


def test_a_version_that_does_not_come_up_leaves_the_users_object_as_it_was(place: Place, cluster: Cluster) -> None:
    before = own_part(cluster.get("VirtualService", "shop"))
    config: dict[str, Any] = {
        "virtual_service": "shop",
        "route": "main",
        "ready_timeout": 5,
        "env": {"MLFLOW_SCORING": "x"},
    }
    with pytest.raises(MlflowException, match="no flavor 'tensorflow'"):
        place.client.create_deployment("chat-v1", "models:/m/1", "tensorflow", config, endpoint="chat")
    assert own_part(cluster.get("VirtualService", "shop")) == before
    with pytest.raises(MlflowException, match="no http route named 'mein': did you mean 'main'"):
        place.client.create_deployment("chat-v1", "models:/m/1", config={**config, "route": "mein"}, endpoint="chat")
    assert own_part(cluster.get("VirtualService", "shop")) == before
    assert cluster.get("Deployment", "chat-v1") is None


def test_a_release_goes_on_by_itself_behind_an_adopted_route(place: Place, cluster: Cluster) -> None:
    view = place.client.adopt("chat", "shop", "main", **NO_ALIASES)
    by_time = {
        "steps": "20,50",
        "analysis": "none",
        "interval": 1,
        "hold": 1,
        "min_requests": 0,
        "warmup": 0,
        "warm": "none",
    }
    released = place.client.release("chat", "models:/m/1", name="chat-v1", **by_time, **NO_ALIASES)
    assert (released["outcome"], released["traffic"]) == ("promoted", {"chat-v1": 100, "web:80": 0})
    assert ask(view, 30) == {"m/1": 30}
    changes = place.client.history("chat")
    assert [change["action"] for change in changes[-4:]] == ["start", "shift", "shift", "promote"]
    assert place.client.rollback("chat")["traffic"] == {"web:80": 100}
    assert ask(view, 30) == {WEB: 30}
