"""The driver on in-memory ports: what it does to traffic and ledger, and that anybody can go on where it died."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.plan import Approval, GuardPlan, Webhook
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.errors import (
    InvalidInput,
    StateConflict,
)
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.driving.drive import DriveResult, answer
from mlflow_istio.releases.driving.opening import release
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Fate, Killed, mortal
from tests.support.simulated_users import ERRORS, QUICK, Behaviour, Stage, a_release_request, a_stage, kill


def test_a_good_candidate_is_promoted_and_the_ledger_tells_why() -> None:
    stage = a_stage()
    ending = stage.release(**QUICK)
    assert (ending.outcome, ending.word, ending.by_hand) == ("promoted", "advance", False)
    assert stage.world.endpoint().stable.name == "churn-v2"
    changes = stage.world.registry.history("prod", "churn")
    assert [change.action for change in changes[2:]] == ["start", "shift", "shift", "promote"]
    assert changes[-1].reason == ending.reason
    assert changes[-1].evidence["word"] == "advance"
    assert changes[-1].evidence["evidence"]["promotion"][0]["met"]
    run = changes[-1].run
    assert stage.world.registry.runs[run] == "promoted"
    figures = stage.world.runs.figures(run)
    assert {figure.value for figure in figures["look/weight"]} == {10, 50}
    assert figures["look/requests/candidate"][-1].value > 300
    kept = json.loads(stage.world.runs.text(run, "release.json") or "")
    assert (kept["outcome"], kept["plan"]["steps"], kept["verdict"]["word"]) == ("promoted", [10, 50], "advance")


@pytest.mark.parametrize(
    ("behaviour", "guard"),
    [
        (Behaviour(errors=0.06), "errors"),
        (Behaviour(milliseconds=9.7), "latency"),
        (Behaviour(kpis={"clicks": 0.1}), "clicks"),
    ],
)
def test_a_worse_candidate_is_rolled_back_by_itself(behaviour: Behaviour, guard: str) -> None:
    stage = a_stage(churn_v1=Behaviour(milliseconds=8.0, kpis={"clicks": 0.3}), churn_v2=behaviour)
    stage.users.metrics.edges = (5.0, 7.0, 9.0, 11.0, 40.0, 60.0)
    clicks = GuardPlan(name="clicks", kind="rate", worse="lower")
    latency = GuardPlan(name="latency", kind="latency", edges=(9.0,))
    chosen = {"errors": ERRORS, "latency": (latency,), "clicks": (clicks,)}[guard]
    ending = stage.release(guards=chosen)
    assert ending.outcome == "rolled-back"
    assert guard in ending.reason
    assert stage.world.endpoint().traffic.weights["churn-v1"] == 100
    assert stage.world.history()[-1][1] == "rollback"
    assert stage.world.registry.runs[stage.world.registry.history("prod", "churn")[-1].run or ""] == "rolled-back"


def test_without_proof_the_traffic_returns_and_the_release_is_inconclusive() -> None:
    stage = a_stage()
    stage.users.rate = 2.0
    ending = stage.release(**QUICK, deadline=120.0)
    assert ending.outcome == stage.outcome() == "inconclusive"
    assert stage.world.endpoint().traffic.weights["churn-v1"] == 100
    assert list(stage.world.registry.runs.values())[-1] == "inconclusive"


def test_an_undecided_release_may_leave_its_traffic_to_a_person() -> None:
    stage = a_stage()
    stage.users.rate = 2.0
    ending = stage.release(**QUICK, deadline=120.0, undecided="hold")
    assert ending.outcome == "inconclusive"
    assert stage.world.endpoint().traffic.weights["churn-v2"] == 10
    shifting.promote(stage.context, "churn")  # nobody drives it any more, and a person may do what they like
    assert stage.outcome() == "promoted"


def test_a_release_that_is_not_to_promote_is_held_and_may_be_promoted_or_resumed() -> None:
    stage = a_stage()
    assert stage.release(**QUICK, promote=False).outcome == "held"
    assert stage.world.endpoint().traffic.weights["churn-v2"] == 50
    assert stage.drive().outcome == "held"
    shifting.promote(stage.context, "churn")
    assert stage.world.endpoint().stable.name == "churn-v2"


# Death, and who goes on


def finish(stage: Stage) -> None:
    """Give the same command again, as a person would; one that has done its work says that nothing is left."""
    try:
        release(stage.context, stage.dependencies, a_release_request({}, **QUICK))
    except InvalidInput:
        assert stage.world.endpoint().stable.name == "churn-v2"


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_killed_at_any_call_and_given_again_it_ends_the_same(replied: bool) -> None:
    stage, fate = a_stage(), Fate(call=0, replied=False)
    ending = release(mortal(stage.context, fate), stage.dependencies, a_release_request({}, **QUICK))
    assert ending is not None
    assert ending.outcome == "promoted"
    for call in range(1, fate.calls + 1, 3 if replied else 4):
        other = a_stage()
        with pytest.raises(Killed):
            release(
                mortal(other.context, Fate(call=call, replied=replied)),
                other.dependencies,
                a_release_request({}, **QUICK),
            )
        finish(other)
        assert other.outcome() == "promoted", f"killed at call {call} of {fate.calls}"
        assert [action for _, action in other.world.history()][-4:] == ["start", "shift", "shift", "promote"], call


def test_killed_at_every_look_a_bad_candidate_is_still_rolled_back() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.05))
    stage.open(**QUICK)
    for _ in range(200):
        try:
            stage.drive()
            break
        except Killed:
            continue
        finally:
            stage.users.plans = {stage.clock.monotonic() + 20: kill}
    assert stage.outcome() == "rolled-back"


def test_a_successor_waits_until_the_last_sign_of_life_has_run_out() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    died = stage.clock.monotonic()
    release_status = progress_from_text(stage.world.endpoint().progress or "")
    assert release_status.driver is not None
    assert stage.drive().outcome == "promoted"
    assert release_status.driver.lease_expires.timestamp() - stage.world.context.clock.now().timestamp() > died


def test_a_clock_that_was_ahead_holds_up_no_successor_and_is_said() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    died = stage.clock.monotonic()
    stage.clock._now -= timedelta(hours=2)
    stage.users.plans[died + 60] = lambda: shifting.abort(stage.context, "churn") and None
    assert stage.drive().outcome == "aborted"
    assert stage.clock.monotonic() < died + 120
    (warning,) = [line for line in stage.world.warnings if "clock" in line]
    assert "which this machine's clock has yet to reach: nothing is counted until then" in warning


def test_a_release_that_is_driven_is_not_driven_twice() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    found: list[str] = []

    def second() -> None:
        other = replace(stage.context, clock=Pushing(stage))
        with pytest.raises(StateConflict, match="is driven by me, which is alive"):
            drive(other, stage.dependencies, "churn")
        found.append("refused")

    stage.users.plans[12.0] = second
    assert stage.drive().outcome == "promoted"
    assert found == ["refused"]


class Pushing:
    """The clock of a second driver: while it waits, the first goes on and gives another sign of life."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def now(self) -> Any:
        return self._stage.clock.now()

    def monotonic(self) -> float:
        return self._stage.clock.monotonic()

    def sleep(self, seconds: float) -> None:
        from mlflow_istio.core.mesh.virtual_service import read_endpoint, write_endpoint
        from mlflow_istio.core.release.progress import alive, progress_to_text

        def beat(found: Any) -> Any:
            endpoint = read_endpoint(found, "churn")
            progress = progress_from_text(endpoint.progress or "")
            driver = progress.driver
            assert driver is not None
            later = alive(replace(progress, revision=progress.revision + 1), driver.id, driver.who, self.now())
            later = replace(later, driver=replace(driver, lease_expires=driver.lease_expires.replace(year=2030)))
            return write_endpoint(found, replace(endpoint, progress=progress_to_text(later)))

        self._stage.world.cluster.edit("VirtualService", "churn", beat)


