"""The driver on in-memory ports: what it does to traffic and ledger, and that anybody can go on where it died."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.model_card import Column, ModelCard
from mlflow_istio.core.release.plan import Allowed, Approval, GuardPlan, Webhook
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.core.strategies import Wish
from mlflow_istio.errors import (
    ClusterError,
    InvalidInput,
    NotFound,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases import removal, traffic
from mlflow_istio.releases.driving import Crew, Ending, answer
from mlflow_istio.releases.opening import open_release, release
from mlflow_istio.releases.progressive import PATIENCE, drive
from tests.desks import Fate, Killed, mortal
from tests.progressive import Behaviour, Stage, a_release_request

ERRORS = (GuardPlan(name="errors", kind="errors", allowed=Allowed(rate_difference=0.03)),)
QUICK: dict[str, Any] = {"guards": ERRORS, "hold": 10.0}


def a_stage(**behaviours: Behaviour) -> Stage:
    stage = Stage()
    stage.users.behaviours = {name.replace("_", "-"): how for name, how in behaviours.items()}
    return stage


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
    traffic.promote(stage.desk, "churn")  # nobody drives it any more, and a person may do what they like
    assert stage.outcome() == "promoted"


def test_a_release_that_is_not_to_promote_is_held_and_may_be_promoted_or_resumed() -> None:
    stage = a_stage()
    assert stage.release(**QUICK, promote=False).outcome == "held"
    assert stage.world.endpoint().traffic.weights["churn-v2"] == 50
    assert stage.drive().outcome == "held"
    traffic.promote(stage.desk, "churn")
    assert stage.world.endpoint().stable.name == "churn-v2"


# Death, and who goes on


def finish(stage: Stage) -> None:
    """Give the same command again, as a person would; one that has done its work says that nothing is left."""
    try:
        release(stage.desk, stage.crew, a_release_request({}, **QUICK))
    except InvalidInput:
        assert stage.world.endpoint().stable.name == "churn-v2"


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_killed_at_any_call_and_given_again_it_ends_the_same(replied: bool) -> None:
    stage, fate = a_stage(), Fate(call=0, replied=False)
    ending = release(mortal(stage.desk, fate), stage.crew, a_release_request({}, **QUICK))
    assert ending is not None
    assert ending.outcome == "promoted"
    for call in range(1, fate.calls + 1, 3 if replied else 4):
        other = a_stage()
        with pytest.raises(Killed):
            release(mortal(other.desk, Fate(call=call, replied=replied)), other.crew, a_release_request({}, **QUICK))
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


def kill() -> None:
    raise Killed


def test_a_successor_waits_until_the_last_sign_of_life_has_run_out() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    died = stage.clock.monotonic()
    course = progress_from_text(stage.world.endpoint().progress or "")
    assert course.driver is not None
    assert stage.drive().outcome == "promoted"
    assert course.driver.alive_until.timestamp() - stage.world.desk.clock.now().timestamp() > died


def test_a_release_that_is_driven_is_not_driven_twice() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    found: list[str] = []

    def second() -> None:
        other = replace(stage.desk, clock=Pushing(stage))
        with pytest.raises(StateConflict, match="is driven by me, which is alive"):
            drive(other, stage.crew, "churn")
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
        from mlflow_istio.core.release.progress import alive, progress_to_text
        from mlflow_istio.core.virtual_service import read_endpoint, write_endpoint

        def beat(found: Any) -> Any:
            endpoint = read_endpoint(found, "churn")
            progress = progress_from_text(endpoint.progress or "")
            driver = progress.driver
            assert driver is not None
            later = alive(replace(progress, revision=progress.revision + 1), driver.id, driver.who, self.now())
            later = replace(later, driver=replace(driver, alive_until=driver.alive_until.replace(year=2030)))
            return write_endpoint(found, replace(endpoint, progress=progress_to_text(later)))

        self._stage.world.cluster.edit("VirtualService", "churn", beat)


def test_one_that_is_told_to_may_take_over_and_the_first_stops() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    taken: list[Ending] = []
    stage.users.plans[12.0] = lambda: taken.append(drive(stage.desk, stage.crew, "churn", take_over=True))
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
    stage.users.plans[12.0] = lambda: getattr(traffic, verb)(stage.desk, "churn") and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == (outcome, True)
    assert f"has ended: {outcome}" in ending.reason
    assert stage.world.endpoint().progress is None


def test_a_weight_by_hand_is_refused_until_pause_and_put_back_after_resume() -> None:
    stage = a_stage()
    stage.open(**QUICK)

    def meddle() -> None:
        with pytest.raises(StateConflict, match="mlflow-istio pause churn"):
            traffic.shift(stage.desk, "churn", Wish(weight=77))
        traffic.pause(stage.desk, "churn")
        traffic.shift(stage.desk, "churn", Wish(weight=77))

    stage.users.plans[12.0] = meddle
    stage.users.plans[200.0] = lambda: traffic.resume(stage.desk, "churn") and None
    assert stage.drive().outcome == "promoted"
    assert stage.clock.monotonic() > 200
    assert stage.weights_seen() == [0, 0, 0, 10, 77, 10, 50, 100]


def test_an_endpoint_that_is_deleted_ends_the_drive() -> None:
    stage = a_stage()
    stage.open(**QUICK)
    stage.users.plans[12.0] = lambda: removal.delete_endpoint(stage.desk, "churn", force=True) and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand, ending.reason) == ("aborted", True, "The endpoint was deleted.")


@pytest.mark.parametrize(("word", "outcome"), [("approve", "promoted"), ("reject", "rolled-back")])
def test_a_gate_waits_for_a_persons_command(word: str, outcome: str) -> None:
    stage = a_stage()
    stage.users.plans[500.0] = lambda: answer(stage.desk, "churn", word) and None
    ending = stage.release(**QUICK, approval=Approval(before=("promotion",)))
    assert ending.outcome == outcome
    assert stage.clock.monotonic() >= 500
    with pytest.raises(StateConflict, match="nothing waits for approval"):
        answer(stage.desk, "churn", "approve")


def test_a_gate_is_passed_by_a_tag_of_the_model_version() -> None:
    stage = a_stage()
    stage.users.plans[300.0] = lambda: stage.world.runs.tags.update({"churn/2": {"ok": "approved"}})
    assert stage.release(**QUICK, approval=Approval(before=("50",), tag="ok")).outcome == "promoted"
    assert stage.clock.monotonic() >= 300


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


# What may be broken


def test_a_registry_that_goes_down_blocks_neither_steps_nor_rollback() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.06))
    stage.open(**QUICK)
    stage.world.registry.down = stage.world.runs.down = True
    assert stage.drive().outcome == "rolled-back"
    assert any("figures of a look could not be kept" in warning for warning in stage.world.warnings)
    assert any("wait on endpoint 'churn' itself" in warning for warning in stage.world.warnings)
    stage.world.registry.down = stage.world.runs.down = False
    traffic.rollback(stage.desk, "churn")
    assert stage.world.history()[-1][1] == "rollback"


@pytest.mark.parametrize(("no_data", "outcome"), [("hold", "inconclusive"), ("rollback", "rolled-back")])
def test_a_source_of_figures_that_dies_follows_the_policy(no_data: Any, outcome: str) -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: setattr(stage.users.metrics, "down", True)
    ending = stage.release(**QUICK, no_data=no_data, deadline=600.0)
    assert ending.outcome == outcome
    assert "no data from the in-memory metrics" in ending.reason.lower().replace("no data", "no data")


def test_without_any_source_a_watched_release_does_not_start() -> None:
    stage = a_stage()
    stage.open(**QUICK, deadline=60.0)
    ending = drive(stage.desk, Crew(), "churn")
    assert ending.outcome == "inconclusive"
    assert "metrics=none" in ending.reason
    assert stage.weights_seen()[-1] == 0


def test_counters_that_start_anew_are_no_evidence() -> None:
    stage = a_stage()
    stage.users.plans[12.0] = lambda: stage.users.metrics.restart("churn-v2")
    assert stage.release(**QUICK).outcome == "promoted"


def test_a_dead_stable_does_not_hold_up_the_fix() -> None:
    stage = a_stage(churn_v1=Behaviour(errors=1.0))
    ending = stage.release(**QUICK)
    assert ending.outcome == "promoted"
    assert ending.reason.startswith("The stable serves nothing")
    stage = a_stage(churn_v1=Behaviour(errors=1.0))
    stage.open(**QUICK)
    stage.world.cluster.unready.add("churn-v1")
    assert stage.drive().outcome == "promoted"


def test_a_candidate_that_loses_its_pods_gets_no_more_traffic_and_time_decides() -> None:
    stage = a_stage()
    stage.users.plans[8.0] = lambda: stage.world.cluster.unready.add("churn-v2")
    ending = stage.release(**QUICK, deadline=200.0)
    assert ending.outcome == "inconclusive"
    assert "has no ready replica" in ending.reason
    assert max(stage.weights_seen()) == 10


def test_a_candidate_whose_pods_come_back_goes_on() -> None:
    stage = a_stage()
    stage.users.plans[8.0] = lambda: stage.world.cluster.unready.add("churn-v2")
    stage.users.plans[100.0] = lambda: stage.world.cluster.unready.discard("churn-v2")
    assert stage.release(**QUICK).outcome == "promoted"


class Flaky:
    """A cluster that can't be reached for a while."""

    def __init__(self, cluster: Any, clock: Any, until: float) -> None:
        self._cluster, self._clock, self._until = cluster, clock, until

    def __getattr__(self, name: str) -> Any:
        if name == "get" and 20 < self._clock.monotonic() < self._until:
            raise ClusterError("no route to the API server")
        return getattr(self._cluster, name)


