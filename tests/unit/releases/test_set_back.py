"""An older copy of the object, applied from Git, sets the endpoint back; the numbers of its changes go on all the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.moves.way_back import find_change
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading.doctor import examine
from tests.support.foreign_edits import annotated, edit
from tests.support.in_memory import World, a_world
from tests.unit.releases.deploying.test_restoring import back

CANARY: dict[str, Any] = {
    "strategy": "canary",
    "candidates": ("churn-v2",),
    "traffic_request": TrafficRequest(weight=10),
}


def set_back() -> World:
    """Git's export is of change 2; a canary was promoted since (changes 3 and 4), and Git's is applied again."""
    world = a_world("churn-v1", "churn-v2")
    exported = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert exported is not None
    shifting.start(world.context, "churn", **CANARY)
    shifting.promote(world.context, "churn")
    apply(world, exported)
    world.warnings.clear()
    return world


def apply(world: World, obj: Object) -> None:
    world.cluster.apply(copy.deepcopy(obj))


def test_the_next_changes_are_numbered_after_those_of_the_ledger_and_the_loss_is_said() -> None:
    world = set_back()
    shifting.start(world.context, "churn", **CANARY)
    shifting.promote(world.context, "churn")
    actions = ["deploy", "deploy", "start", "promote", "start", "promote"]
    assert world.history() == list(enumerate(actions, start=1))
    (warning,) = world.warnings
    assert warning == (
        "somebody applied an older copy of VirtualService 'churn', which had set endpoint 'churn' back to an earlier change: its "
        "changes are numbered on to 5"
    )
    assert (world.endpoint().sequence, world.endpoint().outbox) == (6, ())


def test_what_was_promoted_after_it_can_be_undone_and_given_again() -> None:
    world = set_back()
    shifting.start(world.context, "churn", **CANARY)
    shifting.promote(world.context, "churn")
    assert world.endpoint().last is not None
    assert world.endpoint().last.sequence == 6  # type: ignore[union-attr]
    assert not shifting.promote(world.context, "churn").changed, "the same command again finds its work done"
    shifting.rollback(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert world.history()[-1] == (7, "rollback")


def test_changes_that_waited_for_a_registry_get_their_numbers_when_it_has_them() -> None:
    world = set_back()
    world.registry.down = True
    shifting.start(world.context, "churn", **CANARY)
    shifting.abort(world.context, "churn")
    assert [change.sequence for change in world.endpoint().outbox] == [3, 4]
    world.registry.down = False
    flush_outbox(world.context, "churn")
    assert world.history()[4:] == [(5, "start"), (6, "abort")]
    assert world.endpoint().sequence == 6
    assert not shifting.abort(world.context, "churn").changed


def test_a_change_that_was_recorded_before_its_process_died_keeps_its_number() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.registry.down = True
    shifting.start(world.context, "churn", **CANARY)
    world.registry.down = False
    (waiting,) = world.endpoint().outbox
    world.registry.record("prod", waiting, {})
    flush_outbox(world.context, "churn")
    assert world.history() == [(1, "deploy"), (2, "deploy"), (3, "start")]
    assert (world.endpoint().sequence, world.endpoint().outbox) == (3, ())


def test_doctor_names_it_with_the_change_to_go_back_to() -> None:
    world = set_back()
    (finding,) = [one for one in examine(world.context, "churn") if one.code == "set-back"]
    assert finding.severity == "error"
    assert finding.text == (
        "its object is as of change 2, and the ledger has changes up to 4: somebody applied an older copy of it"
    )
    assert finding.command == "mlflow-istio rollback churn -t {target} --to 4"
    back(world, 4)
    assert world.endpoint().traffic.weights == {"churn-v2": 100}
    assert "set-back" not in [one.code for one in examine(world.context, "churn")]


def test_a_number_that_two_changes_have_since_an_earlier_version_is_refused() -> None:
    world = set_back()
    one, two = world.registry.history("prod", "churn")[2:4]
    double = [one, replace(two, sequence=3)]
    with pytest.raises(
        InvalidInput,
        match=f"endpoint 'churn' has 2 changes 3: name the one you mean by its id: '{one.id}' .start, .*'{two.id}'",
    ):
        find_change(double, "3", "churn")
    assert find_change(double, two.id, "churn").action == "promote"


def waiting() -> tuple[World, Object]:
    """A canary's start waits for a registry that is down; what Git has is of the change before."""
    world = a_world("churn-v1", "churn-v2")
    exported = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert exported is not None
    world.registry.down = True
    shifting.start(world.context, "churn", **CANARY)
    return world, exported