def test_one_that_is_told_to_may_take_over_and_the_first_stops() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    taken: list[DriveResult] = []
    stage.users.plans[12.0] = lambda: taken.append(drive(stage.context, stage.dependencies, "churn", take_over=True))
    ending = stage.drive()
    assert (taken[0].outcome, ending.outcome, ending.by_hand) == ("promoted", "promoted", True)


def test_an_interrupted_driver_leaves_nobody_waiting_for_it() -> None:
    stage = a_stage()
    stage.open(**QUICK)

    def interrupt() -> None:
        raise KeyboardInterrupt

    stage.users.plans[12.0] = interrupt
    with pytest.raises(KeyboardInterrupt):
        stage.drive()
    assert progress_from_text(stage.world.endpoint().progress or "").driver is None
    stopped = stage.clock.monotonic()
    stage.users.plans[stopped + 1] = lambda: None
    assert stage.drive().outcome == "promoted"


# People


@pytest.mark.parametrize(
    ("verb", "outcome"), [("promote", "promoted"), ("rollback", "rolled-back"), ("abort", "aborted")]
)
def test_a_person_may_end_a_driven_release_at_any_time(verb: str, outcome: str) -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = lambda: getattr(shifting, verb)(stage.context, "churn") and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == (outcome, True)
    assert f"has ended: {outcome}" in ending.reason
    assert stage.world.endpoint().progress is None