@pytest.mark.parametrize("until", [150.0, 20 + 3 * PATIENCE])
def test_a_cluster_that_can_not_be_reached_is_asked_again_for_a_while(until: float) -> None:
    stage = a_stage()
    stage.open(**QUICK)
    desk = replace(stage.desk, cluster=Flaky(stage.world.cluster, stage.clock, until))
    if until < PATIENCE:
        assert drive(desk, stage.crew, "churn").outcome == "promoted"
        assert any("trying again: no route" in warning for warning in stage.world.warnings)
    else:
        with pytest.raises(ClusterError, match="no route"):
            drive(desk, stage.crew, "churn")
        stage.clock.sleep(until)
        assert stage.drive().outcome == "promoted"


# Opening


def test_a_release_needs_an_endpoint_with_a_stable() -> None:
    stage = a_stage()
    with pytest.raises(NotFound, match="there is no endpoint 'chrun'"):
        open_release(stage.desk, stage.crew, a_release_request({"endpoint": "chrun"}))


def test_the_same_command_again_means_the_same_release_and_another_plan_is_refused() -> None:
    stage = a_stage()
    first = stage.open(**QUICK)
    assert open_release(stage.desk, stage.crew, a_release_request({}, **QUICK)) == first
    with pytest.raises(StateConflict, match="open with another plan"):
        open_release(stage.desk, stage.crew, a_release_request({}, hold=99.0))
    with pytest.raises(StateConflict, match=f"open release '{first}'"):
        open_release(stage.desk, stage.crew, a_release_request({"candidates": ("churn-v3",)}, candidates=("churn-v3",)))


