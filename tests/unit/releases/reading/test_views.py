"""What users are told: plain values, read from the cluster alone, one broken endpoint never hiding the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import NotFound
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading import views
from tests.support.in_memory import World, a_request, a_world, deploy, with_canary


def test_an_endpoint_is_shown_with_all_that_a_caller_and_a_person_need() -> None:
    world = with_canary()
    view = views.endpoint_view(world.cluster, "churn")
    assert json.loads(json.dumps(view)) == view
    assert {
        key: view[key] for key in ("name", "url", "headers", "stable", "candidates", "traffic", "mirrors", "arms")
    } == {
        "name": "churn",
        "url": "http://churn.invalid",
        "headers": {},
        "stable": "churn-v1",
        "candidates": ["churn-v2"],
        "traffic": {"churn-v1": 90, "churn-v2": 10},
        "mirrors": {},
        "arms": [],
    }
    assert view["release"]["strategy"] == "canary"
    assert view["release"]["state"] == "open"
    assert view["last_release"] is None
    assert (view["change"]["sequence"], view["unrecorded"]) == (4, 0)
    assert [(d["name"], d["role"], d["weight"], d["ready"]) for d in view["deployments"]] == [
        ("churn-v1", "stable", 90, 1),
        ("churn-v2", "candidate", 10, 1),
        ("churn-v3", "idle", 0, 1),
    ]


def test_an_ab_release_shows_how_callers_name_their_arm() -> None:
    world = a_world("churn-v1", "churn-v2")
    shifting.start(
        world.context,
        "churn",
        strategy="ab",
        candidates=("churn-v2",),
        traffic_request=TrafficRequest(cookie="arm"),
        release_id="r7",
    )
    view = views.endpoint_view(world.cluster, "churn")
    assert view["release"]["assignment"] == {
        "kind": "cookie",
        "name": "arm",
        "values": {"churn-v1": "r7.churn-v1", "churn-v2": "r7.churn-v2"},
    }
    assert view["arms"] == ["churn-v1", "churn-v2"]


def test_after_a_release_its_end_is_shown() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn")
    view = views.endpoint_view(world.cluster, "churn")
    assert (view["release"], view["candidates"]) == (None, [])
    assert (view["last_release"]["strategy"], view["last_release"]["outcome"]) == ("canary", "promoted")


def test_a_shadows_copies_are_shown() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=12.5))
    assert views.endpoint_view(world.cluster, "churn")["mirrors"] == {"churn-v2": 12.5}


def test_an_endpoint_that_can_not_be_read_does_not_hide_the_others() -> None:
    world = a_world("churn-v1", "forest-v1")
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    found["spec"]["http"] = []
    world.cluster.apply(found)
    world.cluster.apply({"kind": "VirtualService", "metadata": {"name": "theirs", "labels": {}}, "spec": {}})
    first, second = views.endpoint_views(world.cluster)
    assert first["name"] == "churn"
    assert "has no http route named" in first["problem"]
    assert (second["name"], second["stable"]) == ("forest", "forest-v1")


def test_a_deployment_is_shown_with_how_to_reach_it_at_any_weight() -> None:
    world = with_canary()
    view = views.deployment_view(world.cluster, "churn-v3", "churn")
    assert view == {
        "name": "churn-v3",
        "endpoint": "churn",
        "model_version": "churn/3",
        "alias": None,
        "flavor": "python_function",
        "runtime": "mlflow",
        "role": "idle",
        "weight": 0,
        "replicas": 1,
        "ready": 1,
        "url": "http://churn.invalid",
        "headers": {"x-mlflow-deployment": "churn-v3"},
    }


def test_a_deployment_without_an_endpoint_yet_is_shown_without_an_address() -> None:
    world = World()
    deploy(world.context, a_request("churn-v1", wait=False))
    view = views.deployment_view(world.cluster, "churn-v1")
    assert (view["role"], view["weight"]) == ("idle", 0)
    assert "url" not in view


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda cluster: views.endpoint_view(cluster, "x"), "there is no endpoint 'x' in in-memory: known: churn"),
        (lambda cluster: views.deployment_view(cluster, "x"), "there is no deployment 'x' in in-memory"),
        (
            lambda cluster: views.deployment_view(cluster, "churn-v1", "x"),
            "'churn-v1' is behind endpoint 'churn', not 'x'",
        ),
        (lambda cluster: views.deployment_views(cluster, "x"), "there is no endpoint 'x'"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(ask: Any, words: str) -> None:
    with pytest.raises(NotFound, match=words):
        ask(with_canary().cluster)


def test_deployments_are_listed_by_name_of_one_endpoint_or_all() -> None:
    world = a_world("churn-v2", "forest-v1", "churn-v1")
    assert [view["name"] for view in views.deployment_views(world.cluster)] == ["churn-v1", "churn-v2", "forest-v1"]
    assert [view["name"] for view in views.deployment_views(world.cluster, "forest")] == ["forest-v1"]


def test_a_history_tells_of_each_change_in_one_line_each() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=5))
    removal.delete_endpoint(world.context, "churn", force=True)
    lines = views.history_views(world.registry.history("prod", "churn"))
    assert json.loads(json.dumps(lines)) == lines
    assert [(line["sequence"], line["action"], line["before"], line["after"]) for line in lines] == [
        (1, "deploy", None, {"churn-v1": 100}),
        (2, "deploy", {"churn-v1": 100}, {"churn-v1": 100}),
        (3, "start", {"churn-v1": 100}, {"churn-v1": 100}),
        (4, "delete", {"churn-v1": 100}, None),
    ]
    assert [line["mirrors"] for line in lines] == [{}, {}, {"churn-v2": 5}, {}]
    assert [(line["added"], line["removed"]) for line in lines] == [
        (["churn-v1"], []),
        (["churn-v2"], []),
        ([], []),
        ([], ["churn-v1", "churn-v2"]),
    ]
