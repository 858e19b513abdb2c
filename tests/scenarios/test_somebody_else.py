"""Somebody else edits the objects between two of our commands: nobody is sent to the dead, and everything ends."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_istio.core.basics.objects import API_VERSIONS, Object, annotations_of
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import BODY, VERSION, Place

NO_ALIASES = {"champion_alias": "", "challenger_alias": ""}
WEB, WEB2 = "web/1", "web/2"
MARKED = {"response": {"set": {"x-shop": "yes"}}}


def shop(place: Place, *, headers: bool = False) -> Object:
    """What a user had before us, and has in Git."""
    entry: Object = {"destination": {"host": "web", "port": {"number": 80}}, **({"headers": MARKED} if headers else {})}
    main: Object = {
        "name": "main",
        "match": [{"uri": {"prefix": "/api/score"}}],
        "rewrite": {"uri": "/invocations"},
        "route": [entry],
    }
    spec: Object = {"hosts": ["shop.example"], "http": [main]}
    if place.target != "istio-local":
        spec["gateways"] = [os.environ["MLFLOW_ISTIO_GATEWAY"]]
    return {
        "apiVersion": API_VERSIONS["VirtualService"],
        "kind": "VirtualService",
        "metadata": {"name": "shop"},
        "spec": spec,
    }


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    found = Verbs(place.target)._read().cluster
    for name, version in (("web", WEB), ("web2", WEB2)):
        found.apply(deployment(name, f"{name}-1", version=version))
        found.apply(service(name))
    found.apply(shop(place))
    for name in ("web-1", "web2-1"):
        found.wait_ready(name, 60)
    yield found
    place.client.delete_endpoint("chat", {"force": True})
    for kind, name in (
        ("VirtualService", "shop"),
        *((kind, name) for name in ("web", "web2") for kind in ("Service",)),
        *(("Deployment", name) for name in ("web-1", "web2-1")),
    ):
        found.delete(kind, name)


def by_owner(cluster: Cluster, change: Callable[[Object], None]) -> None:
    """The owner edits the VirtualService."""

    def edit(found: Object | None) -> Object:
        assert found is not None
        obj = copy.deepcopy(found)
        change(obj)
        return obj

    cluster.edit("VirtualService", "shop", edit)


def main_of(obj: Object) -> Object:
    (main,) = [route for route in obj["spec"]["http"] if route.get("name") == "main"]
    return main


def current(cluster: Cluster) -> Object:
    found = cluster.get("VirtualService", "shop")
    assert found is not None
    return found


def weights(cluster: Cluster) -> dict[str, int]:
    entries = main_of(current(cluster))["route"]
    return {
        entry["destination"].get("subset", entry["destination"]["host"]): entry.get("weight", 100) for entry in entries
    }


def who(view: dict[str, Any], count: int = 30) -> set[str]:
    """Who answers scoring requests."""
    with requests.Session() as session:
        answers = [
            session.post(view["scoring_url"], json=BODY, headers=view["headers"], timeout=60) for _ in range(count)
        ]
    return {
        answer.headers.get(VERSION, "") if answer.status_code == 200 else str(answer.status_code) for answer in answers
    }


@pytest.fixture
def canary(place: Place, cluster: Cluster) -> dict[str, Any]:
    """chat-v1 is a canary at 10 behind the shop's route; the view says how callers reach it."""
    view = place.client.adopt("chat", "shop", "main", **NO_ALIASES)
    config = {"strategy": "canary", "weight": 10, "ready_timeout": 120}
    place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    return view


def heal(place: Place) -> Callable[[Object], None]:
    """A self-heal puts Git's routes back and leaves annotations."""

    def change(obj: Object) -> None:
        obj["spec"]["http"] = copy.deepcopy(shop(place)["spec"]["http"])

    return change


def without_pins(obj: Object) -> None:
    obj["spec"]["http"] = [route for route in obj["spec"]["http"] if ".pin." not in str(route.get("name"))]


def scaled_to_0(cluster: Cluster) -> None:
    def scale(found: Object | None) -> Object:
        assert found is not None
        return {**found, "spec": {**found["spec"], "replicas": 0}}

    cluster.edit("Deployment", "chat-v1", scale)


def deleted(cluster: Cluster) -> None:
    cluster.delete("Deployment", "chat-v1")


@pytest.mark.parametrize("edit", ["self-heal", "header routes gone"])
@pytest.mark.parametrize("damage", [scaled_to_0, deleted], ids=["not ready", "gone"])
def test_after_somebodys_edit_nobody_is_sent_to_a_dead_candidate(
    place: Place, cluster: Cluster, canary: dict[str, Any], damage: Callable[[Cluster], None], edit: str
) -> None:
    by_owner(cluster, heal(place) if edit == "self-heal" else without_pins)
    damage(cluster)
    before = weights(cluster)
    for command in (lambda: place.client.promote("chat"), lambda: place.client.update_endpoint("chat", {"weight": 50})):
        with pytest.raises(MlflowException, match="deployment 'chat-v1' (has no ready replica|is gone)"):
            command()
    assert weights(cluster) == before
    place.client.update_endpoint("chat", {"action": "abort"})
    assert who(canary) == {WEB}


def test_after_a_self_heal_a_living_candidate_is_proved_and_promoted(
    place: Place, cluster: Cluster, canary: dict[str, Any]
) -> None:
    by_owner(cluster, heal(place))
    assert place.client.promote("chat")["traffic"] == {"chat-v1": 100, "web:80": 0}
    assert who(canary) == {"m/1"}
    pinned = {**canary, "headers": {**canary["headers"], "x-mlflow-deployment": "chat-v1"}}
    assert who(pinned, 3) == {"m/1"}
    assert place.client.rollback("chat")["traffic"] == {"web:80": 100}
    assert who(canary) == {WEB}


