"""Two commands at once: neither is lost, neither does what the other forbids, and each says what it met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import EditConflict, NotFound, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, a_world, with_canary


def meanwhile(world: World, other: Callable[[Context], Any], kind: str = "VirtualService") -> None:
    """Let another command run between the read and the write of the next edit of a kind."""

    def run(its_kind: str, _name: str) -> None:
        if its_kind == kind:
            world.cluster.before_write = lambda _kind, _name: None
            other(world.context)

    world.cluster.before_write = run


def shift(weight: int) -> Callable[[Context], Any]:
    return lambda context: shifting.shift(context, "churn", TrafficRequest(weight=weight))


def start(candidate: str, **changes: Any) -> Callable[[Context], Any]:
    options: dict[str, Any] = {"strategy": "canary", "traffic_request": TrafficRequest(weight=10), **changes}
    return lambda context: shifting.start(context, "churn", candidates=(candidate,), **options)


def end(verb: Callable[..., Any]) -> Callable[[Context], Any]:
    return lambda context: verb(context, "churn")


promote, rollback, abort = (end(verb) for verb in (shifting.promote, shifting.rollback, shifting.abort))
supersede = start("churn-v3", supersede=True)


def quiet() -> World:
    return a_world("churn-v1", "churn-v2", "churn-v3")


@pytest.mark.parametrize(
    ("make", "first", "second", "weights", "actions"),
    [
        (with_canary, shift(20), shift(30), {"churn-v1": 80, "churn-v2": 20}, ["shift", "shift"]),
        (with_canary, promote, shift(30), {"churn-v2": 100}, ["shift", "promote"]),
        (with_canary, rollback, shift(30), {"churn-v1": 100}, ["shift", "rollback"]),
        (with_canary, rollback, promote, {"churn-v1": 100}, ["promote", "rollback"]),
        (with_canary, promote, promote, {"churn-v2": 100}, ["promote"]),
        (with_canary, rollback, rollback, {"churn-v1": 100}, ["rollback"]),
        (with_canary, abort, rollback, {"churn-v1": 100}, ["rollback"]),
        (with_canary, rollback, abort, {"churn-v1": 100}, ["abort"]),
        (with_canary, shift(20), end(shifting.pause), {"churn-v1": 80, "churn-v2": 20}, ["shift"]),
    ],
)
def test_commands_that_can_both_be_are_both_carried_out_and_recorded_in_order(
    make: Callable[[], World],
    first: Callable[[Context], Any],
    second: Callable[[Context], Any],
    weights: dict[str, int],
    actions: list[str],
) -> None:
    world = make()
    recorded = len(world.history())
    meanwhile(world, second)
    first(world.context)
    assert world.endpoint().traffic.weights == weights
    assert [action for _, action in world.history()[recorded:]] == actions
    assert [sequence for sequence, _ in world.history()] == list(range(1, len(world.history()) + 1))
    assert world.endpoint().outbox == ()


@pytest.mark.parametrize(
    ("make", "first", "second", "words"),
    [
        (with_canary, shift(20), promote, "has no open release"),
        (with_canary, shift(20), rollback, "has no open release"),
        (with_canary, promote, abort, "has no open release"),
        (with_canary, abort, promote, "has no open release"),
        (
            with_canary,
            promote,
            supersede,
            "was changed by somebody else meanwhile .*look at 'mlflow-istio status churn'",
        ),
        (with_canary, shift(20), supersede, "was changed by somebody else meanwhile"),
        (with_canary, rollback, supersede, "was changed by somebody else meanwhile"),
        (with_canary, abort, supersede, "was changed by somebody else meanwhile"),
        (quiet, start("churn-v2"), start("churn-v3"), "has an open release"),
        (quiet, start("churn-v2"), start("churn-v2"), "has an open release"),
        (quiet, start("churn-v2"), lambda context: removal.delete(context, "churn-v2"), "has no deployment 'churn-v2'"),
        (quiet, lambda context: removal.delete(context, "churn-v2"), start("churn-v2"), "has traffic"),
        (
            quiet,
            start("churn-v2"),
            lambda context: removal.delete_endpoint(context, "churn"),
            "there is no endpoint 'churn' any more",
        ),
    ],
)
def test_a_command_that_the_other_made_impossible_says_so_and_changes_nothing(
    make: Callable[[], World], first: Callable[[Context], Any], second: Callable[[Context], Any], words: str
) -> None:
    world = make()
    after_second: list[str] = []

    def other(context: Context) -> None:
        second(context)
        after_second.append(world.text())

    meanwhile(world, other)
    with pytest.raises((StateConflict, NotFound), match=words):
        first(world.context)
    assert [world.text()] == after_second


def test_a_first_release_that_appears_meanwhile_is_named() -> None:
    """A verb that had nothing to do when it was planned must not act on a release that it has never seen."""
    world = quiet()

    def raise_what_is_open(now: Endpoint) -> Endpoint:
        return transitions.shift(now, TrafficRequest(weight=5)) if now.release else now

    get, read = world.cluster.get, []

    def appearing(kind: str, name: str) -> Object | None:
        found = get(kind, name)
        if kind == "VirtualService" and not read:
            read.append(name)
            start("churn-v2")(world.context)
        return found

    world.cluster.get = appearing  # type: ignore[method-assign]
    with pytest.raises(StateConflict, match=r"meanwhile \(release was none, is 'id\d+'\)"):
        shifting.move(world.context, "churn", raise_what_is_open, action="shift")
    assert world.endpoint().traffic.weights["churn-v2"] == 10


def test_a_user_who_edits_the_object_meanwhile_keeps_the_edit() -> None:
    world = with_canary()

    def edit(_context: Context) -> None:
        def retries(found: Object | None) -> Object:
            assert found is not None
            http = [
                {**route, "timeout": "9s"} if route["name"].endswith(".split") else route
                for route in found["spec"]["http"]
            ]
            return {**found, "spec": {**found["spec"], "http": http}}

        world.cluster.edit("VirtualService", "churn", retries)

    meanwhile(world, edit)
    promote(world.context)
    found = world.cluster.get("VirtualService", "churn")
    assert found is not None
    assert found["spec"]["http"][-1]["timeout"] == "9s"
    assert world.endpoint().traffic.weights == {"churn-v2": 100}


def test_others_that_never_stop_are_an_error_with_nothing_written() -> None:
    world = with_canary()
    count = iter(range(1000))

    def touch(kind: str, name: str) -> None:
        found = world.cluster.get(kind, name)
        assert found is not None
        found["metadata"]["labels"]["touched"] = str(next(count))
        world.cluster.apply(found)

    world.cluster.before_write = touch
    with pytest.raises(
        EditConflict, match="VirtualService 'churn' kept being changed by others: run the command again"
    ):
        promote(world.context)
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}


def test_a_lost_reply_is_recognised_where_the_verb_would_refuse_a_second_time() -> None:
    """The write took effect, but the cluster had to read and try again: the verb must not be asked once more."""
    world = with_canary()
    edit = world.cluster.edit

    def twice(kind: str, name: str, change: Any) -> Any:
        before, _ = edit(kind, name, change)
        _, after = edit(kind, name, change)
        return before, after

    def once(now: Any) -> Any:
        if now.traffic.weights.get("churn-v2") == 77:
            raise StateConflict("asked a second time")
        return transitions.shift(now, TrafficRequest(weight=77))

    world.cluster.edit = twice  # type: ignore[method-assign]
    shifting.move(world.context, "churn", once, action="shift")
    assert world.history()[-1] == (5, "shift")


def test_tags_are_written_anew_when_the_endpoint_changes_while_they_are() -> None:
    """The last writer must be right, whoever published last."""
    world = with_canary()
    publish = world.registry.publish

    def slow(standing: Any) -> None:
        world.registry.publish = publish  # type: ignore[method-assign]
        rollback(world.context)  # somebody rolls back and publishes, then our older tags arrive
        publish(standing)

    world.registry.publish = slow  # type: ignore[method-assign]
    promote(world.context)
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert world.registry.aliases == {("churn", "champion"): 1}
    assert world.registry.tags["churn/1"]["istio.prod.churn.role"] == "stable"
    assert world.registry.tags["churn/2"]["istio.prod.churn.weight"] == "0"


def test_tags_do_not_come_back_for_an_endpoint_that_is_deleted_while_they_are_written() -> None:
    world = quiet()
    publish = world.registry.publish

    def slow(standing: Any) -> None:
        world.registry.publish = publish  # type: ignore[method-assign]
        removal.delete_endpoint(world.context, "churn", force=True)
        publish(standing)

    world.registry.publish = slow  # type: ignore[method-assign]
    with pytest.raises(NotFound, match="there is no endpoint 'churn' any more"):
        start("churn-v2")(world.context)
    assert all(not tags for tags in world.registry.tags.values())
    assert (world.registry.aliases, world.registry.owners) == ({}, {})


def test_an_endpoint_that_never_stands_still_ends_the_writing_of_tags() -> None:
    world = with_canary()
    publish, weights = world.registry.publish, iter(range(20, 90))
    published = []

    def restless(standing: Any) -> tuple[str, ...]:
        published.append(standing)
        world.registry.publish = publish  # type: ignore[method-assign]
        shift(next(weights))(world.context)
        world.registry.publish = restless  # type: ignore[method-assign]
        return publish(standing)

    world.registry.publish = restless  # type: ignore[method-assign]
    shift(15)(world.context)
    assert len(published) == 5
