"""No change is lost or recorded twice, whatever the registry does; tags and aliases follow the object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.registry_state import gone_from_registry
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import RegistryError, StateConflict
from mlflow_istio.releases import ledger
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, a_request, a_world, deploy, with_canary


def ids(changes: Any) -> list[str]:
    return [change.id for change in changes]


def test_a_registry_that_is_down_never_blocks_a_rollback_and_loses_nothing() -> None:
    world = with_canary()
    world.registry.down = True
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    outcome = shifting.rollback(world.context, "churn", reason="errors")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert any(
        "2 routing changes wait on endpoint 'churn' itself until the registry takes them" in w for w in outcome.warnings
    )
    owed = world.endpoint().outbox
    assert [(change.sequence, change.action) for change in owed] == [(5, "shift"), (6, "rollback")]
    world.registry.down = False
    assert flush_outbox(world.context, "churn") == ()
    assert world.history()[-2:] == [(5, "shift"), (6, "rollback")]
    recorded = world.registry.history("prod", "churn")[-2:]
    assert [(change.time, change.reason) for change in recorded] == [(change.time, change.reason) for change in owed]
    assert world.endpoint().outbox == ()
    assert world.registry.tags["churn/2"] == {"istio.prod.churn.weight": "0", "istio.prod.churn.role": "idle"}
    assert world.registry.runs[recorded[-1].run or ""] == "rolled-back"


def test_one_change_that_waits_is_said_in_the_singular() -> None:
    world = with_canary()
    world.registry.down = True
    outcome = shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    assert outcome.warnings[0].startswith("1 routing change waits on endpoint 'churn' itself")
    assert world.warnings == list(outcome.warnings)


def test_any_later_command_records_what_was_left_over_first() -> None:
    world = with_canary()
    world.registry.down = True
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    world.registry.down = False
    shifting.promote(world.context, "churn")
    assert world.history()[-2:] == [(5, "shift"), (6, "promote")]


def test_a_release_that_was_opened_and_ended_while_the_registry_was_down_gets_one_run_that_is_ended() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.registry.down = True
    options: dict[str, Any] = {
        "strategy": "canary",
        "candidates": ("churn-v2",),
        "traffic_request": TrafficRequest(weight=10),
    }
    started = shifting.start(world.context, "churn", release_id="r7", **options)
    assert "no run could be opened yet" in started.warnings[0]
    assert world.warnings == list(started.warnings)
    shifting.promote(world.context, "churn")
    world.registry.down = False
    flush_outbox(world.context, "churn")
    assert world.registry.runs == {"run-prod-churn-standing": "", "run-prod-churn-r7": "promoted"}
    assert {change.run for change in world.registry.history("prod", "churn")[-2:]} == {"run-prod-churn-r7"}


def test_an_older_release_than_the_last_gets_its_run_too() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.registry.down = True
    options: dict[str, Any] = {
        "strategy": "canary",
        "candidates": ("churn-v2",),
        "traffic_request": TrafficRequest(weight=10),
    }
    for release in ("r7", "r8"):
        shifting.start(world.context, "churn", release_id=release, **options)
        shifting.abort(world.context, "churn")
    shifting.start(world.context, "churn", release_id="r9", **options)
    world.registry.down = False
    flush_outbox(world.context, "churn")
    assert world.registry.runs == {
        "run-prod-churn-standing": "",
        "run-prod-churn-r7": "aborted",
        "run-prod-churn-r8": "aborted",
        "run-prod-churn-r9": "",
    }


class Failing:
    """Makes a registry fail at given calls of one method, and work otherwise."""

    def __init__(self, world: World, method: str, *calls: int) -> None:
        self.method = getattr(world.registry, method)
        self.calls, self.count = calls, 0
        setattr(world.registry, method, self)

    def __call__(self, *args: Any) -> Any:
        self.count += 1
        if self.count in self.calls:
            raise RegistryError(f"down at call {self.count}")
        return self.method(*args)


def owing(count: int) -> World:
    world = with_canary()
    world.registry.down = True
    for weight in range(20, 20 + count):
        shifting.shift(world.context, "churn", TrafficRequest(weight=weight))
    world.registry.down = False
    return world


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_what_was_recorded_before_the_registry_fails_again_leaves_the_object(failing: int) -> None:
    world = owing(3)
    Failing(world, "record", failing)
    (warning,) = flush_outbox(world.context, "churn")
    assert f"{4 - failing} routing change" in warning
    assert [change.sequence for change in world.endpoint().outbox] == [5, 6, 7][failing - 1 :]
    flush_outbox(world.context, "churn")
    assert [sequence for sequence, _ in world.history()] == [1, 2, 3, 4, 5, 6, 7]


def test_the_end_of_a_release_is_not_recorded_before_its_run_is_ended() -> None:
    world = with_canary()
    Failing(world, "close_run", 1)
    shifting.promote(world.context, "churn")
    assert [change.action for change in world.endpoint().outbox] == ["promote"]
    flush_outbox(world.context, "churn")
    assert world.history()[-1] == (5, "promote")
    assert "promoted" in world.registry.runs.values()
    assert world.endpoint().outbox == ()


def test_tags_that_could_not_be_written_are_mended_by_any_later_command() -> None:
    world = with_canary()
    Failing(world, "publish", 1)
    outcome = shifting.promote(world.context, "churn")
    assert "tags and aliases of endpoint 'churn' are not up to date" in outcome.warnings[0]
    assert world.endpoint().outbox == (), "it is recorded all the same"
    assert world.registry.aliases[("churn", "champion")] == 1
    shifting.promote(world.context, "churn")
    assert world.registry.aliases == {("churn", "champion"): 2}


def test_tags_of_a_removed_version_are_owed_until_they_are_gone() -> None:
    """Once the deployment is gone, nothing but the entry knows which version it was."""
    world = with_canary()
    Failing(world, "publish", 1)
    removal.delete(world.context, "churn-v3")
    assert [change.action for change in world.endpoint().outbox] == ["remove"]
    assert world.registry.tags["churn/3"]
    flush_outbox(world.context, "churn", publish=False)
    assert world.registry.tags["churn/3"] == {}
    assert world.endpoint().outbox == ()
    assert [action for _, action in world.history()].count("remove") == 1


def test_only_the_removal_is_owed_when_recording_fails_after_it() -> None:
    world = with_canary()
    world.registry.down = True
    removal.delete(world.context, "churn-v3")
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    shifting.shift(world.context, "churn", TrafficRequest(weight=40))
    world.registry.down = False
    Failing(world, "record", 3)
    flush_outbox(world.context, "churn")
    assert [change.action for change in world.endpoint().outbox] == ["remove", "shift"]
    flush_outbox(world.context, "churn")
    assert world.registry.tags["churn/3"] == {}
    assert [sequence for sequence, _ in world.history()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_version_that_is_deployed_again_keeps_its_tags() -> None:
    world = with_canary()
    world.registry.down = True
    removal.delete(world.context, "churn-v3")
    world.registry.down = False
    world.deploy("churn-v3")
    assert world.registry.tags["churn/3"]["istio.prod.churn.role"] == "idle"


def test_a_removed_version_that_another_deployment_serves_keeps_its_tags() -> None:
    world = with_canary()
    deploy(world.context, replace(a_request("churn-v3"), name="twin"))
    removal.delete(world.context, "churn-v3")
    assert world.registry.tags["churn/3"]["istio.prod.churn.role"] == "idle"


def test_nothing_left_over_and_nothing_to_publish_asks_the_registry_nothing() -> None:
    world = with_canary()
    world.registry.down = True
    assert flush_outbox(world.context, "churn", publish=False) == ()


def test_artifacts_are_kept_for_the_change_they_belong_to() -> None:
    world = owing(2)
    shifting.promote(world.context, "churn")
    changes = world.registry.history("prod", "churn")[-3:]
    assert [set(world.registry.artifacts[change.id]) for change in changes] == [set(), set(), {"before", "after"}]


def test_a_new_endpoint_comes_into_being_while_only_recording_fails() -> None:
    world = World()
    Failing(world, "open_run", 1)
    outcome = world.deploy("churn-v1")
    assert any("no run could be opened yet" in warning for warning in outcome.warnings)
    assert world.history() == [(1, "deploy")]
    assert world.registry.history("prod", "churn")[0].run == "run-prod-churn-standing"


def test_an_endpoint_whose_versions_are_unknown_is_published_without_them() -> None:
    world = with_canary()
    found = world.cluster.get("Deployment", "churn-v3")
    assert found is not None
    del found["metadata"]["annotations"]["mlflow-istio.org/model-version"]
    world.cluster.apply(found)
    shifting.promote(world.context, "churn")
    assert world.registry.aliases == {("churn", "champion"): 2}


def test_a_change_is_attributed_to_the_release_under_which_it_was_made() -> None:
    world = with_canary()
    release = world.endpoint().release
    assert release is not None
    changes: list[RoutingChange] = list(world.registry.history("prod", "churn"))
    assert [change.release for change in changes] == [None, None, None, release.id]
    assert ids(changes[-1:]) == [world.endpoint().change]


def test_what_is_left_of_an_endpoint_that_is_gone_can_be_taken_away() -> None:
    world = with_canary()
    assert ledger.publish_nothing(world.context, "churn", {}, ["churn/1", "churn/2", "churn/3"]) == ()
    assert (world.registry.aliases, world.registry.owners) == ({}, {})
    world.registry.down = True
    (warning,) = ledger.publish_nothing(world.context, "churn", {}, ["churn/1"])
    assert "tags 'istio.prod.churn.*' and aliases are left over" in warning


def test_a_version_deleted_while_it_serves_costs_only_its_own_tags_and_alias() -> None:
    world = with_canary()
    world.registry.deleted.add("churn/1")
    outcome = shifting.promote(world.context, "churn")
    assert world.registry.aliases[("churn", "champion")] == 2
    assert world.registry.tags["churn/2"]["istio.prod.churn.role"] == "stable"
    assert outcome.warnings == (gone_from_registry("churn/1"),)
    assert world.endpoint().outbox == ()
    back = shifting.rollback(world.context, "churn")
    assert world.registry.tags["churn/2"]["istio.prod.churn.role"] == "idle"
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert back.warnings == (gone_from_registry("churn/1"),)
    assert world.history()[-1][1] == "rollback"


def test_a_release_whose_run_was_deleted_is_recorded_in_the_standing_run() -> None:
    world = with_canary()
    release = world.endpoint().release
    assert release is not None
    world.registry.deleted_runs.add(release.run or "")
    outcome = shifting.promote(world.context, "churn")
    assert [w for w in outcome.warnings if "was deleted" in w]
    assert world.endpoint().outbox == ()
    last = world.registry.history("prod", "churn")[-1]
    assert (last.action, last.run) == ("promote", "run-prod-churn-standing")


def test_a_refused_tag_is_said_and_tried_again_and_the_rest_is_written() -> None:
    world = with_canary()
    world.registry.forbidden.add("churn/1")
    outcome = shifting.promote(world.context, "churn")
    assert world.registry.tags["churn/2"]["istio.prod.churn.role"] == "stable"
    (warning,) = outcome.warnings
    assert "refused tags of churn/1 (forbidden); the rest is written" in warning
    assert warning.endswith("any later command tries again")
    world.registry.forbidden.clear()
    assert flush_outbox(world.context, "churn") == ()
    assert world.registry.tags["churn/1"]["istio.prod.churn.role"] == "idle"


def test_a_version_whose_registration_is_not_done_is_refused_by_name() -> None:
    world = with_canary()
    world.registry.pending.add("forest/1")
    with pytest.raises(StateConflict, match="models:/forest/1 .*PENDING_REGISTRATION"):
        world.deploy("forest-v1")
    assert world.cluster.get("Deployment", "forest-v1") is None
