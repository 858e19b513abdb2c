"""A plan is carried out only on the endpoint it was made for, and can be given again after its command died."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.fingerprint import fingerprint, moved
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.dry_run import DryCluster, DryRegistry
from mlflow_istio.releases.guarded import GuardedCluster
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Fate, Killed, World, a_request, a_world, mortal, with_canary, with_shop

Command = Callable[[Context], Any]


def planned(world: World, command: Command) -> list[dict[str, str]]:
    """The states that a plan goes through."""
    guard = GuardedCluster(DryCluster(world.cluster), "churn")
    command(replace(world.context, cluster=guard, registry=DryRegistry(world.registry)))
    return guard.states


def carry_out(world: World, plan: list[dict[str, str]], command: Command, context: Context | None = None) -> Any:
    found = context or world.context
    return command(replace(found, cluster=GuardedCluster(found.cluster, "churn", plan)))


def start(context: Context, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "strategy": "canary",
        "candidates": ("churn-v2",),
        "traffic_request": TrafficRequest(weight=10),
    }
    return shifting.start(context, "churn", **{**options, "release_id": "r-planned", **changes})


def create(context: Context) -> Any:
    request = a_request("churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=5), release_id="r-planned")
    return deployments.deploy(context, request)


COMMANDS: dict[str, tuple[Callable[[], World], Command]] = {
    "start": (lambda: a_world("churn-v1", "churn-v2"), start),
    "shift": (with_canary, lambda context: shifting.shift(context, "churn", TrafficRequest(weight=50))),
    "promote": (with_canary, lambda context: shifting.promote(context, "churn")),
    "rollback": (with_canary, lambda context: shifting.rollback(context, "churn")),
    "supersede": (with_canary, lambda context: start(context, candidates=("churn-v3",), supersede=True)),
    "first": (World, lambda context: deployments.deploy(context, a_request("churn-v1"))),
    "create": (lambda: a_world("churn-v1"), create),
    "create behind an adopted route": (lambda: with_shop(deployed=()), create),
}


@pytest.mark.parametrize(("make", "command"), COMMANDS.values(), ids=list(COMMANDS))
def test_a_plan_is_carried_out_through_exactly_the_states_it_named(make: Callable[[], World], command: Command) -> None:
    world = make()
    before = world.text()
    plan = planned(world, command)
    assert world.text() == before, "a plan changes nothing"
    carry_out(world, plan, command)
    virtual_service = "shop" if world.cluster.get("VirtualService", "shop") else "churn"
    found = fingerprint(
        world.cluster.get("VirtualService", virtual_service), world.cluster.get("DestinationRule", "churn"), "churn"
    )
    assert found == plan[-1]
    after = world.text()
    carry_out(world, plan, command)
    assert world.text() == after, "given again, it has nothing left to do"


@pytest.mark.parametrize(
    ("name", "replied"),
    [("start", False), ("start", True), ("supersede", False), ("supersede", True), ("create", True)],
)
def test_killed_at_any_call_the_same_plan_finishes(name: str, replied: bool) -> None:
    make, command = COMMANDS[name]
    before, whole = make(), Fate(call=0, replied=replied)
    undisturbed = copy.deepcopy(before)
    plan = planned(undisturbed, command)
    carry_out(undisturbed, plan, command, mortal(undisturbed.context, whole))
    expected = undisturbed.text()
    for call in range(1, whole.calls + 1):
        world = copy.deepcopy(before)
        with pytest.raises(Killed):
            carry_out(world, plan, command, mortal(world.context, Fate(call=call, replied=replied)))
        carry_out(world, plan, command)
        assert world.text() == expected, f"killed at call {call} of {whole.calls}"


def edit_routes(world: World) -> None:
    def edit(obj: Object | None) -> Object:
        assert obj is not None
        http = [
            {**r, "match": [{"uri": {"prefix": "/x"}}]} if r["name"].endswith("split") else r
            for r in obj["spec"]["http"]
        ]
        return {**obj, "spec": {**obj["spec"], "http": http}}

    world.cluster.edit("VirtualService", "churn", edit)


MOVES: dict[str, tuple[Callable[[World], Any], str]] = {
    "weights": (
        lambda w: shifting.shift(w.context, "churn", TrafficRequest(weight=20)),
        "its traffic was churn-v1 90%, churn-v2 10%, is",
    ),
    "release": (lambda w: shifting.pause(w.context, "churn"), r"its release was 'id.*open\), is 'id.*paused\)"),
    "promotion": (lambda w: shifting.promote(w.context, "churn"), "its stable was churn-v1, is churn-v2"),
    "deployment": (
        lambda w: deployments.deploy(w.context, a_request("forest-v1", endpoint="churn")),
        "its subsets was",
    ),
    "routes": (edit_routes, "its routes were edited"),
}


@pytest.mark.parametrize(("move", "words"), MOVES.values(), ids=list(MOVES))
@pytest.mark.parametrize("when", ["before", "during the edit"])
def test_what_moved_since_is_named_and_nothing_is_written(when: str, move: Callable[[World], Any], words: str) -> None:
    world = with_canary()

    def shift(context: Context) -> Any:
        return shifting.shift(context, "churn", TrafficRequest(weight=50))

    plan = planned(world, shift)
    if when == "before":
        move(world)
        world.cluster.writes.clear()
    else:

        def meanwhile(_kind: str, _name: str) -> None:
            world.cluster.before_write = lambda _kind, _name: None
            move(world)
            world.cluster.writes.clear()

        world.cluster.before_write = meanwhile
    with pytest.raises(StateConflict, match=f"the plan no longer fits endpoint 'churn'.*{words}"):
        carry_out(world, plan, shift)
    assert world.cluster.writes == []


def test_what_nobody_decided_does_not_spoil_a_plan() -> None:
    world = with_canary()
    world.registry.down = True
    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    world.registry.down = False

    def shift(context: Context) -> Any:
        return shifting.shift(context, "churn", TrafficRequest(weight=50))

    plan = planned(world, shift)
    assert world.endpoint().outbox
    from mlflow_istio.releases.ledger import flush_outbox

    flush_outbox(world.context, "churn")
    assert not world.endpoint().outbox
    carry_out(world, plan, shift)
    assert world.endpoint().traffic.weights == {"churn-v1": 50, "churn-v2": 50}


def test_a_refusal_of_the_command_itself_stays_what_it_is() -> None:
    world = with_canary()
    with pytest.raises(MlflowIstioError, match="has an open release"):
        planned(world, lambda context: start(context, candidates=("churn-v3",)))


def test_parts_that_are_equal_are_not_named() -> None:
    one = {"stable": "a", "routes": "1"}
    assert moved(one, one) == []
    assert moved(one, {"stable": "a", "routes": "2"}) == ["its routes were edited"]
    assert moved(one, {"stable": "b", "routes": "2"}) == ["its stable was a, is b"]
