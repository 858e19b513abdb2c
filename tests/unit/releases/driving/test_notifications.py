"""Webhooks learn of a rollback whoever dies; and a release behind an adopted route is driven like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, with_annotations
from mlflow_istio.core.endpoint.endpoint import has_endpoint
from mlflow_istio.core.release.plan import Webhook
from mlflow_istio.errors import ClusterError, NotFound, StateConflict
from mlflow_istio.releases.deploying.removal import delete_endpoint
from mlflow_istio.releases.driving.progressive import drive
from tests.support.in_memory import Fate, Killed, mortal, with_shop
from tests.support.simulated_users import QUICK, Behaviour, Stage
from tests.unit.verbs.test_verbs import verbs_in

HOOK = Webhook(url="http://gate", events=("rollback",))


def a_bad_release(**plan: Any) -> Stage:
    stage = Stage()
    stage.users.behaviours = {"churn-v2": Behaviour(errors=0.2)}
    stage.open(**QUICK, **plan)
    return stage


def test_a_process_that_dies_while_it_tells_leaves_the_telling_to_the_next() -> None:
    stage = a_bad_release(webhooks=(HOOK,))

    def dies(_url: str, _payload: Mapping[str, Any]) -> str:
        raise Killed

    stage.says = dies
    with pytest.raises(Killed):
        stage.drive()
    assert stage.outcome() == "rolled-back", "the traffic does not wait for it"
    assert stage.world.endpoint().pending_notification is not None

    stage.says = lambda _url, payload: "" if payload["verdict"]["word"] == "rollback" else "who?"
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == ("rolled-back", True)
    assert stage.asked == [("rollback", "rollback", "")]
    assert stage.world.endpoint().pending_notification is None


def test_resume_tells_what_a_dead_process_did_not() -> None:
    stage = a_bad_release(webhooks=(Webhook(url="http://127.0.0.1:9/gone", events=("rollback",)),))

    def dies(_url: str, _payload: Mapping[str, Any]) -> str:
        raise Killed

    stage.says = dies
    with pytest.raises(Killed):
        stage.drive()
    warnings: list[str] = []
    verbs = verbs_in(stage.world, warnings)
    assert verbs.goes_on_by_itself("churn")
    assert verbs.resume_release("churn").view["outcome"] == "rolled-back"
    assert any("http://127.0.0.1:9 was told of the rollback and said: no answer" in line for line in warnings)
    assert not verbs.goes_on_by_itself("churn")
    with pytest.raises(StateConflict, match="has no release that goes on by itself"):
        verbs.resume_release("churn")


def test_killed_at_any_call_of_the_rollback_somebody_is_told_at_least_once() -> None:
    whole, fate = a_bad_release(webhooks=(HOOK,)), Fate(call=0, replied=False)
    drive(mortal(whole.context, fate), whole.dependencies, "churn")
    for replied in (False, True):
        for call in range(max(1, fate.calls - 14), fate.calls + 1):
            stage = a_bad_release(webhooks=(HOOK,))
            with pytest.raises(Killed):
                drive(mortal(stage.context, Fate(call=call, replied=replied)), stage.dependencies, "churn")
            if stage.world.endpoint().release is not None or stage.world.endpoint().pending_notification is not None:
                stage.drive()
            assert stage.outcome() == "rolled-back"
            assert ("rollback", "rollback", "") in stage.asked, f"killed at call {call} of {fate.calls}"
            assert stage.world.endpoint().pending_notification is None


@pytest.mark.parametrize("damage", ["", "no JSON", "[]", '{"hooks": [{"url": "http://gate"}], "payload": {}}'])
def test_a_note_that_somebody_damaged_is_said_and_holds_nothing_up(damage: str) -> None:
    stage = Stage()

    def edited(found: Object | None) -> Object:
        return with_annotations(found or {}, {"mlflow-istio.org/untold.churn": damage})

    stage.world.cluster.edit("VirtualService", "churn", edited)
    assert stage.release(**QUICK).outcome == "promoted"
    assert any("mlflow-istio.org/untold.churn can't be read" in warning for warning in stage.world.warnings)
    assert stage.world.endpoint().pending_notification is None
    assert stage.asked == []


def test_where_nobody_wants_to_know_nothing_is_noted() -> None:
    stage = a_bad_release(webhooks=(Webhook(url="http://gate", events=("start",)),))
    assert stage.drive().outcome == "rolled-back"
    assert stage.world.endpoint().pending_notification is None
    assert [event for event, _, _ in stage.asked] == ["start"]


def test_a_cluster_that_is_away_afterwards_does_not_undo_the_outcome() -> None:
    stage = a_bad_release(webhooks=(HOOK,))

    def then_away(_url: str, _payload: Mapping[str, Any]) -> str:
        stage.world.cluster.before_write = away
        return ""

    def away(_kind: str, _name: str) -> None:
        raise ClusterError("the API server is away")

    stage.says = then_away
    assert stage.drive().outcome == "rolled-back"
    assert any("'mlflow-istio resume churn' tells them" in warning for warning in stage.world.warnings)


def test_an_endpoint_that_is_deleted_while_webhooks_are_told_ends_nothing_in_a_crash() -> None:
    stage = a_bad_release(webhooks=(HOOK,))

    def deletes(_url: str, _payload: Mapping[str, Any]) -> str:
        delete_endpoint(stage.world.context, "churn", force=True)
        return ""

    stage.says = deletes
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == ("rolled-back", False)
    assert stage.asked == [("rollback", "rollback", "")]
    assert not any("may not know" in warning for warning in stage.world.warnings), "they were told"


def test_an_endpoint_that_is_deleted_while_a_later_command_tells_is_not_found() -> None:
    stage = a_bad_release(webhooks=(HOOK,))

    def dies(_url: str, _payload: Mapping[str, Any]) -> str:
        raise Killed

    def deletes(_url: str, _payload: Mapping[str, Any]) -> str:
        delete_endpoint(stage.world.context, "churn", force=True)
        return ""

    stage.says = dies
    with pytest.raises(Killed):
        stage.drive()
    stage.says = deletes
    with pytest.raises(NotFound, match="there is no endpoint 'churn'"):
        stage.drive()
    assert stage.asked == [("rollback", "rollback", "")]


def test_an_adopted_route_that_is_given_back_while_webhooks_are_told_is_left_alone() -> None:
    stage = Stage(world=with_shop(deployed=("churn-v1",)))
    stage.users.behaviours = {"churn-v2": Behaviour(errors=0.2)}

    def gives_back(_url: str, _payload: Mapping[str, Any]) -> str:
        delete_endpoint(stage.world.context, "churn", force=True)
        return ""

    stage.says = gives_back
    assert stage.release(**QUICK, webhooks=(HOOK,)).outcome == "rolled-back"
    shop = stage.world.cluster.get("VirtualService", "shop")
    assert shop is not None
    assert not has_endpoint(shop, "churn")


@pytest.mark.parametrize(("errors", "outcome"), [(0.01, "promoted"), (0.2, "rolled-back")])
def test_behind_an_adopted_route_a_release_is_driven_to_its_end(errors: float, outcome: str) -> None:
    stage = Stage(world=with_shop(deployed=("churn-v1",)))
    stage.users.behaviours = {"churn-v2": Behaviour(errors=errors)}
    ending = stage.release(**QUICK, webhooks=(HOOK,))
    assert ending.outcome == outcome
    assert stage.world.endpoint().adopted is not None
    assert stage.asked == ([] if outcome == "promoted" else [("rollback", "rollback", "")])
