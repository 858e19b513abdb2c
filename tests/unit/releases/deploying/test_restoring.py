"""Rolling back to any earlier change: what comes back, what is refused, and what the ledger tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Traffic, WeightedDestination
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.moves.way_back import check_restorable, find_change, needed, restore
from mlflow_istio.errors import MlflowIstioError, NotFound, NotReady, RegistryError, StateConflict
from mlflow_istio.releases.context import Context, Outcome
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.deploying.deployments import update
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.moving import shifting
from tests.support.endpoint_values import LEGACY, TIME, adopted, an_endpoint, own
from tests.support.in_memory import World, a_request, a_world


def as_request(name: str, uri: str) -> DeployRequest:
    return replace(a_request(name), model_uri=uri, endpoint="churn")


def back(world: World, to: int | str, context: Context | None = None, **options: Any) -> Outcome:
    return rollback_to(context or world.context, "churn", str(to), as_request=as_request, **options)


def long_story() -> World:
    """1-2: two deployed; 3: canary at 10; 4: at 50; 5: promoted; 6: v3 deployed; 7: canary of it at 20; 8: promoted."""
    world = a_world("churn-v1", "churn-v2")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v2",), traffic_request=TrafficRequest(weight=10)
    )
    shifting.shift(world.context, "churn", TrafficRequest(weight=50))
    shifting.promote(world.context, "churn")
    world.deploy("churn-v3")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v3",), traffic_request=TrafficRequest(weight=20)
    )
    shifting.promote(world.context, "churn")
    assert world.endpoint().sequence == 8
    return world


STORY: dict[int, tuple[dict[str, int], str, str | None]] = {
    1: ({"churn-v1": 100}, "churn-v1", None),
    2: ({"churn-v1": 100}, "churn-v1", None),
    3: ({"churn-v1": 90, "churn-v2": 10}, "churn-v1", "churn-v2"),
    4: ({"churn-v1": 50, "churn-v2": 50}, "churn-v1", "churn-v2"),
    5: ({"churn-v2": 100}, "churn-v2", None),
    6: ({"churn-v2": 100}, "churn-v2", None),
    7: ({"churn-v2": 80, "churn-v3": 20}, "churn-v2", "churn-v3"),
    8: ({"churn-v3": 100}, "churn-v3", None),
}


@pytest.mark.parametrize("to", STORY)
@pytest.mark.parametrize("lost", [False, True], ids=["all there", "all but stable deleted"])
def test_each_earlier_change_comes_back_as_it_was(to: int, lost: bool) -> None:
    world = long_story()
    if lost:
        for name in ("churn-v1", "churn-v2"):
            removal.delete(world.context, name)
    by_sequence = {change.sequence: change for change in world.registry.history("prod", "churn")}
    outcome = back(world, by_sequence[to].id if to % 2 else to)
    weights, stable, candidate = STORY[to]
    endpoint = world.endpoint()
    assert (endpoint.traffic.weights, endpoint.stable.name) == (weights, stable)
    release = endpoint.release
    assert (release.candidates if release else None) == ((candidate,) if candidate else None)
    if release:
        assert (release.state, release.id, release.run) == ("paused", by_sequence[to].release, by_sequence[to].run)
        assert world.registry.runs[str(release.run)] in ("", "promoted")
    assert outcome.changed is (to != 8)
    if outcome.changed:
        last = world.registry.history("prod", "churn")[-1]
        assert (last.action, last.evidence["to"], last.after) == ("rollback", to, endpoint.traffic)
        assert last.reason == f"back to change {to}"
    moved = [change for change in world.registry.history("prod", "churn")[8:] if change.action == "rollback"]
    assert len(moved) == (1 if outcome.changed else 0), "one edit moves the traffic"
    again = back(world, to)
    assert not again.changed


def test_only_what_the_traffic_needs_is_deployed_again_in_its_recorded_version_and_before_it_moves() -> None:
    world = long_story()
    for name in ("churn-v1", "churn-v2"):
        removal.delete(world.context, name)
    world.cluster.writes.clear()
    back(world, 1)
    deployed = [(verb, name) for verb, kind, name in world.cluster.writes if kind == "Deployment"]
    assert deployed == [("apply", "churn-v1")]
    assert [action for _, action in world.history()][-2:] == ["deploy", "rollback"]
    assert world.registry.aliases[("churn", "champion")] == 1


def test_a_release_that_is_open_ends_as_rolled_back_and_its_run_with_it() -> None:
    world = long_story()
    shifting.start(
        world.context, "churn", strategy="shadow", candidates=("churn-v1",), traffic_request=TrafficRequest()
    )
    open_release = world.endpoint().release
    assert open_release is not None
    back(world, 3)
    endpoint = world.endpoint()
    assert endpoint.last is not None
    assert (endpoint.last.id, endpoint.last.outcome, endpoint.traffic.mirrors) == (open_release.id, "rolled-back", ())
    assert world.registry.runs[str(open_release.run)] == "rolled-back"
    assert world.registry.history("prod", "churn")[-1].run == open_release.run


def test_a_release_that_comes_back_goes_on_and_ends_as_any_other() -> None:
    world = long_story()
    back(world, 3)
    shifting.resume(world.context, "churn")
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    shifting.promote(world.context, "churn")
    endpoint = world.endpoint()
    assert (endpoint.stable.name, endpoint.release) == ("churn-v2", None)
    shifting.rollback(world.context, "churn")
    assert world.endpoint().stable.name == "churn-v1"


def test_an_earlier_step_of_the_open_release_leaves_it_open_as_it_is() -> None:
    world = a_world("churn-v1", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10))
    shifting.shift(world.context, "churn", TrafficRequest(weight=60))
    before = world.endpoint().release
    back(world, 3)
    assert (world.endpoint().release, world.endpoint().traffic.weights) == (before, {"churn-v1": 90, "churn-v2": 10})
    assert before is not None
    assert world.registry.runs[str(before.run)] == ""


@pytest.mark.parametrize(
    ("strategy", "traffic_request"),
    [
        ("ab", TrafficRequest(header="x-arm", weight=30)),
        ("ab", TrafficRequest(cookie="arm", weight=30)),
        ("ab", TrafficRequest(header="x-arm", weight=0, values={"churn-v2": "beta"})),
        ("shadow", TrafficRequest(mirror=25)),
        ("blue-green", TrafficRequest(weight=0)),
    ],
)
def test_arms_mirrors_and_assignment_come_back(strategy: str, traffic_request: TrafficRequest) -> None:
    world = a_world("churn-v1", "churn-v2", strategy=strategy, traffic_request=traffic_request)
    then = world.endpoint()
    shifting.promote(world.context, "churn")
    removal.delete(world.context, "churn-v1")
    back(world, 3)
    now = world.endpoint()
    assert replace(now.traffic, policy=then.traffic.policy) == then.traffic
    assert then.release is not None
    assert now.release == replace(then.release, state="paused", opened=now.release.opened if now.release else TIME)
    assert now.traffic.policy.stale == ()


def test_a_canary_with_requests_of_its_own_comes_back_as_a_canary() -> None:
    beta = ({"uri": {"prefix": "/beta"}},)
    world = a_world(
        "churn-v1", "churn-v3", "churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=10, match=beta)
    )
    shifting.promote(world.context, "churn")
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v3",), traffic_request=TrafficRequest(weight=1)
    )
    shifting.promote(world.context, "churn")
    back(world, 4)
    release = world.endpoint().release
    assert release is not None
    assert (release.strategy, release.candidates) == ("canary", ("churn-v2",))
    assert [(arm.deployment, arm.match) for arm in world.endpoint().traffic.arms] == [("churn-v2", beta)]


def gone_version(world: World) -> None:
    removal.delete(world.context, "churn-v1")
    world.registry.gone.add("churn/1")


def another_version(world: World) -> None:
    removal.delete(world.context, "churn-v1")
    world.deploy("churn-v1", model_uri="models:/churn/2")


def down(world: World) -> None:
    world.registry.down = True


def down_and_needed(world: World) -> None:
    """The change is on the object still, but a deployment it needs is gone."""
    world.registry.down = True
    shifting.rollback(world.context, "churn")  # 9: back on churn-v2
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v3",), traffic_request=TrafficRequest(weight=1)
    )  # 10
    shifting.promote(world.context, "churn")  # 11
    world.cluster.delete("Deployment", "churn-v2")


def being_deleted(world: World) -> None:
    removal._mark_deleting(world.context, "churn", force=False, reason="", timeout=1)


def unready(world: World) -> None:
    world.cluster.unready.add("churn-v1")


REFUSED: dict[str, tuple[Callable[[World], None], str, type[MlflowIstioError], str]] = {
    "no such number": (lambda _: None, "99", NotFound, r"has no routing change '99': it has 1 to 8 \(see"),
    "no such id": (lambda _: None, "abc", NotFound, "has no routing change 'abc'"),
    "the version is gone": (
        gone_version,
        "1",
        NotFound,
        "change 1 needs deployment 'churn-v1' of churn/1, which can't be brought back: the files of models:/churn/1 are gone",
    ),
    "the name has another meaning": (
        another_version,
        "1",
        StateConflict,
        "deployment 'churn-v1' serves churn/2 now, but served churn/1 in change 1",
    ),
    "the registry is down": (
        down,
        "1",
        RegistryError,
        "change '1' of endpoint 'churn' is not on the endpoint itself any more, and the registry that has it can't be reached",
    ),
    "the registry is down and a deployment is gone": (
        down_and_needed,
        "9",
        RegistryError,
        "change 9 needs deployment 'churn-v2', which is gone and can't be brought back while the registry can't be reached",
    ),
    "being deleted": (being_deleted, "1", StateConflict, "endpoint 'churn' is being deleted"),
    "not ready": (unready, "1", NotReady, "deployment 'churn-v1' has no ready replica"),
}


@pytest.mark.parametrize(("prepare", "to", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_come_back_is_refused_by_name_and_moves_nothing(
    prepare: Callable[[World], None], to: str, error: type[MlflowIstioError], words: str
) -> None:
    world = long_story()
    prepare(world)
    before = world.endpoint()
    with pytest.raises(error, match=words):
        back(world, to)
    assert world.endpoint() == before


def test_forced_traffic_goes_even_to_what_is_not_ready() -> None:
    world = long_story()
    unready(world)
    back(world, 1, force=True)
    assert world.endpoint().traffic.weights == {"churn-v1": 100}


def test_a_registry_that_is_down_does_not_stop_a_change_that_is_on_the_object_still() -> None:
    world = long_story()
    world.registry.down = True
    shifting.rollback(world.context, "churn")
    back(world, 9)
    shifting.start(
        world.context, "churn", strategy="canary", candidates=("churn-v1",), traffic_request=TrafficRequest(weight=30)
    )
    back(world, 9)
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    world.registry.down = False
    shifting.rollback(world.context, "churn")
    assert [sequence for sequence, _ in world.history()] == list(range(1, 12))


def test_what_was_scaled_to_nothing_gets_a_replica_and_what_was_half_removed_is_finished() -> None:
    world = long_story()
    update(world.context, "churn-v1", replicas=0)
    back(world, 1)
    found = world.cluster.get("Deployment", "churn-v1")
    assert found is not None
    assert found["spec"]["replicas"] == 1
    world = long_story()
    shifting.move(
        world.context, "churn", lambda now: replace(now, traffic=now.traffic.without_pin("churn-v1")), action="remove"
    )
    back(world, 1)
    assert "churn-v1" in world.endpoint().traffic.pins


def test_an_endpoint_that_was_deleted_and_made_anew_goes_back_to_its_earlier_life() -> None:
    world = long_story()
    removal.delete_endpoint(world.context, "churn")
    world.deploy("churn-v3")
    with pytest.raises(StateConflict, match="change 9 of endpoint 'churn' deleted it and left no traffic"):
        back(world, 9)
    back(world, 4)
    assert world.endpoint().traffic.weights == {"churn-v1": 50, "churn-v2": 50}


def test_an_entry_that_was_cut_is_not_put_back_as_if_it_were_whole() -> None:
    world = long_story()
    change = world.registry.history("prod", "churn")[0]
    many = tuple(Arm(deployment=f"d{i}", match=({"headers": {"x": {"exact": "y" * 200}}},)) for i in range(30))
    assert change.after is not None
    long = replace(change, after=replace(change.after, arms=many))
    cut = from_json(RoutingChange, json.loads(long.as_tag()))
    assert (cut.whole, from_json(RoutingChange, json.loads(change.as_tag())).whole) == (False, True)
    with pytest.raises(StateConflict, match="the entry of change 1 of endpoint 'churn' was too long for a tag"):
        check_restorable(cut)


def test_an_entry_without_stable_takes_the_first_of_its_split_and_versions_from_others() -> None:
    world = long_story()
    changes = list(world.registry.history("prod", "churn"))
    bare = replace(changes[3], stable=None, versions={})
    assert needed(bare, changes) == {"churn-v1": "churn/1", "churn-v2": "churn/2"}
    assert needed(bare, ()) == {"churn-v1": "", "churn-v2": ""}
    assert restore(world.endpoint(), bare, TIME).stable.name == "churn-v1"


def test_a_deployment_of_no_known_version_is_named() -> None:
    world = long_story()
    world.cluster.delete("Deployment", "churn-v1")
    changes = world.registry._changes[("prod", "churn")]
    for key, change in changes.items():
        changes[key] = replace(change, versions={})
    with pytest.raises(
        StateConflict, match="needs deployment 'churn-v1', which is gone, and no entry says which version"
    ):
        back(world, 1)


def test_foreign_destinations_are_kept_and_never_made_up() -> None:
    endpoint = read_endpoint(adopted(), "churn")
    change = long_story().registry.history("prod", "churn")[0]
    mine = Traffic(split=(WeightedDestination(destination=own("v1"), weight=100),), pins=("v1",))
    restored = restore(endpoint, replace(change, after=mine, stable=own("v1")), TIME)
    assert restored.traffic.weights == {"v1": 100, LEGACY.name: 0, "other": 0}
    lost = replace(mine, split=(WeightedDestination(destination=Destination(host="lost"), weight=100),))
    with pytest.raises(StateConflict, match="had 'lost' in route 'main', which is not ours and is not there any more"):
        restore(endpoint, replace(change, after=lost, stable=None), TIME)
    with pytest.raises(StateConflict, match="needs deployment 'v1', which endpoint 'churn' does not have"):
        restore(
            replace(an_endpoint(), traffic=replace(an_endpoint().traffic, pins=("v2",))),
            replace(change, after=mine),
            TIME,
        )


def test_a_change_of_none_is_named() -> None:
    with pytest.raises(NotFound, match="endpoint 'churn' has no routing change '1': none is known"):
        find_change((), "1", "churn")


def test_the_traffic_of_an_entry_is_read_back_as_it_was_written() -> None:
    for change in long_story().registry.history("prod", "churn"):
        assert from_json(RoutingChange, to_json(change)) == change
        assert change.after is None or from_json(Traffic, to_json(change.after)) == change.after
