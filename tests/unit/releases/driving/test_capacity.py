"""Replicas that follow the traffic of a driven release, on in-memory ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import SCALED_ANNOTATION, Object, annotations_of, name_of, wanted_replicas
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import Forbidden, InvalidInput, NotReady
from mlflow_istio.releases.deploying.deployments import update
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.driving.opening import release
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Fate, Killed, World, a_request, a_world, mortal
from tests.support.simulated_users import QUICK, Behaviour, Stage, a_release_request, kill

FOLLOW: dict[str, Any] = {**QUICK, "capacity": "follow"}


def a_stage_of(replicas: int, **behaviours: Behaviour) -> Stage:
    """churn-v1 is stable with so many replicas."""
    world = World()
    world.deploy("churn-v1", replicas=replicas)
    stage = Stage(world=world)
    stage.users.behaviours = {name.replace("_", "-"): how for name, how in behaviours.items()}
    return stage


def replicas(stage: Stage) -> dict[str, int]:
    return {name_of(obj): wanted_replicas(obj) for obj in stage.world.cluster.list("Deployment", {})}


def watched(stage: Stage) -> list[tuple[Mapping[str, int], Mapping[str, int]]]:
    """Weights and replicas whenever users send requests, without repetitions."""
    seen: list[tuple[Mapping[str, int], Mapping[str, int]]] = []
    send = stage.users.send

    def sending(seconds: float) -> None:
        now = (dict(stage.world.endpoint().traffic.weights), replicas(stage))
        if not seen or seen[-1] != now:
            seen.append(now)
        send(seconds)

    stage.users.send = sending  # type: ignore[method-assign]
    return seen


def all_as_at_start(stage: Stage) -> bool:
    last = stage.world.endpoint().last
    notes = [annotations_of(obj).get(SCALED_ANNOTATION) for obj in stage.world.cluster.list("Deployment", {})]
    return last is not None and not last.replicas and not any(notes)


@pytest.mark.parametrize(
    ("start", "steps"), [(1, {10: 1, 50: 1}), (2, {10: 1, 50: 2}), (3, {10: 1, 50: 3}), (5, {10: 1, 50: 5})]
)
def test_each_step_has_the_replicas_of_its_share_before_its_weight(start: int, steps: dict[int, int]) -> None:
    stage = a_stage_of(start)
    seen = watched(stage)
    assert stage.release(**FOLLOW).outcome == "promoted"
    for weights, now in seen:
        assert now["churn-v1"] == start  # a way back is one edit as long as it is open
        assert now.get("churn-v2", 1) >= steps.get(weights.get("churn-v2", 0), 1)
    at = {weights["churn-v2"]: now["churn-v2"] for weights, now in reversed(seen) if weights.get("churn-v2")}
    assert at == steps
    assert replicas(stage) == {"churn-v1": start, "churn-v2": start}
    assert all_as_at_start(stage)


def test_fixed_leaves_replicas_alone() -> None:
    stage = a_stage_of(5)
    assert stage.release(**QUICK).outcome == "promoted"
    assert replicas(stage) == {"churn-v1": 5, "churn-v2": 1}
    assert not [write for write in stage.world.cluster.writes if write[:2] == ("edit", "Deployment")]


def test_a_rolled_back_candidate_ends_with_what_it_had() -> None:
    stage = a_stage_of(5, churn_v2=Behaviour(errors=0.06))
    seen = watched(stage)
    assert stage.release(**{**FOLLOW, "steps": (50,)}).outcome == "rolled-back"
    assert {now["churn-v2"] for weights, now in seen if weights.get("churn-v2")} == {5}
    assert replicas(stage) == {"churn-v1": 5, "churn-v2": 1}
    assert all_as_at_start(stage)


def test_surge_bounds_all_together_and_the_stable_gives_up_what_its_share_does_not_need() -> None:
    stage = a_stage_of(4)
    seen = watched(stage)
    stage.world.cluster.before_write = lambda _kind, _name: seen.append(
        (dict(stage.world.endpoint().traffic.weights), replicas(stage))
    )
    assert stage.release(**FOLLOW, surge="50%").outcome == "promoted"
    seen = [(weights, now) for weights, now in seen if weights.get("churn-v2") != 100]  # as long as it is open
    for weights, now in seen:
        assert sum(now.values()) <= 6
        for name, weight in weights.items():
            assert now[name] * 100 >= 4 * weight, (weights, now)
    assert {now["churn-v1"] for _, now in seen} == {4, 2}  # since promotion needs 4 beside it
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 4}
    assert all_as_at_start(stage)


def test_a_stable_that_gave_up_replicas_gets_them_back_before_its_users() -> None:
    stage = a_stage_of(4)
    at_return: list[int] = []
    plans: list[Any] = []

    def spoil() -> None:
        if replicas(stage)["churn-v1"] == 2 and not plans:
            plans.append(True)
            at_return.append(replicas(stage)["churn-v1"])
            shifting.rollback(stage.context, "churn")

    writes = stage.world.cluster.writes
    stage.world.cluster.before_write = lambda kind, name: (
        spoil() if (kind, name) == ("Deployment", "churn-v2") else None
    )
    stage.release(**FOLLOW, surge="2")
    assert at_return == [2]
    edits = [name for verb, kind, name in writes if verb == "edit" and kind in ("Deployment", "VirtualService")]
    back = max(index for index, name in enumerate(edits) if name == "churn-v1")
    assert "churn" in edits[back:], "the stable has its four again before the edit that returns its users"
    assert stage.outcome() == "rolled-back"
    assert replicas(stage)["churn-v1"] == 4


def test_a_surge_below_what_a_step_needs_is_refused_before_anything_is_deployed() -> None:
    stage = a_stage_of(5)
    with pytest.raises(
        InvalidInput,
        match="^option 'surge' allows 2 replicas beyond the 5 that 'churn-v1' has, and the step to 50% needs 3: say surge=3",
    ):
        stage.release(**FOLLOW, surge="2")
    assert replicas(stage) == {"churn-v1": 5}


def test_a_step_that_would_pass_the_surge_waits_and_says_so() -> None:
    stage = a_stage_of(4)
    stage.users.plans[7.0] = lambda: update(stage.context, "churn-v1", replicas=9)
    ending = stage.release(**FOLLOW, surge="2", deadline=200.0)
    assert ending.outcome == "inconclusive"
    assert (
        "Waiting for room: the step to 50% needs 11 replicas ('churn-v2' 2, 'churn-v1' 9), and surge=2 allows 6, 2 more than "
        "the 4 that 'churn-v1' had at the start." in ending.reason
    )
    assert replicas(stage) == {"churn-v1": 9, "churn-v2": 1}  # a person's number is a person's


def test_replicas_that_do_not_come_up_hold_the_step_until_the_deadline() -> None:
    stage = a_stage_of(5)
    stage.open(**FOLLOW, deadline=120.0)
    stage.users.plans[7.0] = lambda: stage.world.cluster.unready.add("churn-v2")
    ending = stage.drive()
    assert ending.outcome == "inconclusive"
    assert "Waiting for replicas: deployment 'churn-v2' was not ready within 5 s." in ending.reason
    assert max(stage.weights_seen()) == 10
    assert replicas(stage) == {"churn-v1": 5, "churn-v2": 1}


def test_a_step_waits_until_each_replica_that_it_was_given_takes_requests() -> None:
    """A Deployment's status is not all: ``wait_ready`` knows whether the proxies have them, and is asked at every look."""
    stage = a_stage_of(2)
    stage.open(**{**FOLLOW, "steps": (50,)})
    waits, known = [], stage.world.cluster.wait_ready

    def slowly(deployment: str, timeout: float) -> None:
        if replicas(stage)["churn-v2"] == 2:
            waits.append(stage.world.endpoint().traffic.weights.get("churn-v2", 0))
            if len(waits) < 4:
                raise NotReady("deployment 'churn-v2' has 1 of 2 replicas ready")
        known(deployment, timeout)

    stage.world.cluster.wait_ready = slowly  # type: ignore[method-assign]
    assert stage.drive().outcome == "promoted"
    assert waits[:4] == [0, 0, 0, 0]