def rename(obj: Object) -> None:
    for entry in main_of(obj)["route"]:
        if entry["destination"]["host"] == "web":
            entry["destination"]["host"] = "web2"


@pytest.mark.parametrize("promoted", [False, True], ids=["abort", "rollback"])
def test_where_the_owner_has_another_service_now_users_go_back_to_that(
    place: Place, cluster: Cluster, canary: dict[str, Any], promoted: bool
) -> None:
    if promoted:
        place.client.promote("chat")
    by_owner(cluster, rename)
    cluster.delete("Service", "web")
    view = place.client.rollback("chat") if promoted else place.client.update_endpoint("chat", {"action": "abort"})
    assert (view["stable"], view["traffic"]) == ("web2:80", {"web2:80": 100})
    assert who(canary) == {WEB2}
    place.client.delete_endpoint("chat")
    assert weights(cluster) == {"web2": 100}
    assert who(canary) == {WEB2}


ABOVE: dict[str, Object] = {
    "a redirect": {"name": "moved", "match": [{"uri": {"prefix": "/api"}}], "redirect": {"uri": "/new"}},
    "a direct response": {"name": "down", "directResponse": {"status": 503, "body": {"string": "closed"}}},
}


@pytest.mark.parametrize("force", [False, True], ids=["plainly", "by force"])
@pytest.mark.parametrize("above", ABOVE)
def test_below_a_route_that_takes_everything_a_rollback_is_recorded_and_a_deletion_ends(
    place: Place, cluster: Cluster, canary: dict[str, Any], above: str, force: bool
) -> None:
    place.client.promote("chat")

    def insert(obj: Object) -> None:
        obj["spec"]["http"] = [ABOVE[above], *obj["spec"]["http"]]

    by_owner(cluster, insert)
    view = place.client.rollback("chat")
    assert weights(cluster) == {"web": 100}
    assert place.client.history("chat")[-1]["action"] == "rollback"
    assert f"route '{ABOVE[above]['name']}'" in view["unreachable"]
    place.client.delete_endpoint("chat", {"force": True} if force else None)
    found = current(cluster)
    assert found["spec"]["http"] == [ABOVE[above], *shop(place)["spec"]["http"]]
    assert not [key for key in annotations_of(found) if "mlflow-istio" in key]
    assert cluster.get("Service", "chat") is None


def test_after_an_older_copy_was_applied_numbers_go_on(place: Place, cluster: Cluster, canary: dict[str, Any]) -> None:
    older = current(cluster)
    place.client.promote("chat")
    before = [change["sequence"] for change in place.client.history("chat")]

    def apply(obj: Object) -> None:
        obj["spec"] = copy.deepcopy(older["spec"])
        obj["metadata"]["annotations"] = dict(annotations_of(older))

    by_owner(cluster, apply)
    place.client.update_endpoint("chat", {"weight": 40})
    place.client.promote("chat")
    after = [change["sequence"] for change in place.client.history("chat")]
    assert after == [*before, before[-1] + 1, before[-1] + 2]
    assert place.client.rollback("chat")["traffic"] == {"web:80": 100}
    assert who(canary) == {WEB}


def test_headers_at_the_owners_destination_go_along_to_a_deployment(place: Place, cluster: Cluster) -> None:
    cluster.apply(shop(place, headers=True))
    place.client.adopt("chat", "shop", "main", **NO_ALIASES)
    config = {"strategy": "canary", "weight": 10, "ready_timeout": 120}
    place.client.create_deployment("chat-v1", "models:/m/1", endpoint="chat", config=config)
    (main,) = [route for route in current(cluster)["spec"]["http"] if route["name"] == "main"]
    assert [entry.get("headers") for entry in main["route"]] == [MARKED, MARKED]
    place.client.update_endpoint("chat", {"action": "abort"})
    place.client.delete_endpoint("chat")
    assert current(cluster)["spec"]["http"] == shop(place, headers=True)["spec"]["http"]


def test_nobody_goes_back_to_a_service_that_its_owner_has_deleted(
    place: Place, cluster: Cluster, canary: dict[str, Any]
) -> None:
    place.client.promote("chat")
    cluster.delete("Service", "web")
    with pytest.raises(MlflowException, match="Service 'web' was deleted since route 'main' was adopted"):
        place.client.rollback("chat")
    assert who(canary) == {"m/1"}
    cluster.apply(service("web"))
    assert place.client.rollback("chat")["traffic"] == {"web:80": 100}
    assert who(canary) == {WEB}


def test_what_somebodys_route_goes_to_is_not_taken_away(place: Place, cluster: Cluster, canary: dict[str, Any]) -> None:
    destination = {"host": "chat", "subset": "chat-v1"}

    def added(obj: Object) -> None:
        inner = {"name": "inner", "match": [{"uri": {"prefix": "/inner"}}], "route": [{"destination": destination}]}
        obj["spec"]["http"] = [inner, *obj["spec"]["http"]]

    by_owner(cluster, added)
    place.client.update_endpoint("chat", {"action": "abort"})
    named = "route 'inner' of VirtualService 'shop' goes to it"
    with pytest.raises(MlflowException, match=f"deployment 'chat-v1' of endpoint 'chat' can't be deleted: {named}"):
        place.client.delete_deployment("chat-v1")
    with pytest.raises(MlflowException, match=f"endpoint 'chat' can't be deleted: {named}"):
        place.client.delete_endpoint("chat")
    place.client.delete_deployment("chat-v1", {"force": True})
    assert who(canary) == {WEB}
