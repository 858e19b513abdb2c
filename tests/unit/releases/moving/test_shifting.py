"""Moving traffic: targets must be ready, one edit moves it, proxies confirm it, and the ledger has it once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotFound, NotReady, NotRouted, StateConflict
from mlflow_istio.releases.context import Context, Outcome
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, a_world, with_canary


def promoted() -> World:
    world = with_canary()
    shifting.promote(world.context, "churn")
    return world


def shadow() -> World:
    return a_world("churn-v1", "churn-v3", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=5))


def start(context: Context, **changes: Any) -> Outcome:
    options: dict[str, Any] = {
        "strategy": "canary",
        "candidates": ("churn-v2",),
        "traffic_request": TrafficRequest(weight=10),
    }
    return shifting.start(context, "churn", **{**options, **changes})


MOVES: dict[str, tuple[Callable[[], World], Callable[[Context], Outcome], dict[str, int], str]] = {
    "start": (lambda: a_world("churn-v1", "churn-v2"), start, {"churn-v1": 90, "churn-v2": 10}, "start"),
    "shift": (
        with_canary,
        lambda context: shifting.shift(context, "churn", TrafficRequest(weight=40)),
        {"churn-v1": 60, "churn-v2": 40},
        "shift",
    ),
    "promote": (with_canary, lambda context: shifting.promote(context, "churn"), {"churn-v2": 100}, "promote"),
    "abort": (with_canary, lambda context: shifting.abort(context, "churn"), {"churn-v1": 100}, "abort"),
    "rollback": (with_canary, lambda context: shifting.rollback(context, "churn"), {"churn-v1": 100}, "rollback"),
    "rollback of a promotion": (
        promoted,
        lambda context: shifting.rollback(context, "churn"),
        {"churn-v1": 100},
        "rollback",
    ),
}


@pytest.mark.parametrize("move", MOVES)
def test_one_edit_moves_the_traffic_and_one_entry_tells_of_it(move: str) -> None:
    make, command, weights, action = MOVES[move]
    world = make()
    recorded = len(world.history())
    world.cluster.writes.clear()
    outcome = command(world.context)
    assert outcome.changed
    assert outcome.proxies == ("in-memory",)
    assert world.endpoint().traffic.weights == weights
    assert world.cluster.writes == [("edit", "VirtualService", "churn")] * 2, "the move, and the entry that leaves"
    assert [entry[1] for entry in world.history()[recorded:]] == [action]
    change = world.registry.history("prod", "churn")[-1]
    assert set(world.registry.artifacts[change.id]) == {"before", "after"}
    assert change.after is not None
    assert change.after.weights == weights
    assert change.who == "me"
    assert world.endpoint().outbox == ()
    assert world.warnings == []


@pytest.mark.parametrize("move", MOVES)
def test_given_again_a_move_has_nothing_to_do_and_records_nothing(move: str) -> None:
    make, command, weights, _ = MOVES[move]
    world = make()
    command(world.context)
    recorded = world.history()
    world.cluster.writes.clear()
    outcome = command(world.context)
    assert not outcome.changed
    assert (world.cluster.writes, world.history()) == ([], recorded)
    assert world.endpoint().traffic.weights == weights


def test_reason_and_evidence_stand_in_the_ledger() -> None:
    world = with_canary()
    shifting.promote(world.context, "churn", reason="no errors")
    assert world.registry.history("prod", "churn")[-1].reason == "no errors"
    world = with_canary()
    shifting.move(
        world.context,
        "churn",
        lambda now: transitions.shift(now, TrafficRequest(weight=20)),
        action="shift",
        evidence={"p": 0.01},
    )
    assert world.registry.history("prod", "churn")[-1].evidence == {"p": 0.01}


def test_pause_and_resume_move_nothing_and_record_nothing() -> None:
    world = with_canary()
    recorded = world.history()
    shifting.pause(world.context, "churn")
    assert world.endpoint().release.state == "paused"  # type: ignore[union-attr]
    shifting.resume(world.context, "churn")
    assert world.endpoint().release.state == "open"  # type: ignore[union-attr]
    assert world.history() == recorded


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (
            lambda context: shifting.promote(context, "chrun"),
            NotFound,
            "no endpoint 'chrun' in in-memory: did you mean 'churn'",
        ),
        (
            lambda context: shifting.promote(context, "churn", candidate="churn-v3"),
            InvalidInput,
            "'churn-v3' is no candidate",
        ),
        (lambda context: start(context, strategy="cannary"), InvalidInput, "unknown strategy 'cannary'"),
        (lambda context: start(context, candidates=("churn-v3",)), StateConflict, "has an open release"),
        (
            lambda context: start(context, candidates=("churn-v9",), supersede=True),
            StateConflict,
            "has no deployment 'churn-v9'",
        ),
        (lambda context: start(context, candidates=("churn-v1",), supersede=True), InvalidInput, "is stable already"),
        (
            lambda context: start(context, strategy="ab", supersede=True),
            InvalidInput,
            "exactly one of 'header' and 'cookie'",
        ),
        (lambda context: start(context, release_id="another"), StateConflict, "has an open release"),
        (
            lambda context: shifting.shift(context, "churn", TrafficRequest(mirror=5)),
            InvalidInput,
            "'mirror' has no effect",
        ),
    ],
)
def test_a_move_that_can_not_be_is_refused_and_writes_nothing(
    command: Callable[[Context], Any], error: type[MlflowIstioError], words: str
) -> None:
    world = with_canary()
    runs = dict(world.registry.runs)
    world.cluster.writes.clear()
    with pytest.raises(error, match=words):
        command(world.context)
    assert world.cluster.writes == []
    assert world.registry.runs == runs, "a run was opened for it"


# Targets


@pytest.mark.parametrize(
    ("make", "unready", "command"),
    [
        (lambda: a_world("churn-v1", "churn-v2"), "churn-v2", start),
        (with_canary, "churn-v2", lambda context, **force: shifting.promote(context, "churn", **force)),
        (with_canary, "churn-v2", lambda context, **force: shifting.shift(context, "churn", TrafficRequest(weight=50))),
        (with_canary, "churn-v1", lambda context, **force: shifting.rollback(context, "churn", **force)),
        (with_canary, "churn-v1", lambda context, **force: shifting.abort(context, "churn", **force)),
        (promoted, "churn-v1", lambda context, **force: shifting.rollback(context, "churn", **force)),
    ],
    ids=["start", "promote", "shift", "rollback", "abort", "rollback of a promotion"],
)
def test_a_deployment_without_a_ready_replica_gets_no_traffic(
    make: Callable[[], World], unready: str, command: Callable[..., Any]
) -> None:
    world = make()
    world.cluster.unready.add(unready)
    world.cluster.writes.clear()
    with pytest.raises(
        NotReady, match=f"deployment '{unready}' has no ready replica, so it gets no traffic: .*or force it"
    ):
        command(world.context)
    assert world.cluster.writes == []


@pytest.mark.parametrize("command", [shifting.promote, shifting.rollback, shifting.abort])
def test_forced_it_gets_the_traffic_all_the_same(command: Callable[..., Outcome]) -> None:
    world = with_canary()
    world.cluster.unready.update({"churn-v1", "churn-v2"})
    assert command(world.context, "churn", force=True).changed


@pytest.mark.parametrize(
    ("make", "command", "weights"),
    [
        (with_canary, lambda context: shifting.promote(context, "churn"), {"churn-v2": 100}),
        (
            with_canary,
            lambda context: shifting.shift(context, "churn", TrafficRequest(weight=50)),
            {"churn-v1": 50, "churn-v2": 50},
        ),
        (shadow, lambda context: shifting.abort(context, "churn"), {"churn-v1": 100}),
    ],
    ids=["promote", "raise the candidate", "end of a shadow"],
)
def test_a_broken_baseline_does_not_block_what_takes_traffic_from_it(
    make: Callable[[], World], command: Callable[[Context], Any], weights: dict[str, int]
) -> None:
    world = make()
    world.cluster.unready.add("churn-v1")
    command(world.context)
    assert world.endpoint().traffic.weights == weights


def test_a_broken_candidate_does_not_block_the_rollback() -> None:
    world = with_canary()
    world.cluster.unready.add("churn-v2")
    shifting.rollback(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}


def test_a_deployment_that_is_gone_gets_no_traffic() -> None:
    world = with_canary()
    world.cluster.delete("Deployment", "churn-v2")
    with pytest.raises(
        StateConflict, match="deployment 'churn-v2' is gone, so it can't get traffic: deploy it again first"
    ):
        shifting.promote(world.context, "churn")


def test_a_deployment_must_answer_before_its_first_traffic() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="deployment 'churn-v2' gets no traffic: no proxy confirmed pinned route"):
        start(world.context)
    assert world.endpoint().traffic.weights == {"churn-v1": 100}


def test_where_a_proxy_is_late_who_has_users_gets_no_more_of_them() -> None:
    world = with_canary()
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="deployment 'churn-v2' gets no traffic: no proxy confirmed pinned route"):
        shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    assert (world.endpoint().traffic.weights, world.endpoint().outbox) == ({"churn-v1": 90, "churn-v2": 10}, ())


def test_a_shadow_must_answer_before_it_gets_copies() -> None:
    world = a_world("churn-v1", "churn-v2")
    world.cluster.unready.add("churn-v2")
    with pytest.raises(NotReady):
        start(world.context, strategy="shadow", traffic_request=TrafficRequest())


# Proxies


def test_a_change_that_no_proxy_confirms_is_stored_and_finished_by_the_same_command() -> None:
    world = with_canary()
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="routing change id"):
        shifting.rollback(world.context, "churn")
    assert world.endpoint().traffic.weights == {"churn-v1": 100}
    assert [entry.action for entry in world.endpoint().outbox] == ["rollback"]
    world.cluster.unroutable = False
    assert not shifting.rollback(world.context, "churn").changed
    assert world.history()[-1][1] == "rollback"
    assert world.endpoint().outbox == ()


def test_where_no_proxy_can_be_asked_it_is_said_that_nothing_is_proved() -> None:
    world = with_canary()
    world.cluster.wait_routed = lambda probe, timeout: ()  # type: ignore[method-assign]
    outcome = shifting.promote(world.context, "churn")
    assert outcome.proxies == ()
    assert outcome.warnings == (
        "no proxy of endpoint 'churn' can be reached from here: the change is stored, not proved",
    )
    assert world.warnings == list(outcome.warnings)


def test_a_change_that_somebody_else_overtook_is_proved_by_theirs() -> None:
    """Proxies then answer with the newer change, which contains ours; waiting for ours would time out."""
    world = with_canary()
    wait_routed, asked = world.cluster.wait_routed, []

    def overtaken(probe: Probe, timeout: float) -> Sequence[str]:
        if probe.expected_body is None:
            return wait_routed(probe, timeout)
        asked.append((probe.purpose, timeout))
        if len(asked) == 1:
            world.cluster.wait_routed = wait_routed  # type: ignore[method-assign]
            shifting.shift(world.context, "churn", TrafficRequest(weight=30))
            world.cluster.wait_routed = overtaken  # type: ignore[method-assign]
        return wait_routed(probe, timeout)

    world.cluster.wait_routed = overtaken  # type: ignore[method-assign]
    shifting.shift(world.context, "churn", TrafficRequest(weight=20), timeout=30)
    assert [timeout for _, timeout in asked] == [2.0, 28.0]
    assert asked[0][0] != asked[1][0]
    assert world.history()[-2:] == [(5, "shift"), (6, "shift")]


def test_a_short_patience_is_shared_between_both_waits() -> None:
    world = with_canary()
    world.cluster.unroutable = True
    with pytest.raises(NotRouted, match="within 0.5 s"):
        shifting.abort(world.context, "churn", timeout=1)


# A/B


def test_ab_beside_a_foreign_stable_is_refused() -> None:
    world = a_world("churn-v1", "churn-v2")
    virtual_service = world.cluster.get("VirtualService", "churn")
    assert virtual_service is not None
    key = "mlflow-istio.org/state.churn"
    state = virtual_service["metadata"]["annotations"][key]
    virtual_service["metadata"]["annotations"][key] = state.replace(
        '"stable":{"host":"churn"', '"stable":{"host":"old"'
    )
    world.cluster.apply(virtual_service)
    with pytest.raises(
        InvalidInput, match="strategy=ab needs a stable arm of ours, but 'old/churn-v1' is a foreign service"
    ):
        start(world.context, strategy="ab", traffic_request=TrafficRequest(header="x"))


def test_a_start_given_again_without_its_id_means_the_release_that_is_open() -> None:
    world = a_world("churn-v1", "churn-v2")
    first = start(world.context, strategy="ab", traffic_request=TrafficRequest(cookie="arm", weight=50))
    again = start(world.context, strategy="ab", traffic_request=TrafficRequest(cookie="arm", weight=50))
    assert first.endpoint is not None
    assert again.endpoint is not None
    assert again.endpoint.release == first.endpoint.release
    assert not again.changed


@pytest.mark.parametrize(
    ("traffic_request", "named"),
    [
        (TrafficRequest(weight=10), ""),
        (TrafficRequest(), ""),
        (TrafficRequest(weights={"churn-v1": 90, "churn-v2": 10}), ""),
        (TrafficRequest(weight=40), "'weight' has"),
        (TrafficRequest(weight=0), "'weight' has"),
        (TrafficRequest(weights={"churn-v2": 100}), "'weights' has"),
        (TrafficRequest(weight=10, match=({"headers": {"x-staff": {"exact": "1"}}},)), "'weight' and 'match' have"),
        (TrafficRequest(mirror=50), "'mirror' has"),
    ],
)
def test_a_start_given_again_with_other_weights_says_that_they_have_no_effect(
    traffic_request: TrafficRequest, named: str
) -> None:
    world = with_canary()
    outcome = start(world.context, traffic_request=traffic_request)
    assert not outcome.changed
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert list(outcome.warnings) == world.warnings
    assert [named in line for line in outcome.warnings] == ([True] if named else [])
    if named:
        assert "is open already and keeps its traffic" in outcome.warnings[0]
        assert "update-endpoint --endpoint churn" in outcome.warnings[0]


def test_superseding_with_the_release_that_is_open_does_nothing() -> None:
    world = with_canary()
    assert not start(world.context, supersede=True).changed
    assert world.history()[-1][1] == "start"


def test_superseding_gives_the_same_candidate_another_strategy() -> None:
    world = with_canary()
    start(world.context, strategy="shadow", traffic_request=TrafficRequest(mirror=5), supersede=True)
    endpoint = world.endpoint()
    assert endpoint.release is not None
    assert (endpoint.release.strategy, endpoint.traffic.weights) == ("shadow", {"churn-v1": 100})
    assert [action for _, action in world.history()][-2:] == ["supersede", "start"]


@pytest.mark.parametrize(
    ("traffic_request", "said"),
    [
        (TrafficRequest(cookie="arm"), True),
        (TrafficRequest(cookie="arm", weights={"churn-v1": 100, "churn-v2": 0}), True),
        (TrafficRequest(cookie="arm", weight=50), False),
        (TrafficRequest(header="x-arm"), False),
    ],
)
def test_arms_that_nobody_reaches_are_said_to_need_weight(traffic_request: TrafficRequest, said: bool) -> None:
    world = a_world("churn-v1", "churn-v2")
    outcome = start(world.context, strategy="ab", traffic_request=traffic_request)
    assert any("get no users before they have weight" in line for line in outcome.warnings) is said
    assert list(outcome.warnings) == world.warnings


def test_superseding_with_an_id_that_only_the_registry_knows_ends_nobody_elses_release() -> None:
    world = with_canary()
    used_up = Release(id="job-0", strategy="canary", candidates=("churn-v2",), opened=world.context.clock.now())
    world.registry.close_run(world.registry.open_run("prod", "churn", used_up), "promoted")
    before = world.text()
    with pytest.raises(StateConflict, match="'job-0' .* has ended as promoted, says the registry"):
        start(world.context, release_id="job-0", supersede=True)
    assert world.text() == before