def test_a_weight_by_hand_is_refused_until_pause_and_put_back_after_resume() -> None:
    stage = a_stage()
    stage.open(**QUICK)

    def meddle() -> None:
        with pytest.raises(StateConflict, match="mlflow-istio pause churn"):
            shifting.shift(stage.context, "churn", TrafficRequest(weight=77))
        shifting.pause(stage.context, "churn")
        shifting.shift(stage.context, "churn", TrafficRequest(weight=77))

    stage.users.plans[12.0] = meddle
    stage.users.plans[200.0] = lambda: shifting.resume(stage.context, "churn") and None
    assert stage.drive().outcome == "promoted"
    assert stage.clock.monotonic() > 200
    assert stage.weights_seen() == [0, 0, 0, 10, 77, 10, 50, 100]


def test_an_endpoint_that_is_deleted_ends_the_drive() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = lambda: removal.delete_endpoint(stage.context, "churn", force=True) and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand, ending.reason) == ("aborted", True, "The endpoint was deleted.")


@pytest.mark.parametrize(("word", "outcome"), [("approve", "promoted"), ("reject", "rolled-back")])
def test_a_gate_waits_for_a_persons_command(word: str, outcome: str) -> None:
    stage = a_stage()
    stage.users.plans[500.0] = lambda: answer(stage.context, "churn", word) and None
    ending = stage.release(**QUICK, approval=Approval(before=("promotion",)))
    assert ending.outcome == outcome
    assert stage.clock.monotonic() >= 500
    with pytest.raises(StateConflict, match="nothing waits for approval"):
        answer(stage.context, "churn", "approve")


def test_a_gate_is_passed_by_a_tag_of_the_model_version() -> None:
    stage = a_stage()
    stage.users.plans[300.0] = lambda: stage.world.runs.tags.update({"churn/2": {"ok": "approved"}})
    assert stage.release(**QUICK, approval=Approval(before=("50",), tag="ok")).outcome == "promoted"
    assert stage.clock.monotonic() >= 300


@pytest.mark.parametrize("key", ["ok", "ok.50"])
def test_a_tag_of_an_earlier_release_passes_no_gate(key: str) -> None:
    """pikoci 152: an approval that was left on the model version approved the next release at once."""
    stage = a_stage()
    stage.world.runs.tags.update({"churn/2": {key: "approved"}})
    approval = Approval(before=("50",), tag="ok", timeout=600.0)
    assert stage.release(**QUICK, approval=approval).outcome == "rolled-back"
    assert any("that was an earlier release's answer; set 'ok.id" in line for line in stage.world.warnings)


@pytest.mark.parametrize("key", ["ok.r7", "ok.r7.50"])
def test_a_tag_of_the_releases_own_passes_its_gate(key: str) -> None:
    stage = a_stage()
    stage.world.runs.tags.update({"churn/2": {"ok": "approved"}})
    stage.users.plans[300.0] = lambda: stage.world.runs.tags["churn/2"].update({key: "approved"})
    stage.open(request={"release_id": "r7"}, **QUICK, approval=Approval(before=("50",), tag="ok"))
    assert stage.drive().outcome == "promoted"


def test_nobody_answering_in_time_means_the_default() -> None:
    stage = a_stage()
    ending = stage.release(**QUICK, approval=Approval(before=("10",), timeout=60.0))
    assert ending.outcome == "rolled-back"
    assert ending.reason == "nobody answered in 60 s, which rejected '10'."


def test_webhooks_gate_what_they_are_asked_about_and_never_a_rollback() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.2))
    stage.says = lambda _url, payload: "409 no" if payload["event"] == "rollback" else ""
    ending = stage.release(**QUICK, webhooks=(Webhook(url="http://gate"),))
    assert ending.outcome == "rolled-back"
    assert stage.asked == [("start", "10", ""), ("rollback", "rollback", "409 no")]
    assert "http://gate was told of the rollback and said: 409 no" in stage.world.warnings[-1]


def test_a_webhook_that_refuses_keeps_the_release_where_it_is() -> None:
    stage = a_stage()
    agreed = iter(["", "busy", "busy", ""])
    stage.says = lambda _url, _payload: next(agreed, "")
    assert (
        stage.release(**QUICK, webhooks=(Webhook(url="http://gate", events=("increase", "promotion")),)).outcome
        == "promoted"
    )
    assert [event for event, _, _ in stage.asked] == ["increase", "promotion", "promotion", "promotion"]