# Whose number it is


def an_autoscaler(kind: str, target: str, low: int, high: int) -> Object:
    least, most = ("minReplicaCount", "maxReplicaCount") if kind == "ScaledObject" else ("minReplicas", "maxReplicas")
    ref = {"kind": "Deployment", "name": target}
    return {
        "kind": kind,
        "metadata": {"name": f"{target}-auto"},
        "spec": {"scaleTargetRef": ref, least: low, most: high},
    }


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_an_autoscalers_number_is_left_alone_and_what_it_would_have_been_is_said(kind: str) -> None:
    stage = a_stage_of(4)
    stage.world.cluster.apply(an_autoscaler(kind, "churn-v2", 1, 8))
    assert stage.release(**FOLLOW).outcome == "promoted"
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 1}
    said = [line for line in stage.world.warnings if "churn-v2-auto" in line]
    assert said == [
        f"'churn-v2' has replicas=1, set by {kind} 'churn-v2-auto' (1 to 8), and keeps that: {what} would have given it {count}"
        for what, count in (("the step to 50%", 4), ("promotion", 4))
    ]


def test_an_autoscaler_that_forbids_the_share_is_refused_at_opening() -> None:
    stage = a_stage_of(4)
    stage.world.cluster.apply(an_autoscaler("HorizontalPodAutoscaler", "churn-v2", 1, 3))
    with pytest.raises(
        InvalidInput,
        match=r"^HorizontalPodAutoscaler 'churn-v2-auto' \(1 to 3\) allows 'churn-v2' no more than 3, and promotion needs 4",
    ):
        stage.release(**FOLLOW)
    assert replicas(stage) == {"churn-v1": 4}