def test_superseding_returns_the_traffic_first_and_starts_counting_anew() -> None:
    stage = a_stage()
    first = stage.open(**QUICK)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    second = open_release(stage.desk, stage.crew, a_release_request({"supersede": True, "release_id": "two"}, **QUICK))
    assert (first, second) != (second, first)
    progress = progress_from_text(stage.world.endpoint().progress or "")
    assert (progress.step, progress.looks, progress.evidence.requests) == (-1, 0, {})
    assert [action for _, action in stage.world.history()][-3:] == ["shift", "supersede", "start"]
    assert stage.drive().outcome == "promoted"


def test_a_release_without_a_plan_does_not_go_on_by_itself() -> None:
    stage = a_stage()
    stage.world.deploy("churn-v2", strategy="canary", wish=Wish(weight=10))
    with pytest.raises(StateConflict, match="opened without a plan"):
        open_release(stage.desk, stage.crew, a_release_request({}, **QUICK))
    with pytest.raises(StateConflict, match="no release that goes on by itself"):
        stage.drive()


def test_what_is_stable_already_and_an_id_that_has_ended_are_refused() -> None:
    stage = a_stage()
    stage.release(**QUICK)
    with pytest.raises(InvalidInput, match="is stable already"):
        open_release(stage.desk, stage.crew, a_release_request({}, **QUICK))
    last = stage.world.endpoint().last
    assert last is not None
    again = release(stage.desk, stage.crew, a_release_request({"release_id": last.id}, **QUICK))
    assert again is not None
    assert (again.outcome, again.by_hand) == ("promoted", True)
    request: dict[str, Any] = {"release_id": last.id, "candidates": ("churn-v3",)}
    with pytest.raises(StateConflict, match="was another and has ended \\(promoted\\)"):
        open_release(stage.desk, stage.crew, a_release_request(request, candidates=("churn-v3",)))


def test_detached_it_only_opens() -> None:
    stage = a_stage()
    assert release(stage.desk, stage.crew, a_release_request({"detach": True}, **QUICK)) is None
    assert stage.world.endpoint().release is not None
    assert stage.drive().outcome == "promoted"