def test_a_number_that_nothing_has_any_more_is_told_once_with_the_next_change() -> None:
    """Somebody prunes the annotation that keeps what the registry does not have yet."""
    world, _ = waiting()
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    edit(world, "VirtualService", annotated("unrecorded", None))
    world.registry.down = False
    world.warnings.clear()
    shifting.shift(world.context, "churn", TrafficRequest(weight=30))
    (warning,) = world.warnings
    assert warning.startswith(
        "changes 3 to 4 are neither in the registry nor on VirtualService 'churn' any more: somebody applied"
    )
    assert world.history() == [(1, "deploy"), (2, "deploy"), (5, "shift")]
    world.warnings.clear()
    shifting.shift(world.context, "churn", TrafficRequest(weight=40))
    assert world.warnings == []
    (finding,) = [one for one in examine(world.context, "churn") if one.code == "lost-changes"]
    assert "change 3, 4 any more" in finding.text
    assert "somebody took it off the object before the registry had it" in finding.text


@pytest.mark.parametrize("how", ["older copy", "pruned annotation"])
def test_what_somebody_takes_off_the_object_while_a_command_is_at_work_is_recorded_all_the_same(how: str) -> None:
    world = a_world("churn-v1", "churn-v2")
    exported = copy.deepcopy(world.cluster.get("VirtualService", "churn"))
    assert exported is not None
    wait_routed = world.cluster.wait_routed
    done: list[str] = []

    def sabotaged(probe: Any, timeout: float) -> Any:
        answer = wait_routed(probe, timeout)
        if probe.expected_body and world.endpoint().sequence == 3 and not done:
            done.append(how)
            apply(world, exported) if how == "older copy" else edit(
                world, "VirtualService", annotated("unrecorded", None)
            )
        return answer

    world.cluster.wait_routed = sabotaged  # type: ignore[method-assign]
    outcome = shifting.start(world.context, "churn", **CANARY)
    assert done
    assert world.history() == [(1, "deploy"), (2, "deploy"), (3, "start")]
    (warning,) = [
        one for one in outcome.warnings if one.startswith("somebody took change 3 (start) off VirtualService")
    ]
    assert warning.endswith("not in force any more" if how == "older copy" else "and in force")
    shifting.start(world.context, "churn", **{**CANARY, "supersede": True})
    numbers = [number for number, _ in world.history()]
    assert numbers == sorted(set(numbers))


def test_what_somebody_takes_off_while_the_registry_is_down_is_told() -> None:
    world = a_world("churn-v1", "churn-v2")
    wait_routed = world.cluster.wait_routed

    def sabotaged(probe: Any, timeout: float) -> Any:
        answer = wait_routed(probe, timeout)
        if world.endpoint().sequence == 3:
            edit(world, "VirtualService", annotated("unrecorded", None))
        return answer

    world.cluster.wait_routed = sabotaged  # type: ignore[method-assign]
    world.registry.down = True
    outcome = shifting.start(world.context, "churn", **CANARY)
    assert any("what was just stored on endpoint 'churn' can't be told" in warning for warning in outcome.warnings)


def test_what_another_process_has_recorded_meanwhile_is_not_recorded_twice() -> None:
    world = a_world("churn-v1", "churn-v2")
    wait_routed = world.cluster.wait_routed

    def beside(probe: Any, timeout: float) -> Any:
        answer = wait_routed(probe, timeout)
        if world.endpoint().outbox:
            flush_outbox(world.context, "churn")
        return answer

    world.cluster.wait_routed = beside  # type: ignore[method-assign]
    outcome = shifting.start(world.context, "churn", **CANARY)
    assert world.history() == [(1, "deploy"), (2, "deploy"), (3, "start")]
    assert not any("somebody" in warning for warning in outcome.warnings)