def test_no_right_to_see_autoscalers_is_said_and_no_obstacle() -> None:
    stage = a_stage_of(4)
    listed = stage.world.cluster.list

    def refusing(kind: str, labels: Mapping[str, str]) -> list[Object]:
        if kind == "ScaledObject":
            raise Forbidden("releaser may not list scaledobjects.keda.sh")
        return listed(kind, labels)

    stage.world.cluster.list = refusing  # type: ignore[method-assign]
    assert stage.release(**FOLLOW).outcome == "promoted"
    assert any("whether a ScaledObject sets replicas here can't be seen" in line for line in stage.world.warnings)


def test_a_number_that_a_person_sets_meanwhile_stays() -> None:
    stage = a_stage_of(4)
    stage.users.plans[20.0] = lambda: update(stage.context, "churn-v2", replicas=3)
    assert stage.release(**FOLLOW).outcome == "promoted"
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 3}
    assert any(
        "'churn-v2' has replicas=3, set by somebody else, and keeps that" in line for line in stage.world.warnings
    )


def test_replicas_of_an_owners_stable_can_not_be_counted() -> None:
    from tests.support.in_memory import with_shop

    stage = Stage(world=with_shop(deployed=()))
    assert stage.release(**{**FOLLOW, "steps": (50,)}).outcome == "promoted"
    assert replicas(stage) == {"churn-v2": 1}
    other = Stage(world=with_shop(deployed=()))
    with pytest.raises(InvalidInput, match="option 'surge' has no effect beside 'web', which is its owner's"):
        other.release(**{**FOLLOW, "steps": (50,)}, surge="1")


# By hand


def test_who_is_promoted_by_hand_gets_all_the_replicas_first() -> None:
    stage = a_stage_of(4)
    stage.open(**FOLLOW)
    shifting.promote(stage.context, "churn")
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 4}
    assert all_as_at_start(stage)


def test_a_promotion_by_hand_whose_replicas_do_not_come_up_moves_nothing() -> None:
    stage = a_stage_of(4)
    stage.open(**FOLLOW)
    stage.world.cluster.unready.add("churn-v2")
    with pytest.raises(NotReady):
        shifting.promote(stage.context, "churn")
    assert stage.outcome() == "open"
    assert stage.world.endpoint().traffic.weights["churn-v1"] == 100


