"""A version comes up beside the others, in an order that breaks nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.mesh.destination_rule import subsets_of
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import (
    NotReady,
    NotRouted,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.deployments import deploy
from mlflow_istio.releases.moving import shifting
from mlflow_istio.testing import InMemoryRegistry
from tests.support.in_memory import World, a_request, a_world, with_canary

CANARY: dict[str, Any] = {"strategy": "canary", "traffic_request": TrafficRequest(weight=10)}


def test_the_first_deployment_gets_all_the_traffic_once_its_pods_are_ready() -> None:
    world = World()
    outcome = world.deploy("churn-v1", reason="to begin")
    assert outcome.changed
    assert outcome.endpoint == replace(world.endpoint(), outbox=outcome.endpoint.outbox)  # type: ignore[union-attr]
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert world.endpoint().role_of("churn-v1") == "stable"
    assert world.cluster.writes[:4] == [
        ("apply", "Service", "churn"),
        ("apply", "Deployment", "churn-v1"),
        ("edit", "DestinationRule", "churn"),
        ("edit", "VirtualService", "churn"),
    ]
    (change,) = world.registry.history("prod", "churn")
    assert (change.action, change.reason, change.before, change.run) == (
        "deploy",
        "to begin",
        None,
        "run-prod-churn-standing",
    )
    assert set(world.registry.artifacts[change.id]) == {"after"}
    assert world.registry.aliases == {("churn", "champion"): 1}


def test_a_later_deployment_gets_a_subset_then_a_header_route_then_its_weight() -> None:
    world = a_world("churn-v1")
    world.cluster.writes.clear()
    world.deploy("churn-v2", **CANARY)
    traffic_writes = [write for write in world.cluster.writes if write[0] == "edit" or write[1] == "Deployment"]
    assert traffic_writes[:3] == [
        ("apply", "Deployment", "churn-v2"),
        ("edit", "DestinationRule", "churn"),
        ("edit", "VirtualService", "churn"),
    ]
    assert world.history() == [(1, "deploy"), (2, "deploy"), (3, "start")]
    pinned, started = world.registry.history("prod", "churn")[1:]
    assert pinned.after is not None
    assert (pinned.after.weights, pinned.after.pins) == ({"churn-v1": 100}, ("churn-v1", "churn-v2"))
    assert started.after is not None
    assert started.after.weights == {"churn-v1": 90, "churn-v2": 10}
    assert world.registry.aliases == {("churn", "champion"): 1, ("churn", "challenger"): 2}
    assert world.registry.tags["churn/2"]["istio.prod.churn.weight"] == "10"


def test_without_a_strategy_a_later_deployment_waits_at_no_weight() -> None:
    world = a_world("churn-v1", "churn-v2")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert world.endpoint().release is None
    assert world.endpoint().role_of("churn-v2") == "idle"


def test_a_version_may_also_be_released_through_an_alias_that_is_resolved_at_once() -> None:
    world = a_world("churn-v1")
    world.registry.aliases[("churn", "next")] = 2
    world.deploy("churn-next", model_uri="models:/churn@next", endpoint="churn")
    found = world.cluster.get("Deployment", "churn-next")
    assert found is not None
    assert found["metadata"]["annotations"]["mlflow-istio.org/model-version"] == "churn/2"
    assert found["metadata"]["annotations"]["mlflow-istio.org/model-alias"] == "next"


def test_an_alias_that_moved_meanwhile_is_said() -> None:
    world = a_world("churn-v1")
    world.registry.aliases[("churn", "next")] = 2
    request = a_request("churn-next", model_uri="models:/churn@next", endpoint="churn")
    deploy(world.context, request)
    world.registry.aliases[("churn", "next")] = 3
    with pytest.raises(
        StateConflict, match="alias 'next' means churn/3 now, but deployment 'churn-next' exists already"
    ):
        deploy(world.context, request)


# Which endpoint


@pytest.mark.parametrize(
    ("model", "endpoint"), [("churn", "churn"), ("Churn Model", "churn-model"), ("2024", "m-2024")]
)
def test_the_models_name_is_the_endpoint_unless_one_is_named(model: str, endpoint: str) -> None:
    world = World(registry=InMemoryRegistry({model: [1]}))
    world.deploy("d", model_uri=f"models:/{model}/1", endpoint=None)
    assert world.endpoint(endpoint).name == endpoint


def test_another_model_of_a_like_name_is_not_slipped_into_an_endpoint() -> None:
    world = World(registry=InMemoryRegistry({"churn": [1], "Churn": [1]}))
    world.deploy("a", model_uri="models:/churn/1", endpoint=None)
    with pytest.raises(
        StateConflict, match="model 'Churn' would use endpoint 'churn', which serves 'churn': name one with"
    ):
        world.deploy("b", model_uri="models:/Churn/1", endpoint=None)
    world.deploy("b", model_uri="models:/Churn/1", endpoint="churn")  # named, it is meant
    world.deploy("c", model_uri="models:/Churn/1", endpoint=None)


# Not ready, not routed


def test_the_first_deployment_that_does_not_come_up_leaves_nothing() -> None:
    world = World()
    world.cluster.unready.add("churn-v1")
    with pytest.raises(NotReady, match="it was taken away again and no traffic has changed") as caught:
        world.deploy("churn-v1")
    assert caught.value.detail == "(its last log lines)"
    assert world.objects() == []


def test_a_later_one_that_does_not_come_up_leaves_the_others_alone() -> None:
    world = a_world("churn-v1")
    before = world.text()
    world.cluster.unready.add("churn-v2")
    with pytest.raises(NotReady, match="taken away again"):
        world.deploy("churn-v2", **CANARY)
    assert world.text() == before


def test_pods_that_serve_are_not_taken_away_when_a_repeated_command_finds_them_unready() -> None:
    world = with_canary()
    world.cluster.unready.add("churn-v2")
    with pytest.raises(NotReady) as caught:
        world.deploy("churn-v2", **CANARY)
    assert "taken away" not in caught.value.message
    assert world.cluster.get("Deployment", "churn-v2") is not None


def test_not_waited_for_it_is_finished_by_the_same_command() -> None:
    world = a_world("churn-v1")
    world.cluster.unready.add("churn-v2")
    first = world.deploy("churn-v2", wait=False, **CANARY)
    assert "the pods of 'churn-v2' are starting" in first.pending
    assert "the same command without wait=false" in first.pending
    assert world.endpoint().traffic.pins == ("churn-v1",)
    world.cluster.unready.clear()
    world.deploy("churn-v2", **CANARY)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}


def test_a_proxy_that_does_not_take_over_is_said_and_the_same_command_finishes() -> None:
    world = a_world("churn-v1")
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="no proxy confirmed routing change"):
        world.deploy("churn-v2", **CANARY)
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    world.cluster.unroutable = False
    world.deploy("churn-v2", **CANARY)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert world.history() == [(1, "deploy"), (2, "deploy"), (3, "start")]


def test_a_subset_of_that_name_with_another_meaning_is_never_changed() -> None:
    world = a_world("churn-v1")
    rule = world.cluster.get("DestinationRule", "churn")
    assert rule is not None
    rule["spec"]["subsets"].append({"name": "churn-v2", "labels": {"track": "theirs"}})
    world.cluster.apply(rule)
    with pytest.raises(StateConflict, match="a subset's meaning never changes"):
        world.deploy("churn-v2")
    assert world.endpoint().traffic.pins == ("churn-v1",)


def test_other_parts_of_the_destination_rule_stay() -> None:
    world = a_world("churn-v1")
    rule = world.cluster.get("DestinationRule", "churn")
    assert rule is not None
    rule["spec"]["trafficPolicy"] = {"loadBalancer": {"simple": "LEAST_REQUEST"}}
    world.cluster.apply(rule)
    world.deploy("churn-v2")
    after = world.cluster.get("DestinationRule", "churn")
    assert after is not None
    assert after["spec"]["trafficPolicy"] == rule["spec"]["trafficPolicy"]
    assert subsets_of(after) == ("churn-v1", "churn-v2")


# With an open release


def test_superseding_returns_traffic_to_stable_before_the_new_release_begins() -> None:
    world = with_canary()
    world.deploy("churn-v3", supersede=True, strategy="canary", traffic_request=TrafficRequest(weight=5))
    actions = [action for _, action in world.history()][-2:]
    assert actions == ["supersede", "start"]
    superseded = world.registry.history("prod", "churn")[-2]
    assert superseded.after is not None
    assert superseded.after.weights == {"churn-v1": 100}
    assert world.endpoint().traffic.weights == {"churn-v1": 95, "churn-v3": 5}
    assert sorted(world.registry.runs.values()) == ["", "", "superseded"]
    assert world.registry.aliases[("churn", "challenger")] == 3


def test_a_release_id_that_only_the_registry_knows_is_refused_before_anything_is_deployed() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
    used_up = Release(id="job-0", strategy="canary", candidates=("churn-v3",), opened=world.context.clock.now())
    world.registry.close_run(world.registry.open_run("prod", "churn", used_up), "promoted")
    before = world.text()
    with pytest.raises(StateConflict, match="'job-0' .* has ended as promoted, says the registry"):
        world.deploy("churn-v3", supersede=True, strategy="canary", release_id="job-0")
    assert world.text() == before


def test_a_deployment_without_a_strategy_comes_up_beside_an_open_release() -> None:
    world = a_world("churn-v1", "churn-v2", **CANARY)
    world.deploy("churn-v3")
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert world.endpoint().role_of("churn-v3") == "idle"


def test_a_release_id_that_is_given_is_the_releases() -> None:
    world = a_world("churn-v1")
    world.deploy("churn-v2", release_id="job-7", **CANARY)
    assert world.endpoint().release is not None
    assert world.endpoint().release.id == "job-7"  # type: ignore[union-attr]
    with pytest.raises(StateConflict, match="has an open release 'job-7'"):
        shifting.start(
            world.context,
            "churn",
            strategy="canary",
            candidates=("churn-v2",),
            traffic_request=TrafficRequest(),
            release_id="job-8",
        )


def test_a_repeated_deployment_does_not_move_a_release_that_went_on_meanwhile() -> None:
    world = a_world("churn-v1", "churn-v2", **CANARY)
    shifting.shift(world.context, "churn", TrafficRequest(weight=60))
    outcome = world.deploy("churn-v2", **CANARY)
    assert not outcome.changed
    assert world.endpoint().traffic.weights == {"churn-v1": 40, "churn-v2": 60}


# A new endpoint of an old name, and races on its creation


def test_the_history_of_an_endpoint_goes_on_after_it_was_deleted() -> None:
    world = a_world("churn-v1")
    removal.delete_endpoint(world.context, "churn")
    world.deploy("churn-v2")
    assert world.history() == [(1, "deploy"), (2, "delete"), (3, "deploy")]


def test_while_the_history_can_not_be_read_changes_are_counted_from_1() -> None:
    world = World()
    told: list[str] = []
    context = replace(world.context, tell=told.append)

    class HistoryDown(InMemoryRegistry):
        def history(self, scope: str, endpoint: str) -> Any:
            raise RegistryError("the history is away")

    deploy(replace(context, registry=HistoryDown({"churn": [1]})), a_request("churn-v1"))
    assert world.endpoint().sequence == 1
    assert any("counted from 1 (the history is away)" in line for line in told)


def test_two_first_deployments_at_once_make_one_endpoint() -> None:
    world = World()

    def other(kind: str, name: str) -> None:
        if kind == "VirtualService":
            world.cluster.before_write = lambda _kind, _name: None
            world.deploy("churn-v2")

    world.cluster.before_write = other
    with pytest.raises(StateConflict, match="endpoint 'churn' came into being meanwhile: run the same command again"):
        world.deploy("churn-v1")
    world.deploy("churn-v1")
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    assert world.endpoint().traffic.pins == ("churn-v1", "churn-v2")


def test_the_lost_reply_to_an_endpoints_creation_is_recognised() -> None:
    """The write took effect, but the cluster had to read and try again: it finds its own work."""
    world = World()
    edit = world.cluster.edit

    def twice(kind: str, name: str, change: Any) -> Any:
        if kind == "VirtualService":
            edit(kind, name, change)
        return edit(kind, name, change)

    world.cluster.edit = twice  # type: ignore[method-assign]
    assert world.deploy("churn-v1").changed
    assert world.history() == [(1, "deploy")]


def test_a_new_endpoint_is_exported_where_it_is_asked_to_be_and_says_nothing_of_it_otherwise() -> None:
    for asked in ((), (".", "gateways")):
        world = World()
        world.deploy("churn-v1", export_to=asked)
        world.deploy("churn-v2", **CANARY)
        specs = [obj["spec"] for obj in world.objects() if obj["kind"] in ("VirtualService", "DestinationRule")]
        assert [spec.get("exportTo") for spec in specs] == ([list(asked)] * 2 if asked else [None, None])
