"""A candidate is asked through its header route until it answers as fast as it will, before its first user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_istio.core.basics.model_card import ModelCard
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.core.release.plan import describe_plan
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.errors import ClusterError, InvalidInput, StateConflict
from mlflow_istio.ports.records import Recorded
from mlflow_istio.releases.driving.drive import DriverDependencies
from mlflow_istio.releases.driving.opening import open_release
from mlflow_istio.releases.driving.warm_up import MOST_INPUTS, warm_up
from mlflow_istio.testing import StillClock
from tests.support.in_memory import Fate, Killed, a_request, mortal
from tests.support.simulated_users import QUICK, Stage, a_plan, a_release_request, a_stage

EXAMPLE = json.dumps({"inputs": [[1.0, 2.0]]})


@dataclass
class Server:
    """A model server that is slow for its first requests, a version's card, and the stable's recorder."""

    stage: Stage
    example: str | None = EXAMPLE
    slow: int = 40
    seconds: float = 0.02
    refuses: tuple[Any, ...] = ()
    fails: bool = False
    unsettled: bool = False
    recorded: Sequence[Mapping[str, Any]] = ()
    asked: list[Any] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    pins: set[str] = field(default_factory=set)
    weights: list[int] = field(default_factory=list)

    def card(self, _label: str) -> ModelCard:
        return ModelCard(example=self.example)

    def read(self, _endpoint: str, _deployment: str, _replicas: int) -> Recorded:
        return Recorded(records=self.recorded)

    def score(self, _address: Any, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        assert timeout > 0
        self.asked.append(payload)
        self.pins.add(headers[PIN_HEADER])
        self.weights.append(self.stage.world.endpoint().traffic.weights.get("churn-v2", 0))
        if self.fails and len(self.asked) > 1:  # the preflight's own is answered
            raise ClusterError("it answered 500")
        if payload in self.refuses:
            raise InvalidInput("the model refused the input")
        wait = self.seconds * (
            1 + 9 * 0.5 ** (len(self.asked) / self.slow)
        )  # half as far from its pace after each so many
        if self.unsettled:
            wait = self.seconds * (1 + len(self.asked) / 50)
        StillClock.sleep(self.stage.clock, wait)  # without users, whose requests would take long
        return {"predictions": [1.0]}


def opened(server: Server, stage: Stage, *, request: Mapping[str, Any] | None = None, **plan: Any) -> None:
    dependencies = replace(stage.dependencies, models=server, score=server.score, records=lambda: server)
    stage.users.send(60)
    asked = a_release_request(dict(request or {}), **{**QUICK, "warm": "auto", **plan})
    open_release(replace(stage.context, tell=server.told.append), dependencies, asked)


def told(server: Server) -> str:
    return "\n".join(server.told)


def warmed(stage: Stage) -> bool:
    return progress_from_text(stage.world.endpoint().progress or "").warmed


def test_it_is_asked_at_no_weight_until_it_has_settled() -> None:
    stage = a_stage()
    server = Server(stage)
    opened(server, stage)
    assert 150 < len(server.asked) < 700
    assert server.pins == {"churn-v2"}
    assert set(server.weights) == {0}
    assert warmed(stage)
    assert "'churn-v2' is warm: 2" in told(server)


def test_without_an_example_or_recorded_requests_that_is_said_and_the_clock_counts() -> None:
    stage = a_stage()
    server = Server(stage, example=None)
    opened(server, stage)
    assert server.asked == []
    assert not warmed(stage)
    assert "'churn-v2' is not warmed before its first user: there is no input example" in told(server)


def test_one_that_only_its_own_clients_can_ask_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC service of somebody's own: that it fails what it is asked would be wrong."""
    stage = a_stage()
    server = Server(stage)
    monkeypatch.setattr(
        "mlflow_istio.releases.driving.warm_up.runtime_of_deployment", lambda _obj: SimpleNamespace(body="none")
    )
    opened(server, stage)
    assert len(server.asked) == 1  # the preflight's
    assert "'churn-v2' is not warmed before its first user: there is no input example that it could be asked" in told(
        server
    )


def test_it_may_be_left_out() -> None:
    stage = a_stage()
    server = Server(stage)
    opened(server, stage, warm="none")
    assert len(server.asked) == 1  # the preflight's
    assert not warmed(stage)