def test_a_weight_by_hand_says_where_somebody_gets_more_than_its_replicas_share() -> None:
    world = a_world("churn-v1")
    update(world.context, "churn-v1", replicas=4)
    world.deploy("churn-v2", strategy="canary", traffic_request=TrafficRequest(weight=20))
    assert not [line for line in world.warnings if "replicas" in line]
    outcome = shifting.shift(world.context, "churn", TrafficRequest(weight=50))
    assert [line for line in outcome.warnings if "replicas" in line] == [
        "deployment 'churn-v2' has 50% of the traffic with replicas=1, where the 4 of 'churn-v1' would be 2 for that: each gets "
        "more than one of the stable's, unless you run 'mlflow deployments update --name churn-v2 -C replicas=2'"
    ]
    assert outcome.warnings[-1] in world.warnings


# Death


def given_again(stage: Stage, **plan: Any) -> None:
    try:
        release(stage.context, stage.dependencies, a_release_request({}, **plan))
    except InvalidInput:
        assert stage.world.endpoint().stable.name == "churn-v2"


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("surge", [None, "2"])
def test_killed_at_any_call_and_given_again_no_replica_is_left_over(replied: bool, surge: str | None) -> None:
    plan = {**FOLLOW, "surge": surge, "steps": (50,), "guards": ()}
    stage, fate = a_stage_of(4), Fate(call=0, replied=False)
    ending = release(mortal(stage.context, fate), stage.dependencies, a_release_request({}, **plan))
    assert ending is not None
    assert ending.outcome == "promoted"
    for call in range(1, fate.calls + 1, 2):
        other = a_stage_of(4)
        context = mortal(other.context, Fate(call=call, replied=replied))
        with pytest.raises(Killed):
            release(context, other.dependencies, a_release_request({}, **plan))
        given_again(other, **plan)
        assert other.outcome() == "promoted", f"killed at call {call} of {fate.calls}"
        assert replicas(other) == {"churn-v1": 4, "churn-v2": 4}, f"killed at call {call} of {fate.calls}"
        assert all_as_at_start(other), call


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_a_rollback_that_dies_is_finished_by_the_sweep(replied: bool) -> None:
    plan = {**FOLLOW, "steps": (50,), "guards": ()}

    def at_half() -> Stage:
        stage = a_stage_of(4)
        stage.open(**plan)
        stage.users.plans[stage.clock.monotonic() + 8] = kill
        with pytest.raises(Killed):
            stage.drive()
        assert replicas(stage) == {"churn-v1": 4, "churn-v2": 4}
        return stage

    whole, fate = at_half(), Fate(call=0, replied=False)
    shifting.rollback(mortal(whole.context, fate), "churn")
    assert replicas(whole) == {"churn-v1": 4, "churn-v2": 1}
    for call in range(1, fate.calls + 1):
        stage = at_half()
        with pytest.raises(Killed):
            shifting.rollback(mortal(stage.context, Fate(call=call, replied=replied)), "churn")
        if stage.outcome() == "open":
            assert replicas(stage)["churn-v2"] == 4
            shifting.rollback(stage.context, "churn")
        sweep(replace(stage.context))
        assert replicas(stage) == {"churn-v1": 4, "churn-v2": 1}, f"killed at call {call} of {fate.calls}"
        assert all_as_at_start(stage), call


def test_a_release_of_an_earlier_version_leaves_replicas_alone() -> None:
    stage = a_stage_of(4)
    stage.open(**QUICK)  # what was stored has no word of capacity
    text = stage.world.endpoint().progress or ""
    assert "capacity" not in text
    assert "surge" not in text
    assert stage.drive().outcome == "promoted"
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 1}


def test_a_candidate_that_was_given_more_keeps_them() -> None:
    stage = a_stage_of(3)
    request = {"deployments": (a_request("churn-v2", replicas=5),)}
    stage.open(request=request, **FOLLOW)
    assert stage.drive().outcome == "promoted"
    assert replicas(stage) == {"churn-v1": 3, "churn-v2": 5}
