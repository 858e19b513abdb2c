"""A driver that has to end takes nobody from a living version to a dead one, and ends all the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.releases.driving.drive import DriveResult
from mlflow_istio.releases.moving import shifting
from tests.support.foreign_edits import edit, route
from tests.support.simulated_users import QUICK, Behaviour, Stage, a_stage


def driven(stage: Stage, **plan: Any) -> DriveResult:
    stage.open(**{**QUICK, "deadline": 100.0, **plan})
    return stage.drive()


def test_a_bad_candidate_that_lives_keeps_its_users_where_the_stable_is_dead() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.2))
    stage.users.plans[4.0] = lambda: stage.world.cluster.unready.add("churn-v1")
    ending = driven(stage)
    assert ending.outcome == "held"
    assert "But there is no way back: deployment 'churn-v1' has no ready replica" in ending.reason
    endpoint = stage.world.endpoint()
    assert endpoint.release is not None
    assert endpoint.traffic.weights["churn-v2"] == 10
    assert progress_from_text(str(endpoint.progress)).driver is None
    stage.world.cluster.unready.clear()
    shifting.rollback(stage.context, "churn")
    assert stage.outcome() == "rolled-back"


def test_where_the_candidate_is_dead_too_the_driver_goes_back_by_force() -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: stage.world.cluster.unready.update({"churn-v1", "churn-v2"})
    assert driven(stage).outcome == "inconclusive"
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 100}


def test_a_candidate_that_was_deleted_is_waited_for_and_left_at_the_deadline() -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: stage.world.cluster.delete("Deployment", "churn-v2")
    ending = driven(stage, guards=())
    assert ending.outcome == "inconclusive"
    assert "deployment 'churn-v2' is gone" in ending.reason
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 100}


@pytest.mark.parametrize("undecided", ["rollback", "hold"])
def test_a_driver_whose_traffic_somebody_always_changes_back_ends_at_its_deadline(undecided: Any) -> None:
    """Argo CD 9678: a self-heal puts Git's routes back as often as they are changed."""
    stage = a_stage()
    stage.open(**QUICK, deadline=100.0, undecided=undecided)
    healthy = copy.deepcopy(stage.world.cluster.get("VirtualService", "churn"))
    assert healthy is not None
    sleep = stage.clock.sleep

    def healing(seconds: float) -> None:
        sleep(seconds)

        def heal(obj: Object) -> None:
            obj["spec"] = copy.deepcopy(healthy["spec"])

        if stage.clock.monotonic() < 1000:
            edit(stage.world, "VirtualService", heal)

    stage.clock.sleep = healing  # type: ignore[method-assign]
    ending = stage.drive()
    assert ending.word == "inconclusive"
    assert ending.reason == "The deadline has passed: somebody keeps changing the traffic."
    assert stage.clock.monotonic() < 300


def test_a_watch_whose_traffic_somebody_always_changes_back_ends_when_it_is_over() -> None:
    stage = a_stage()
    stage.open(**QUICK, deadline=600.0, watch=60.0)
    sleep = stage.clock.sleep

    def healing(seconds: float) -> None:
        sleep(seconds)
        found = stage.world.endpoint()
        if found.traffic.weights.get("churn-v2", 0) > 50 and stage.clock.monotonic() < 2000:
            edit(stage.world, "VirtualService", taken_back)

    def taken_back(obj: Object) -> None:
        for entry in route(obj, "churn.split")["route"]:
            entry["weight"] = 100 if entry["destination"]["subset"] == "churn-v1" else 0

    stage.clock.sleep = healing  # type: ignore[method-assign]
    ending = stage.drive()
    assert (ending.outcome, ending.reason) == (
        "promoted",
        "The watch is over, and somebody keeps changing its traffic.",
    )
    assert stage.clock.monotonic() < 1000
