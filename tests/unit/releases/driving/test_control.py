"""A control: the stable's version once more, beside the candidate, from the release's opening to its end, whatever ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.basics.objects import name_of, wanted_replicas
from mlflow_istio.core.endpoint.deadlines import CONTROL
from mlflow_istio.core.mesh.destination_rule import subsets_of
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.core.release.plan import GuardPlan, auto_guards
from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotReady, StateConflict
from mlflow_istio.releases.context import Context
from mlflow_istio.releases.deploying import deployments, removal, sweeping
from mlflow_istio.releases.driving.drive import DriveResult
from mlflow_istio.releases.driving.opening import release
from mlflow_istio.releases.driving.progressive import drive
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import Fate, Killed, a_request, mortal, with_shop
from tests.support.simulated_users import ERRORS, QUICK, Behaviour, Stage, a_release_request, kill

CONTROLLED: dict[str, Any] = {**QUICK, "control": "fresh"}
NAME = "churn-v1-control"
LATENCY = (GuardPlan(name="latency", kind="latency", edges=(12.0,)),)


class Enforcing(Stage):
    """A stage on which deadlines are carried out, as every verb does."""

    @property
    def context(self) -> Context:
        return replace(self.world.context, clock=self.clock, enforce=sweeping.enforce)


def a_stage(**behaviours: Behaviour) -> Enforcing:
    stage = Enforcing()
    stage.users.behaviours = {name.replace("_", "-"): how for name, how in behaviours.items()}
    return stage


def nothing_is_left(stage: Stage) -> None:
    """No pods, subset, route, share nor deadline of a control."""
    cluster, endpoint = stage.world.cluster, stage.world.endpoint()
    assert cluster.get("Deployment", NAME) is None
    assert NAME not in subsets_of(cluster.get("DestinationRule", "churn") or {})
    assert NAME not in endpoint.traffic.pins
    assert NAME not in endpoint.traffic.weights
    assert not endpoint.deadlines
    assert endpoint.role_of(NAME) == "idle"


def test_it_has_the_candidates_replicas_and_share_and_goes_when_the_candidate_is_promoted() -> None:
    stage = a_stage()
    stage.world.deploy("churn-v2", replicas=3)
    stage.open(request={"deployments": ()}, **CONTROLLED)
    found = stage.world.cluster.get("Deployment", NAME) or {}
    assert found["spec"]["replicas"] == 3
    assert stage.world.endpoint().role_of(NAME) == "control"
    assert stage.drive().outcome == "promoted"
    weights = [change.after.weights for change in stage.world.registry.history("prod", "churn") if change.after]
    assert {"churn-v1": 80, "churn-v2": 10, NAME: 10} in weights
    assert {"churn-v1": 0, "churn-v2": 50, NAME: 50} in weights
    assert all(sum(each.values()) == 100 for each in weights)
    nothing_is_left(stage)
    assert stage.world.endpoint().stable.name == "churn-v2"
    assert [action for _, action in stage.world.history()][-5:] == ["start", "shift", "shift", "promote", "remove"]


def test_it_runs_what_the_stable_runs_under_a_name_of_its_own() -> None:
    stage = a_stage()
    stage.world.cluster.edit(
        "Deployment", "churn-v1", lambda obj: {**(obj or {}), "spec": {**(obj or {})["spec"], "x": 1}}
    )
    stage.open(**CONTROLLED)
    mine, its = (stage.world.cluster.get("Deployment", name) or {} for name in ("churn-v1", NAME))
    assert its["spec"]["x"] == 1
    assert (
        its["spec"]["selector"]["matchLabels"]["version"]
        == its["metadata"]["labels"]["mlflow-istio.org/deployment"]
        == NAME
    )
    text = str(its).replace(NAME, "churn-v1")
    assert its["metadata"]["annotations"]["mlflow-istio.org/control-of"] == "churn-v1"
    assert str(mine["spec"]) in text


@pytest.mark.parametrize("deployment", ["churn-v1", "churn-v1-" + "x" * 43])
def test_its_name_is_one_a_deployment_can_have(deployment: str) -> None:
    from mlflow_istio.core.basics.names import check_name
    from mlflow_istio.core.moves.control_share import control_name

    assert check_name(control_name(deployment), "deployment").endswith("-control")
    assert control_name(deployment + "y") != control_name(deployment)


# What is compared with what


def overloaded(times: float = 1.0) -> Enforcing:
    """One replica each, which queue: at all traffic on one replica an answer takes twice as long; 8 ms alone."""
    stage = a_stage(
        churn_v1=Behaviour(milliseconds=8.0, queueing=1.0),
        churn_v1_control=Behaviour(milliseconds=8.0, queueing=1.0),
        churn_v2=Behaviour(milliseconds=8.0 * times, queueing=1.0),
    )
    stage.users.metrics.edges = (8.0, 9.0, 10.0, 11.0, 12.0, 14.0, 16.0, 40.0, 60.0)
    return stage


def test_a_slower_candidate_is_found_against_a_control_and_passes_for_a_good_one_against_an_overloaded_stable() -> None:
    slow: dict[str, Any] = {"steps": (20,), "guards": (GuardPlan(name="latency", kind="latency", edges=(10.0,)),)}
    assert overloaded(1.3).release(**slow, control="fresh").outcome == "rolled-back"
    unaware = overloaded(1.3).release(**slow, deadline=600.0)
    assert unaware.outcome == "promoted"  # as before there were controls: 12.5 ms against 14.4 ms
    aware = overloaded(1.3).release(**slow, control="none", deadline=600.0)
    assert "rolled" not in aware.outcome


@pytest.mark.parametrize(("times", "outcome"), [(1.3, "rolled-back"), (1.0, "promoted")])
def test_edges_that_nobody_names_are_chosen_by_what_the_control_answers(times: float, outcome: str) -> None:
    """By the overloaded stable's own times, 16 ms and more, every version with less to do would be fast."""
    stage = overloaded(times)
    stage.users.metrics.edges = (8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 18.0, 40.0, 50.0, 60.0, 80.0)
    ended = stage.release(steps=(20,), guards=auto_guards(), control="fresh")
    assert ended.outcome == outcome, ended.reason
    assert "latency" in ended.reason