# Preflight


class Cards:
    """What model versions say of themselves."""

    def __init__(self, **cards: ModelCard | Exception) -> None:
        self._cards = cards

    def card(self, label: str) -> ModelCard:
        found = self._cards["v" + label.rpartition("/")[2]]
        if isinstance(found, Exception):
            raise found
        return found


AGE = Column(name="age", type="long")
CARD = ModelCard(inputs=(AGE,), outputs=(Column(name="score", type="double"),), example='{"inputs": [1]}')


def tried(
    stage: Stage, cards: Cards, score: Callable[..., dict[str, Any]] | None = None, **request: Any
) -> list[tuple[Any, Any]]:
    sent: list[tuple[Any, Any]] = []

    def answering(_address: Any, payload: Any, *, headers: Mapping[str, str], timeout: float) -> dict[str, Any]:
        sent.append((payload, dict(headers)))
        return score() if score else {"predictions": [{"score": 1.0}]}

    crew = replace(stage.crew, models=cards, score=answering)
    open_release(stage.desk, crew, a_release_request(request, **QUICK))
    return sent


def test_the_input_example_goes_to_the_candidate_before_it_has_traffic() -> None:
    stage = a_stage()
    assert tried(stage, Cards(v1=CARD, v2=CARD)) == [({"inputs": [1]}, {"x-mlflow-deployment": "churn-v2"})]
    assert stage.world.endpoint().release is not None


def test_a_candidate_with_another_signature_is_refused_unless_forced() -> None:
    other = replace(CARD, inputs=(Column(name="age", type="string"),))
    stage = a_stage()
    with pytest.raises(StateConflict, match="input 'age' is string instead of long"):
        tried(stage, Cards(v1=CARD, v2=other))
    assert stage.world.endpoint().release is None
    assert tried(stage, Cards(v1=CARD, v2=other), force=True)
    assert any("is string instead of long (forced)" in warning for warning in stage.world.warnings)


def fails() -> dict[str, Any]:
    raise ClusterError("it answered 500")


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (fails, "fails on its own input example.*it answered 500"),
        (lambda: {"predictions": [{"x": 1}]}, "output 'score' is missing"),
    ],
)
def test_a_candidate_that_fails_its_own_example_gets_no_traffic(score: Any, says: str) -> None:
    stage = a_stage()
    with pytest.raises(StateConflict, match=says):
        tried(stage, Cards(v1=CARD, v2=CARD), score)
    assert stage.world.endpoint().release is None


def test_what_can_not_be_checked_is_said() -> None:
    stage = a_stage()
    assert tried(stage, Cards(v1=NotFound("its files are gone"), v2=ModelCard())) == []
    said = "\n".join(stage.world.warnings)
    for words in ("the signature of 'churn-v1' could not be read", "has no signature", "has no input_example"):
        assert words in said
    with pytest.raises(RegistryError):
        tried(a_stage(), Cards(v2=RegistryError("down")))


# Strategies with a comparison of their own


def test_a_shadow_gets_copies_and_its_comparison_promotes_it() -> None:
    stage = a_stage()
    stage.open(request={"strategy": "shadow"}, strategy="shadow", steps=(50.0,), guards=ERRORS)
    mirrored: list[float] = []

    def judge(endpoint: Any, _progress: Any, _now: Any) -> tuple[Verdict | None, str | None]:
        mirrored.extend(mirror.percentage for mirror in endpoint.traffic.mirrors)
        return (Verdict(word="advance", reason="They agree.") if len(mirrored) > 8 else None), None

    ending = drive(stage.desk, replace(stage.crew, judge=judge), "churn")
    assert (ending.outcome, ending.reason, set(mirrored)) == ("promoted", "They agree.", {50.0})
    assert stage.world.endpoint().traffic.mirrors == ()


def test_the_winner_of_an_ab_is_promoted() -> None:
    stage = a_stage()
    stage.world.deploy("churn-v3")
    stage.open(
        request={"strategy": "ab", "candidates": ("churn-v2", "churn-v3"), "wish": Wish(header="x-arm")},
        strategy="ab",
        candidates=("churn-v2", "churn-v3"),
        steps=(30.0,),
        guards=ERRORS,
    )

    def judge(*_seen: Any) -> tuple[Verdict | None, str | None]:
        return Verdict(word="advance", reason="churn-v3 is better."), "churn-v3"

    assert drive(stage.desk, replace(stage.crew, judge=judge), "churn").outcome == "promoted"
    assert stage.world.endpoint().stable.name == "churn-v3"
