"""The watch after a promotion on in-memory ports: what it does to traffic and ledger, who ends it, and that it survives death."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import name_of, wanted_replicas
from mlflow_istio.core.endpoint.deadlines import KEEP, WATCH
from mlflow_istio.core.release.plan import Webhook
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.restoring import rollback_to
from mlflow_istio.releases.deploying.sweeping import sweep
from mlflow_istio.releases.driving.opening import release
from mlflow_istio.releases.moving import shifting
from mlflow_istio.releases.reading import views
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.releases.reporting import gather
from mlflow_istio.report.words import headline
from tests.support.in_memory import Fate, Killed, a_request, mortal
from tests.support.simulated_users import QUICK, Behaviour, Stage, a_release_request, a_stage, kill

WATCHED: dict[str, Any] = {**QUICK, "watch": 480.0}
SHORT: dict[str, Any] = {**QUICK, "watch": 40.0}
BAD = Behaviour(errors=0.06)


def turns_bad(stage: Stage, second: float) -> None:
    stage.users.plans[second] = lambda: stage.users.behaviours.update({"churn-v2": BAD})


def in_its_watch(second: float = 150.0, **plan: Any) -> Stage:
    """A stage whose driver died when the release had been watched for a while."""
    stage = a_stage()
    stage.open(**{**WATCHED, **plan})
    stage.users.plans[second] = kill
    with pytest.raises(Killed):
        stage.drive()
    assert stage.world.endpoint().stable.name == "churn-v2"
    return stage


def actions(stage: Stage) -> list[str]:
    return [change.action for change in stage.world.registry.history("prod", "churn")][2:]


def test_an_equal_version_ends_its_watch_well_and_the_ledger_tells_it() -> None:
    stage = a_stage()
    ending = stage.release(**WATCHED)
    assert (ending.outcome, ending.word) == ("promoted", "advance")
    assert actions(stage) == ["start", "shift", "shift", "promote", "watch-end"]
    assert stage.weights_seen()[-2:] == [95, 100]
    changes = stage.world.registry.history("prod", "churn")
    assert (changes[-1].time - changes[-2].time).total_seconds() == pytest.approx(480, abs=6)
    run = changes[-1].run or ""
    assert stage.world.registry.runs[run] == "promoted"
    assert {figure.value for figure in stage.world.runs.figures(run)["look/weight"]} == {10, 50, 95}
    kept = json.loads(stage.world.runs.text(run, "release.json") or "")
    assert (kept["outcome"], kept["plan"]["watch"]) == ("promoted", 480)
    assert stage.world.endpoint().deadlines == ()


def test_one_that_turns_bad_later_goes_back_in_one_edit_and_webhooks_are_told() -> None:
    stage = a_stage()
    turns_bad(stage, 300)
    ending = stage.release(**WATCHED, webhooks=(Webhook(url="http://gate", events=("rollback",)),))
    assert (ending.outcome, ending.word) == ("rolled-back", "rollback")
    assert "since its promotion: errors" in ending.reason
    assert actions(stage) == ["start", "shift", "shift", "promote", "rollback"]
    endpoint = stage.world.endpoint()
    assert (endpoint.stable.name, endpoint.traffic.weights["churn-v1"]) == ("churn-v1", 100)
    assert stage.clock.monotonic() < 420
    assert [event for event, _, _ in stage.asked] == ["rollback"]
    assert stage.world.registry.runs[stage.world.registry.history("prod", "churn")[-1].run or ""] == "rolled-back"


def test_without_a_watch_a_release_ends_at_its_promotion() -> None:
    stage = a_stage()
    assert stage.release(**QUICK).outcome == "promoted"
    assert actions(stage)[-1] == "promote"


@pytest.mark.parametrize("watch", [0.0, 40.0])
def test_the_old_version_goes_when_keep_old_says_so(watch: float) -> None:
    stage = a_stage()
    stage.release(**{**QUICK, "watch": watch, "keep_old": 600.0})
    promoted = [change.time for change in stage.world.registry.history("prod", "churn") if change.action == "promote"]
    (deadline,) = stage.world.endpoint().deadlines
    assert (deadline.kind, deadline.what) == (KEEP, "churn-v1")
    assert (deadline.at - promoted[0]).total_seconds() == pytest.approx(600, abs=6)
    stage.clock.sleep(700)
    sweep(stage.context)
    assert [obj["metadata"]["name"] for obj in stage.world.cluster.list("Deployment", {})] == ["churn-v2"]


# What is seen of it


def test_status_and_report_say_that_it_is_watched() -> None:
    stage = in_its_watch()
    view = views.endpoint_view(stage.world.cluster, "churn")
    assert (view["stable"], view["candidates"], view["traffic"]) == ("churn-v2", [], {"churn-v2": 95, "churn-v1": 5})
    watching = view["release"]["watching"]
    assert {key: watching[key] for key in ("promoted", "previous", "holdback")} == {
        "promoted": "churn-v2",
        "previous": "churn-v1",
        "holdback": 5,
    }
    assert watching["since"] < watching["until"]
    assert [deployment["role"] for deployment in view["deployments"]] == ["holdback", "stable"]
    assert "was promoted and is watched beside churn-v1" in headline(gather(stage.context, "churn"))
    assert stage.world.registry.aliases[("churn", "champion")] == 2


def test_doctor_says_that_nobody_watches_and_what_helps_where_the_old_version_is_broken() -> None:
    stage = in_its_watch()
    assert not [finding for finding in examine(stage.context, "churn") if finding.code == "unwatched"]
    stage.clock.sleep(60)  # its driver's last sign of life has run out
    (found,) = [finding for finding in examine(stage.context, "churn") if finding.code == "unwatched"]
    assert "nobody drives release 'id3', which is to watch 'churn-v2'" in found.text
    assert found.command == "mlflow-istio resume churn -t {target}"
    stage.world.cluster.unready.add("churn-v1")
    (broken,) = [finding for finding in examine(stage.context, "churn") if finding.code == "not-ready"]
    assert broken.command == "mlflow-istio promote churn -t {target}"
    shifting.pause(stage.context, "churn")
    assert not [finding for finding in examine(stage.context, "churn") if finding.code == "unwatched"]


# Death, and who goes on


def finish(stage: Stage, plan: dict[str, Any]) -> None:
    """Give the same command again; one that has done its work says that nothing is left."""
    request = a_release_request({}, **plan)
    endpoint = stage.world.endpoint()
    if endpoint.release is None and endpoint.last is not None:
        with pytest.raises(InvalidInput, match="is stable already"):
            release(stage.context, stage.dependencies, request)
    else:
        release(stage.context, stage.dependencies, request)


@pytest.mark.parametrize("replied", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("bad", [False, True], ids=["stays good", "turns bad"])
def test_killed_at_any_call_and_given_again_it_ends_the_same(replied: bool, bad: bool) -> None:
    def a_world() -> Stage:
        stage = a_stage()
        if bad:
            turns_bad(stage, 60)
        return stage

    plan = {**SHORT, "watch": 120.0} if bad else SHORT
    stage, fate = a_world(), Fate(call=0, replied=False)
    ending = release(mortal(stage.context, fate), stage.dependencies, a_release_request({}, **plan))
    assert ending is not None
    assert ending.outcome == ("rolled-back" if bad else "promoted")
    for call in range(1, fate.calls + 1, 11 if replied else 13):
        other = a_world()
        with pytest.raises(Killed):
            release(
                mortal(other.context, Fate(call=call, replied=replied)),
                other.dependencies,
                a_release_request({}, **plan),
            )
        if bad and other.world.endpoint().last is not None:
            continue  # it had gone back already: the same command would release anew
        finish(other, plan)
        where = f"killed at call {call} of {fate.calls}"
        assert other.outcome() == ending.outcome, where
        # Before its promotion a bad one is found by the release itself.
        assert actions(other)[-1] == ("rollback" if bad else "watch-end"), where
        assert other.world.endpoint().deadlines == (), where
        assert other.world.endpoint().traffic.weights["churn-v1" if bad else "churn-v2"] == 100, where


def test_resumed_it_goes_on_with_what_was_seen() -> None:
    stage = in_its_watch()
    seen = progress_from_text(stage.world.endpoint().progress or "")
    turns_bad(stage, stage.clock.monotonic() + 30)
    assert stage.drive().outcome == "rolled-back"
    assert seen.watch is not None
    assert stage.clock.monotonic() < 350


def test_a_watch_that_nobody_drives_is_ended_by_the_sweep() -> None:
    stage = in_its_watch()
    (deadline,) = stage.world.endpoint().deadlines
    assert deadline.kind == WATCH
    stage.clock.sleep((deadline.at - stage.context.clock.now()).total_seconds() - 1)
    assert sweep(stage.context) == ()
    stage.clock.sleep(2)
    (swept,) = sweep(stage.context)
    assert (swept.what, swept.problem) == ("watch ended (id3)", "")
    assert (stage.outcome(), stage.world.endpoint().traffic.weights["churn-v2"]) == ("promoted", 100)
    assert actions(stage)[-1] == "watch-end"
    assert stage.world.registry.runs[stage.world.registry.history("prod", "churn")[-1].run or ""] == "promoted"
    assert stage.drive(release="id3").by_hand


def test_a_paused_watch_is_not_swept_but_its_owner_is_told() -> None:
    stage = in_its_watch()
    shifting.pause(stage.context, "churn")
    stage.clock.sleep(3000)
    (swept,) = sweep(stage.context)
    assert "it is paused" in swept.problem
    assert stage.world.endpoint().traffic.weights["churn-v1"] == 5


def test_a_pause_moves_its_end_on() -> None:
    stage = in_its_watch()
    shifting.pause(stage.context, "churn")
    stage.users.plans[stage.clock.monotonic() + 500] = lambda: shifting.resume(stage.context, "churn") and None
    start = stage.clock.monotonic()
    assert stage.drive().outcome == "promoted"
    assert 480 + 500 - 150 < stage.clock.monotonic() - start < 480 + 500


# Who ends it


@pytest.mark.parametrize(
    ("verb", "stable", "outcome"),
    [("promote", "churn-v2", "promoted"), ("rollback", "churn-v1", "rolled-back"), ("abort", "churn-v1", "aborted")],
)
def test_a_person_may_end_it_at_any_time(verb: str, stable: str, outcome: str) -> None:
    stage = a_stage()
    stage.open(**WATCHED)
    stage.users.plans[150.0] = lambda: getattr(shifting, verb)(stage.context, "churn", reason="by me") and None
    ending = stage.drive()
    assert (ending.outcome, ending.by_hand) == (outcome, True)
    endpoint = stage.world.endpoint()
    assert (endpoint.stable.name, endpoint.traffic.weights[stable]) == (stable, 100)
    assert (endpoint.deadlines, endpoint.progress) == ((), None)


def test_rolled_back_after_its_watch_it_goes_back_as_ever() -> None:
    stage = a_stage()
    stage.release(**SHORT)
    shifting.rollback(stage.context, "churn")
    assert stage.world.endpoint().stable.name == "churn-v1"


def test_a_new_release_is_refused_or_ends_it_well() -> None:
    stage = in_its_watch()
    third = {"candidates": ("churn-v3",), "deployments": (a_request("churn-v3"),)}
    with pytest.raises(StateConflict, match="release 'id3' has promoted 'churn-v2' and watches it") as refused:
        stage.open(request=third, candidates=("churn-v3",), **QUICK)
    assert "supersede=true" in refused.value.message
    stage.open(request={**third, "supersede": True}, candidates=("churn-v3",), **QUICK)
    assert stage.world.endpoint().stable.name == "churn-v2"
    ended = {change.release: change.action for change in stage.world.registry.history("prod", "churn")}
    assert ended["id3"] == "watch-end"
    assert stage.drive().outcome == "promoted"
    assert stage.world.endpoint().stable.name == "churn-v3"


def test_neither_weights_nor_the_old_version_can_be_taken_from_it() -> None:
    from mlflow_istio.core.moves.strategies import TrafficRequest

    stage = in_its_watch()
    with pytest.raises(StateConflict, match="belong to a watch"):
        shifting.shift(stage.context, "churn", TrafficRequest(weight=50))
    with pytest.raises(StateConflict, match="is what the release is watched against"):
        removal.delete(stage.context, "churn-v1")


def test_a_stable_that_serves_nothing_keeps_no_share() -> None:
    stage = a_stage(churn_v1=Behaviour(errors=1.0))
    ending = stage.release(**WATCHED)
    assert ending.outcome == "promoted"
    assert actions(stage)[-1] == "promote"
    assert stage.world.endpoint().traffic.weights.get("churn-v1", 0) == 0


def test_an_old_version_that_dies_in_the_watch_gives_its_users_away() -> None:
    stage = a_stage()
    stage.open(**WATCHED)
    stage.users.plans[150.0] = lambda: stage.users.behaviours.update({"churn-v1": Behaviour(errors=1.0)})
    stage.users.rate = 400.0
    ending = stage.drive()
    assert ending.outcome == "promoted"
    assert "serves nothing any more" in ending.reason
    assert stage.clock.monotonic() < 300


def test_blue_green_is_watched_too() -> None:
    stage = a_stage()
    turns_bad(stage, 200)
    ending = stage.release(**{**WATCHED, "strategy": "blue-green", "steps": (0, 100)})
    assert ending.outcome == "rolled-back"
    assert stage.weights_seen()[-2:] == [95, 0]


def test_the_same_command_with_another_plan_is_refused_in_a_watch() -> None:
    stage = in_its_watch()
    with pytest.raises(StateConflict, match="is open with another plan"):
        stage.open(**{**WATCHED, "holdback": 9})
    assert stage.open(**WATCHED) == "id3"
    assert stage.open(request={"release_id": "id3"}, **WATCHED) == "id3"


def test_back_to_an_earlier_change_ends_it() -> None:
    stage = in_its_watch()
    middle = next(change for change in stage.world.registry.history("prod", "churn") if change.action == "shift")
    rollback_to(stage.context, "churn", str(middle.sequence), as_request=lambda name, _uri: a_request(name))
    endpoint = stage.world.endpoint()
    assert (endpoint.stable.name, endpoint.traffic.weights) == ("churn-v1", {"churn-v1": 90, "churn-v2": 10})
    assert endpoint.release is not None
    assert (endpoint.release.watching, endpoint.release.state, endpoint.progress) == (None, "paused", None)
    stage.clock.sleep(timedelta(hours=2).total_seconds())
    sweep(stage.context)
    assert stage.world.endpoint().deadlines == ()
    assert replace(endpoint, deadlines=()).traffic == stage.world.endpoint().traffic


def test_a_control_goes_at_the_promotion_and_the_watch_compares_with_the_old_version() -> None:
    stage = in_its_watch(control="fresh")
    endpoint = stage.world.endpoint()
    assert endpoint.traffic.weights == {"churn-v2": 95, "churn-v1": 5}
    assert endpoint.release is not None
    assert endpoint.release.control == ""
    assert [swept.what for swept in sweep(stage.context)] == ["control taken away (churn-v1-control)"]
    endpoint = stage.world.endpoint()
    assert endpoint.traffic.pins == ("churn-v1", "churn-v2")
    assert [deadline.kind for deadline in endpoint.deadlines] == [WATCH]
    progress = progress_from_text(endpoint.progress or "")
    assert progress.evidence.control == ""
    assert {"churn-v1", "churn-v2"} == {name for name, count in progress.evidence.requests.items() if count}
    assert stage.drive().outcome == "promoted"


def replicas(stage: Stage) -> dict[str, int]:
    return {name_of(obj): wanted_replicas(obj) for obj in stage.world.cluster.list("Deployment", {})}


@pytest.mark.parametrize("bad", [False, True], ids=["stays good", "turns bad"])
def test_replicas_that_follow_the_traffic_are_left_as_they_are_to_be(bad: bool) -> None:
    stage = a_stage()
    stage.world.cluster.edit("Deployment", "churn-v1", lambda obj: {**obj, "spec": {**obj["spec"], "replicas": 4}})
    stage.open(**WATCHED, capacity="follow")
    stage.users.plans[150.0] = kill
    with pytest.raises(Killed):
        stage.drive()
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 4}  # the way back is one edit
    if bad:
        turns_bad(stage, stage.clock.monotonic() + 30)
    assert stage.drive().outcome == ("rolled-back" if bad else "promoted")
    assert replicas(stage) == {"churn-v1": 4, "churn-v2": 1 if bad else 4}