def test_waiting_for_the_controls_first_answers_is_no_lack_of_data() -> None:
    """At one request a second they take longer than a step: whoever goes back for missing data does not go back for that."""
    stage, seen = a_stage(), list[str]()
    stage.users.rate = 10.0
    plan = {"steps": (10,), "guards": auto_guards(), "no_data": "rollback", "hold": 10.0, "deadline": 150.0}
    stage.open(**plan, control="fresh")
    dependencies = replace(stage.dependencies, watch=lambda look: seen.append(look.verdict.reason))
    assert drive(stage.context, dependencies, "churn").outcome == "inconclusive"
    waits = [line for line in seen if "latency (begins with the control's first 100 answers, " in line]
    assert len(waits) > 10
    assert "latency (" not in seen[-1]


def test_an_equal_candidate_is_promoted_against_a_control() -> None:
    assert overloaded().release(guards=LATENCY, hold=10.0, control="fresh").outcome == "promoted"


@pytest.mark.parametrize(("rate", "outcome"), [(0.2, "rolled-back"), (0.3, "promoted")])
def test_a_kpi_that_is_counted_by_version_takes_the_controls_users_for_the_stables(rate: float, outcome: str) -> None:
    """A callable that knows versions by their deployments' names is not asked for the control's, which is none of them."""
    stage = a_stage()

    def seen_by_version(name: str) -> tuple[float, float]:
        version = {"churn-v1": ("churn-v1", NAME), "churn-v2": ("churn-v2",)}[name]
        sources = [stage.users.metrics.read("churn", version).get(each, {}) for each in version]
        visits = sum(counters["requests"] for reading in sources for counters in reading.values())
        return visits, round(visits * (rate if name == "churn-v2" else 0.3))

    clicks = GuardPlan(name="clicks", kind="rate", worse="lower", allowed=NonInferiorityMargin(odds_ratio=1.5))
    plan = {**CONTROLLED, "guards": (*ERRORS, clicks), "steps": (20, 50)}
    stage.open(**plan)
    metrics = KpiMetrics(stage.users.metrics, [Kpi(name="clicks", call=seen_by_version)])
    ended = drive(stage.context, replace(stage.dependencies, metrics=metrics), "churn")
    assert ended.outcome == outcome, ended.reason
    assert "clicks" in ended.reason


