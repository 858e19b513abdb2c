"""Taking away: weight first, then the route, the subset, the pods; and nothing that is somebody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.destination_rule import subsets_of
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotRouted, StateConflict
from mlflow_istio.releases.deploying.removal import delete, delete_endpoint
from mlflow_istio.releases.moving import shifting
from mlflow_istio.testing import StillClock
from tests.support.in_memory import World, a_request, a_world, deploy, with_canary


def test_a_deployment_goes_in_the_order_that_breaks_no_request() -> None:
    world = with_canary()
    clock = StillClock()
    world.cluster.writes.clear()
    outcome = delete(replace(world.context, clock=clock, removal_delay=0.5), "churn-v3", reason="old")
    assert outcome is not None
    assert outcome.changed
    assert world.cluster.writes == [
        ("edit", "VirtualService", "churn"),
        ("edit", "VirtualService", "churn"),
        ("edit", "DestinationRule", "churn"),
        ("delete", "Deployment", "churn-v3"),
    ]
    assert clock.monotonic() == 0.5, "requests in flight had no time"
    assert world.endpoint().traffic.pins == ("churn-v1", "churn-v2")
    rule = world.cluster.get("DestinationRule", "churn")
    assert rule is not None
    assert subsets_of(rule) == ("churn-v1", "churn-v2")
    change = world.registry.history("prod", "churn")[-1]
    assert (change.action, change.reason) == ("remove", "old")
    assert world.registry.tags["churn/3"] == {}


def test_removing_what_is_not_there_is_no_error() -> None:
    world = with_canary()
    world.cluster.writes.clear()
    assert delete(world.context, "churn-v9") is None
    world.cluster.apply({"kind": "Deployment", "metadata": {"name": "theirs"}, "spec": {}})
    assert delete(world.context, "theirs") is None
    assert world.cluster.get("Deployment", "theirs") is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("churn-v1", "deployment 'churn-v1' of endpoint 'churn' is stable: promote another first"),
        ("churn-v2", r"deployment 'churn-v2' of endpoint 'churn' has traffic \(weight 10\)"),
    ],
)
def test_a_deployment_that_is_needed_is_not_removed(name: str, words: str) -> None:
    world = with_canary()
    world.cluster.writes.clear()
    with pytest.raises(StateConflict, match=words):
        delete(world.context, name)
    assert world.cluster.writes == []


def test_pods_stay_until_the_proxies_know() -> None:
    world = with_canary()
    world.cluster.unroutable = True
    with pytest.raises(NotRouted):
        delete(world.context, "churn-v3")
    assert world.cluster.get("Deployment", "churn-v3") is not None


def test_a_deployment_that_never_got_an_endpoint_is_just_removed() -> None:
    world = World()
    deploy(world.context, a_request("churn-v1", wait=False))
    outcome = delete(world.context, "churn-v1")
    assert outcome is not None
    assert outcome.changed
    assert world.cluster.get("Deployment", "churn-v1") is None


def test_a_subset_whose_rule_is_gone_already_stops_nobody() -> None:
    world = with_canary()
    world.cluster.delete("DestinationRule", "churn")
    delete(world.context, "churn-v3")
    assert world.cluster.get("Deployment", "churn-v3") is None


def test_a_rule_that_goes_away_meanwhile_is_said() -> None:
    world = with_canary()

    def gone(kind: str, name: str) -> None:
        if kind == "DestinationRule":
            world.cluster.delete(kind, name)

    world.cluster.before_write = gone
    with pytest.raises(MlflowIstioError, match="DestinationRule 'churn' is gone"):
        delete(world.context, "churn-v3")


def test_an_alias_is_free_for_another_endpoint_once_no_version_of_its_model_is_served() -> None:
    world = a_world("churn-v1")
    challenger = a_request("forest-v1", endpoint="churn", strategy="canary")
    deploy(world.context, challenger)
    with pytest.raises(StateConflict, match="alias 'challenger' of model 'forest' belongs to prod/churn"):
        deploy(world.context, replace(a_request("forest-v1"), name="other", endpoint="forest"))
    shifting.abort(world.context, "churn")
    delete(world.context, "forest-v1")
    deploy(world.context, a_request("forest-v1", endpoint="forest"))
    assert world.registry.owners[("forest", "champion")] == "prod/forest"
    assert world.registry.aliases[("churn", "champion")] == 1


# Endpoints


def test_an_endpoint_goes_with_all_that_is_its_own_and_the_ledger_keeps_its_end() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.writes.clear()
    assert delete_endpoint(world.context, "churn", reason="retired")
    assert [write for write in world.cluster.writes if write[0] == "delete"] == [
        ("delete", "VirtualService", "churn"),
        ("delete", "DestinationRule", "churn"),
        ("delete", "Deployment", "churn-v1"),
        ("delete", "Deployment", "churn-v2"),
        ("delete", "Service", "churn"),
    ]
    assert world.objects() == []
    change = world.registry.history("prod", "churn")[-1]
    assert (change.sequence, change.action, change.after, change.reason) == (3, "delete", None, "retired")
    assert (world.registry.aliases, world.registry.owners) == ({}, {})
    assert all(not tags for tags in world.registry.tags.values())


def test_deleting_an_endpoint_that_is_not_there_is_no_error() -> None:
    world = World()
    assert delete_endpoint(world.context, "churn") is False
    assert world.cluster.writes == []


def test_other_endpoints_stay() -> None:
    world = a_world("churn-v1")
    world.deploy("forest-v1")
    delete_endpoint(world.context, "churn")
    assert world.endpoint("forest").traffic.weights == {"forest-v1": 100}
    assert world.registry.aliases == {("forest", "champion"): 1}


def theirs(kind: str) -> Object:
    return {"kind": kind, "metadata": {"name": "reviews"}, "spec": {"host": "reviews"}}


def test_objects_of_the_name_that_are_not_ours_are_never_deleted() -> None:
    world = World()
    for kind in ("Service", "DestinationRule", "Deployment"):
        world.cluster.apply(theirs(kind))
    world.cluster.writes.clear()
    assert delete_endpoint(world.context, "reviews", force=True) is False
    assert world.cluster.writes == []
    world.cluster.apply(theirs("VirtualService"))
    with pytest.raises(StateConflict, match="VirtualService 'reviews' exists and is not ours"):
        delete_endpoint(world.context, "reviews", force=True)


def test_with_a_release_open_deletion_must_be_forced_and_ends_it() -> None:
    world = with_canary()
    before = world.text()
    with pytest.raises(
        StateConflict,
        match=r"has an open release .*\(or 'mlflow-istio delete-endpoint --force' deletes the endpoint with it\)",
    ):
        delete_endpoint(world.context, "churn")
    assert world.text() == before
    assert delete_endpoint(world.context, "churn", force=True)
    assert world.objects() == []
    assert "aborted" in world.registry.runs.values()


def test_a_registry_that_is_down_refuses_the_deletion_before_anything_is_marked() -> None:
    world = a_world("churn-v1", "churn-v2")
    before = world.text()
    world.registry.down = True
    with pytest.raises(StateConflict, match="endpoint 'churn' can't be deleted while the registry is down"):
        delete_endpoint(world.context, "churn")
    world.registry.down = False
    assert world.text() == before
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=10)
    )


def test_a_registry_that_goes_down_meanwhile_leaves_the_object_that_holds_the_entry() -> None:
    world = a_world("churn-v1")
    open_run = world.registry.open_run

    def then_down(*args: Any) -> str:
        run = open_run(*args)
        world.registry.down = True
        return run

    world.registry.open_run = then_down  # type: ignore[method-assign]
    with pytest.raises(StateConflict, match="endpoint 'churn' holds 1 routing changes the registry does not have"):
        delete_endpoint(world.context, "churn")
    assert world.endpoint().deleting
    world.registry.down = False
    world.registry.open_run = open_run  # type: ignore[method-assign]
    assert delete_endpoint(world.context, "churn")
    assert world.history() == [(1, "deploy"), (2, "delete")]


def test_forced_an_endpoint_goes_without_the_registry() -> None:
    world = a_world("churn-v1")
    world.registry.down = True
    assert delete_endpoint(world.context, "churn", force=True)
    assert world.objects() == []
    assert any("1 routing change waits" in warning for warning in world.warnings)


@pytest.mark.parametrize("force", [False, True])
def test_proxies_that_do_not_answer_stop_a_deletion_unless_it_is_forced(force: bool) -> None:
    world = a_world("churn-v1")
    world.cluster.unroutable = True
    if not force:
        with pytest.raises(NotRouted):
            delete_endpoint(world.context, "churn")
        assert world.cluster.get("VirtualService", "churn") is not None
        return
    assert delete_endpoint(world.context, "churn", force=True)
    assert world.objects() == []
    assert world.history() == [(1, "deploy"), (2, "delete")]


def damaged() -> World:
    world = a_world("churn-v1")
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    found["metadata"]["annotations"]["mlflow-istio.org/state.churn"] = "{"
    world.cluster.apply(found)
    return world


def without_its_route() -> World:
    world = a_world("churn-v1")
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    found["spec"]["http"] = []
    world.cluster.apply(found)
    return world


def without_annotations() -> World:
    world = a_world("churn-v1")
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    del found["metadata"]["annotations"]
    world.cluster.apply(found)
    return world


@pytest.mark.parametrize("make", [damaged, without_its_route, without_annotations])
def test_an_endpoint_that_can_not_be_read_can_still_be_deleted_by_force(make: Any) -> None:
    world = make()
    world.cluster.writes.clear()
    with pytest.raises(MlflowIstioError):
        delete_endpoint(world.context, "churn")
    assert world.cluster.writes == []
    assert delete_endpoint(world.context, "churn", force=True)
    assert world.objects() == []
    assert any("endpoint 'churn' is deleted unread, so its last changes are lost" in line for line in world.warnings)
    assert (world.registry.aliases, world.registry.owners) == ({}, {})


def test_damage_to_a_name_that_is_not_ours_is_not_ours_to_delete() -> None:
    world = damaged()
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    del found["metadata"]["labels"]
    world.cluster.apply(found)
    with pytest.raises(InvalidInput, match="is not JSON"):
        delete_endpoint(world.context, "churn", force=True)