def test_one_that_does_not_settle_is_taken_as_it_is_after_a_minute() -> None:
    stage = a_stage()
    server = Server(stage, unsettled=True)
    start = stage.clock.monotonic()
    opened(server, stage)
    assert stage.clock.monotonic() - start < 65
    assert not warmed(stage)
    assert "had not settled after 60 s" in told(server)


def test_one_that_fails_is_not_asked_for_long_and_its_release_judges_it() -> None:
    stage = a_stage()
    server = Server(stage, fails=True)
    opened(server, stage)
    assert len(server.asked) == 1 + 5
    assert not warmed(stage)
    assert stage.world.endpoint().release is not None
    assert any("is not warmed: it fails what it is asked" in line for line in stage.world.warnings)


def recording(stage: Stage) -> None:
    """The stable's servers record."""

    def with_recorder(found: Any) -> Any:
        container = found["spec"]["template"]["spec"]["containers"][0]
        container.setdefault("env", []).append({"name": "MLFLOW_ISTIO_RECORD", "value": "1"})
        return found

    stage.world.cluster.edit("Deployment", "churn-v1", with_recorder)


def test_recorded_requests_go_before_the_example_and_one_that_it_refuses_is_passed_over() -> None:
    stage = a_stage()
    recording(stage)
    inputs = [{"inputs": [[float(number), 0.0]]} for number in range(MOST_INPUTS + 50)]
    records = [{"status": 200, "input": payload} for payload in inputs]
    records += [{"status": 500, "input": {"inputs": "bad"}}, {"status": 200}]
    server = Server(stage, recorded=records, refuses=(inputs[60], inputs[70]))
    opened(server, stage)
    assert warmed(stage)
    assert server.asked[1:5] == inputs[50:54]  # after the preflight's example
    assert inputs[49] not in server.asked
    assert inputs[60] in server.asked


def test_a_stable_that_records_nothing_is_not_asked_for_records() -> None:
    stage = a_stage()
    server = Server(stage, recorded=[{"status": 200, "input": {"inputs": [[9.0]]}}])
    opened(server, stage)
    assert {json.dumps(payload) for payload in server.asked} == {EXAMPLE}


def test_records_that_cannot_be_read_are_no_obstacle() -> None:
    class Broken(Server):
        def read(self, _endpoint: str, _deployment: str, _replicas: int) -> Recorded:
            raise StateConflict("deployment 'churn-v1' records nothing")

    stage = a_stage()
    recording(stage)
    server = Broken(stage)
    opened(server, stage)
    assert warmed(stage)
    assert "can't be read: deployment 'churn-v1' records nothing" in told(server)


def test_every_deployment_that_is_named_is_warmed_and_all_must_have_settled() -> None:
    stage = a_stage()
    server = Server(stage)
    deployments = ["churn-v1"]
    assert warm_up(stage.context, server, server.score, "churn", deployments, timeout=5.0)
    assert server.pins == {"churn-v1"}
    assert not warm_up(stage.context, server, server.score, "churn", [], timeout=5.0)


def test_a_plan_says_it_and_the_same_command_later_finds_its_release() -> None:
    assert any("first warmed by its input example" in line for line in describe_plan(a_plan(warm="auto")))
    stage = a_stage()
    server = Server(stage)
    opened(server, stage, request={"release_id": "r9"})
    asked = len(server.asked)
    opened(server, stage, request={"release_id": "r9"}, warm="none")
    opened(server, stage, request={"release_id": "r9"})
    assert len(server.asked) == asked


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_killed_at_any_call_and_given_again_it_is_warm_before_its_first_user(replied: bool) -> None:
    def run(stage: Stage, server: Server, fate: Fate | None) -> None:
        context = stage.context if fate is None else mortal(stage.context, fate)
        dependencies = DriverDependencies(models=server, score=server.score, metrics=stage.users.metrics)
        open_release(
            context, dependencies, a_release_request({"deployments": (a_request("churn-v2"),)}, **QUICK, warm="auto")
        )

    stage, fate = a_stage(), Fate(call=0, replied=False)
    run(stage, Server(stage), fate)
    for call in range(1, fate.calls + 1, 3):
        other = a_stage()
        server = Server(other)
        with pytest.raises(Killed):
            run(other, server, Fate(call=call, replied=replied))
        run(other, server, None)
        assert warmed(other), f"killed at call {call} of {fate.calls}"
        assert set(server.weights) == {0}