def test_without_a_control_latency_counts_only_while_loads_are_comparable_and_the_verdict_says_so() -> None:
    stage = overloaded(1.3)
    seen: list[str] = []
    stage.open(guards=LATENCY, steps=(20, 50), hold=10.0, control="none")
    dependencies = replace(stage.dependencies, watch=lambda look: seen.append(look.verdict.reason))
    assert drive(stage.context, dependencies, "churn").outcome == "rolled-back"
    said = [line for line in seen if "Latency does not count now" in line]
    assert said
    assert "more than 1.5 times the load" in said[0]
    assert "Latency does not count" not in seen[-1]
    assert stage.weights_seen()[-2] == 50  # at 20% nothing could be said


def test_shares_per_replica_that_are_not_equal_tell_nothing_of_latency() -> None:
    stage = overloaded(1.3)
    seen: list[str] = []
    stage.open(guards=LATENCY, steps=(75,), hold=10.0, control="fresh", deadline=120.0)
    drive(stage.context, replace(stage.dependencies, watch=lambda look: seen.append(look.verdict.reason)), "churn")
    assert stage.world.history()
    assert any("shares per replica of 'churn-v1-control' and 'churn-v2' are not equal" in line for line in seen)


def test_verdicts_speak_of_the_control_and_figures_count_its_requests() -> None:
    stage = a_stage(churn_v2=Behaviour(errors=0.2))
    ending = stage.release(**CONTROLLED)
    assert ending.outcome == "rolled-back"
    assert "on the control" in ending.reason
    run = stage.world.registry.history("prod", "churn")[-1].run
    change = next(change for change in stage.world.registry.history("prod", "churn") if change.action == "shift")
    assert change.control == NAME
    assert stage.world.runs.figures(change.run or "")["look/requests/control"][-1].value > 0
    assert run


def test_as_large_as_the_candidate_it_stays() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    stage.users.plans[12.0] = lambda: deployments.update(stage.context, "churn-v2", replicas=2) and None
    replicas: list[int] = []
    stage.users.plans[60.0] = lambda: replicas.append(
        (stage.world.cluster.get("Deployment", NAME) or {})["spec"]["replicas"]
    )
    stage.drive()
    assert replicas in ([2], [])  # promoted by then, or followed


# Its end


@pytest.mark.parametrize(
    ("verb", "outcome"), [("promote", "promoted"), ("rollback", "rolled-back"), ("abort", "aborted")]
)
def test_whoever_ends_the_release_it_goes(verb: str, outcome: str) -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    stage.users.plans[12.0] = lambda: getattr(shifting, verb)(stage.context, "churn") and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == (outcome, True)
    nothing_is_left(stage)
    getattr(shifting, verb)(stage.context, "churn")  # given again it finds its work done
    assert stage.outcome() == outcome if verb != "rollback" else "rolled-back"


def test_it_goes_with_a_release_that_is_superseded_and_the_next_has_its_own() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    stage.world.deploy("churn-v3")
    request = {"deployments": (), "candidates": ("churn-v3",), "supersede": True}
    stage.open(request=request, **CONTROLLED, candidates=("churn-v3",))
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 100, "churn-v3": 0, NAME: 0}
    assert stage.drive().outcome == "promoted"
    nothing_is_left(stage)


def test_it_goes_with_its_endpoint() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    removal.delete_endpoint(stage.context, "churn", force=True)
    assert not stage.world.objects()


def test_after_a_death_a_sweep_takes_it_away_when_the_release_should_have_ended() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    stage.users.plans[12.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    assert stage.world.endpoint().traffic.weights[NAME] == 10
    stage.clock.sleep(3000)
    assert not sweeping.sweep(stage.context)
    stage.clock.sleep(700)
    assert [swept.what for swept in sweeping.sweep(stage.context)] == [f"control taken away ({NAME})"]
    nothing_is_left(stage)
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}
    assert stage.drive().outcome == "inconclusive"  # its deadline has passed


