"""Replicas that a candidate or a control gets later are warmed before their step, and nothing is counted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import wanted_replicas
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.core.release.plan import GuardPlan
from mlflow_istio.releases.driving.drive import DriveResult
from mlflow_istio.releases.driving.opening import open_release
from mlflow_istio.releases.driving.progressive import drive
from tests.support.in_memory import Killed, World, a_request
from tests.support.simulated_users import ERRORS, Behaviour, Stage, a_release_request
from tests.unit.releases.driving.test_warm_up import Server

LATENCY = GuardPlan(name="latency", kind="latency", edges=(25.0,))
PLAN: dict[str, Any] = {
    "guards": (*ERRORS, LATENCY),
    "hold": 10.0,
    "interval": 2.0,
    "warm": "auto",
    "capacity": "follow",
}


@dataclass
class Fresh(Server):
    """A model server of which each replica is slow for its first requests, for users too.

    Attributes:
        dies_at: How often new replicas are asked before whoever asks dies; 0: nobody does.
        while_warming: Deployment, its replicas and the candidate's weight to how often it was asked.
    """

    seconds: float = 0.03
    dies_at: int = 0
    while_warming: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    def score(self, address: Any, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        name = headers[PIN_HEADER]
        replicas = wanted_replicas(self.stage.world.cluster.get("Deployment", name) or {})
        seen = (name, replicas, self.stage.world.endpoint().traffic.weights.get("churn-v2", 0))
        self.while_warming[seen] += 1
        if replicas > 1 and self.while_warming[seen] == self.dies_at:
            raise Killed
        number = sum(count for (who, many, _), count in self.while_warming.items() if (who, many) == (name, replicas))
        self.slow, self.asked = 20 * replicas, [None] * number
        self.stage.users.behaviours[name] = Behaviour(milliseconds=200 if number < 60 * replicas else 8)
        return super().score(address, payload, headers=headers, timeout=timeout)


def a_stage_of(replicas: int) -> tuple[Stage, Fresh]:
    world = World()
    world.deploy("churn-v1", replicas=replicas)
    stage = Stage(world=world)
    return stage, Fresh(stage)


def opened(stage: Stage, server: Fresh, **plan: Any) -> None:
    stage.users.send(60)
    request = a_release_request({"deployments": (a_request("churn-v2"),)}, **{**PLAN, **plan})
    dependencies = replace(stage.dependencies, models=server, score=server.score)
    open_release(replace(stage.context, tell=server.told.append), dependencies, request)


def driven(stage: Stage, server: Fresh) -> DriveResult:
    dependencies = replace(stage.dependencies, models=server, score=server.score)
    return drive(replace(stage.context, tell=server.told.append), dependencies, "churn")


def test_a_step_waits_until_what_it_adds_is_warm_and_counts_nothing_meanwhile() -> None:
    """Its users get slow answers from the new replicas: counted, they would send an equal version back."""
    stage, server = a_stage_of(3)
    opened(stage, server, steps=(10, 50))
    ended = driven(stage, server)
    assert ended.outcome == "promoted", ended.reason
    assert server.while_warming[("churn-v2", 1, 0)] >= 100
    assert server.while_warming[("churn-v2", 3, 10)] >= 2 * 3 * 50
    assert not [key for key in server.while_warming if key[2] > 10]
    assert [line for line in server.told if "is warm" in line][1].startswith("'churn-v2' is warm: 30")


def test_without_it_an_equal_version_would_go_back() -> None:
    """What the test before rests on: its users do see what is cold."""
    stage, server = a_stage_of(3)
    opened(stage, server, steps=(10, 50))
    cold = Behaviour(milliseconds=200)
    stage.users.plans[stage.clock.monotonic() + 15.0] = lambda: stage.users.behaviours.update({"churn-v2": cold})
    assert stage.drive().outcome == "rolled-back"


def test_whoever_goes_on_after_a_death_warms_them_before_the_step() -> None:
    stage, server = a_stage_of(3)
    opened(stage, server, steps=(10, 50))

    server.dies_at = 100
    with pytest.raises(Killed):
        driven(stage, server)
    assert driven(stage, server).outcome == "promoted"
    assert server.while_warming[("churn-v2", 3, 10)] >= 2 * 3 * 50
    assert not [key for key in server.while_warming if key[2] > 10]


def test_a_control_that_grows_with_its_candidate_is_warmed_too() -> None:
    """Somebody scales the candidate by hand: the control follows at the next step."""
    stage, server = a_stage_of(1)
    opened(stage, server, steps=(10, 50), control="fresh", capacity="fixed")

    def scaled(found: Any) -> Any:
        found["spec"]["replicas"] = 2
        return found

    later = stage.clock.monotonic() + 6.0
    stage.users.plans[later] = lambda: stage.world.cluster.edit("Deployment", "churn-v2", scaled)
    ended = driven(stage, server)
    assert ended.outcome == "promoted", ended.reason
    assert server.while_warming[("churn-v2", 2, 10)] >= 200
    assert server.while_warming[("churn-v1-control", 2, 10)] >= 200


def test_nobody_is_asked_where_the_plan_leaves_it_out() -> None:
    stage, server = a_stage_of(3)
    opened(stage, server, warm="none", steps=(10, 50))
    driven(stage, server)
    assert server.while_warming.total() == 1  # the preflight's