def test_one_that_is_still_compared_with_stays_after_its_deadline() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    shifting.pause(stage.context, "churn")
    stage.clock.sleep(5000)
    assert [swept.what for swept in sweeping.sweep(stage.context)] == [f"control ({NAME}) is still compared with"]
    assert not sweeping.sweep(stage.context)
    shifting.resume(stage.context, "churn")
    assert stage.drive().outcome == "inconclusive"  # nobody drove it, so the pause counted for nothing
    nothing_is_left(stage)


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_killed_at_any_call_and_given_again_no_control_is_left_over(replied: bool) -> None:
    stage, fate = a_stage(), Fate(call=0, replied=False)
    request = a_release_request({}, **CONTROLLED, steps=(40,))
    ending = release(mortal(stage.context, fate), stage.dependencies, request)
    assert isinstance(ending, DriveResult)
    assert ending.outcome == "promoted"
    for call in range(1, fate.calls + 1, 4 if replied else 5):
        other = a_stage()
        with pytest.raises(Killed):
            release(mortal(other.context, Fate(call=call, replied=replied)), other.dependencies, request)
        try:
            release(other.context, other.dependencies, request)
        except InvalidInput:
            assert other.world.endpoint().stable.name == "churn-v2"
        assert other.outcome() == "promoted", f"killed at call {call} of {fate.calls}"
        nothing_is_left(other)


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
def test_killed_at_any_call_and_never_given_again_a_sweep_leaves_no_control(replied: bool) -> None:
    fate = Fate(call=0, replied=False)
    stage = a_stage()
    request = a_release_request({}, **CONTROLLED, steps=(40,))
    release(mortal(stage.context, fate), stage.dependencies, request)
    for call in range(1 + replied, fate.calls + 1, 7):
        other = a_stage()
        with pytest.raises(Killed):
            release(
                mortal(other.context, Fate(call=call, replied=replied)),
                other.dependencies,
                request,
            )
        other.clock.sleep(7200)
        assert not [swept for swept in sweeping.sweep(other.context) if swept.problem]
        nothing_is_left(other)


@pytest.mark.parametrize("bad", [False, True], ids=["promoted and watched", "rolled back"])
def test_killed_with_a_control_replicas_that_follow_and_a_watch_nothing_of_any_is_left_over(bad: bool) -> None:
    """All three at once, at every thirteenth call; each alone is killed at more."""

    def beginning() -> Enforcing:
        stage = a_stage(churn_v2=Behaviour(errors=0.2 if bad else 0.01))
        stage.world.cluster.edit(
            "Deployment", "churn-v1", lambda obj: {**(obj or {}), "spec": {**(obj or {})["spec"], "replicas": 2}}
        )
        return stage

    plan = {**CONTROLLED, "steps": (40,), "capacity": "follow", "watch": 60.0, "keep_old": 7200.0}
    request = a_release_request({}, **plan)
    stage, fate = beginning(), Fate(call=0, replied=False)
    ending = release(mortal(stage.context, fate), stage.dependencies, request)
    assert isinstance(ending, DriveResult)
    assert ending.outcome == ("rolled-back" if bad else "promoted")
    for call in range(7, fate.calls + 1, 13):
        other = beginning()
        with pytest.raises(Killed):
            release(mortal(other.context, Fate(call=call, replied=bool(call % 2))), other.dependencies, request)
        endpoint, where = other.world.endpoint(), f"killed at call {call} of {fate.calls}"
        if endpoint.release is not None:
            other.drive()
        elif endpoint.last is None:  # before it was open
            release(other.context, other.dependencies, request)
        other.clock.sleep(8000)
        assert not [swept for swept in sweeping.sweep(other.context) if swept.problem], where
        assert other.outcome() == ending.outcome, where
        nothing_is_left(other)
        left = {name_of(obj): wanted_replicas(obj) for obj in other.world.cluster.list("Deployment", {})}
        assert left == ({"churn-v1": 2, "churn-v2": 1} if bad else {"churn-v2": 2}), where
        assert other.world.endpoint().traffic.weights == {"churn-v1" if bad else "churn-v2": 100}, where


# What is refused


def refused(stage: Stage, work: Callable[[], object], words: str, kind: type[MlflowIstioError]) -> None:
    before = stage.world.text()
    with pytest.raises(kind, match=words):
        work()
    assert stage.world.text() == before


def test_a_foreign_stable_can_have_none() -> None:
    world = with_shop(deployed=("churn-v2",))
    stage = Enforcing(world=world)
    request = a_release_request({"deployments": ()}, **CONTROLLED)
    words = "'web' of endpoint 'churn' is its owner's and can't be started once more; say control=none"
    refused(stage, lambda: release(stage.context, stage.dependencies, request), words, InvalidInput)


def test_a_name_that_is_taken_is_told_before_anything_is_deployed() -> None:
    stage = a_stage()
    deployments.deploy(stage.context, replace(a_request("churn-v3"), name=NAME))
    words = f"would be deployment '{NAME}', which is there already and is none"
    request = a_release_request({}, **CONTROLLED)
    refused(stage, lambda: release(stage.context, stage.dependencies, request), words, StateConflict)


def test_nobody_promotes_shifts_routes_to_or_deletes_it_by_hand() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    context = stage.context
    weights = TrafficRequest(weights={"churn-v1": 50, "churn-v2": 25, NAME: 25})
    refused(
        stage, lambda: shifting.promote(context, "churn", candidate=NAME), "is no candidate of release", InvalidInput
    )
    refused(
        stage, lambda: shifting.shift(context, "churn", weights), "whose share follows the candidate's", InvalidInput
    )
    refused(stage, lambda: removal.delete(context, NAME), "is the control of the open release", StateConflict)
    shifting.pause(context, "churn")
    shifting.shift(context, "churn", TrafficRequest(weight=30))
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 40, "churn-v2": 30, NAME: 30}
    by_hand = TrafficRequest(weights={"churn-v1": 40, "churn-v2": 60})
    shifting.shift(context, "churn", by_hand)
    assert stage.world.endpoint().traffic.weights == {"churn-v1": 0, "churn-v2": 60, NAME: 40}


def test_one_that_finds_no_room_is_taken_away_and_only_a_wish_for_it_fails() -> None:
    for how, words in (("fresh", "was not ready"), ("auto", "")):
        stage = a_stage()
        plan = {**QUICK, "guards": (GuardPlan(name="latency", kind="latency", edges=(10.0,)),), "control": how}
        cluster: Any = stage.world.cluster
        patient = cluster.wait_ready

        def no_room(name: str, timeout: float, patient: Any = patient) -> None:
            if name == NAME:
                raise NotReady(f"deployment '{name}' was not ready within {timeout:g} s")
            patient(name, timeout)

        cluster.wait_ready = no_room
        if words:
            with pytest.raises(NotReady, match=words):
                stage.open(**plan)
            assert stage.world.endpoint().release is None
        else:
            stage.open(**plan)
            assert any(
                "no control, so the candidate is compared with 'churn-v1' itself" in line
                for line in stage.world.warnings
            )
        nothing_is_left(stage)


def test_one_that_dies_gets_no_users_until_it_is_ready_again() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED)
    weights: list[dict[str, int]] = []
    cluster: Any = stage.world.cluster
    original = cluster.list

    def without_it(kind: str, labels: Any) -> Any:
        found = original(kind, labels)
        if 30 < stage.clock.monotonic() < 60:
            found = [{**obj, "status": {}} if obj["metadata"]["name"] == NAME else obj for obj in found]
        return found

    cluster.list = without_it
    stage.users.plans[50.0] = lambda: weights.append(dict(stage.world.endpoint().traffic.weights))
    assert stage.drive().outcome == "promoted"
    assert weights == [{"churn-v1": 50, "churn-v2": 50, NAME: 0}]
    nothing_is_left(stage)


def test_its_deadline_stands_before_its_pods_do() -> None:
    stage = a_stage()
    cluster: Any = stage.world.cluster
    apply, deadlines = cluster.apply, []

    def noticed(obj: Any) -> Any:
        if obj["metadata"]["name"] == NAME:
            deadlines.extend(stage.world.endpoint().deadlines)
        return apply(obj)

    cluster.apply = noticed
    stage.open(**CONTROLLED)
    assert [(deadline.kind, deadline.what) for deadline in deadlines] == [(CONTROL, NAME)]
    assert timedelta(0) < deadlines[0].at - stage.context.clock.now() < timedelta(hours=1)


def test_it_goes_when_the_promotion_is_watched_which_compares_with_the_holdback() -> None:
    stage = a_stage()
    stage.open(**CONTROLLED, watch=300.0, holdback=5)
    seen: list[dict[str, int]] = []
    dependencies = replace(stage.dependencies, watch=lambda look: seen.append(dict(look.endpoint.traffic.weights)))
    assert drive(stage.context, dependencies, "churn").outcome == "promoted"
    assert {"churn-v2": 95, "churn-v1": 5} in seen
    nothing_is_left(stage)
    assert stage.world.endpoint().stable.name == "churn-v2"
