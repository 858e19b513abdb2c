"""One id, one plan: a step under an id that has or had another plan is refused by name; tried again, it finds its work done.

The steps run on the real verbs and in-memory ports. That a step may be tried again, and that runs may be side by side, is KFP's
own: ``set_retry`` and ``max_concurrency`` in its documentation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kfp_components import analysing, steps
from mlflow_istio.core.endpoint.endpoint import MAX_EARLIER
from mlflow_istio.core.mesh.virtual_service import read_endpoint, write_endpoint
from mlflow_istio.core.release.progress import alive, progress_from_text, progress_to_text
from mlflow_istio.errors import NotRouted, StateConflict
from mlflow_istio.releases.driving import opening
from tests.support.places import TARGET, verbs_on
from tests.support.simulated_users import Stage, a_stage

QUICK: dict[str, Any] = {
    "interval": 5,
    "hold": 10,
    "min_requests": 50,
    "warmup": 0,
    "phase": 0,  # requests that are independent are enough after a few looks
    "analysis": [{"guard": "errors", "allowed": 0.03}],
}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """churn-v1 serves; a busy clock brings requests."""
    made = a_stage()
    monkeypatch.setattr(steps, "verbs_of", lambda target: verbs_on(made))
    monkeypatch.setattr(analysing, "verbs_of", lambda target: verbs_on(made))
    return made


def release(
    version: int | str = 2, release_id: str = "job-1", *, options: dict[str, Any] | None = None, **more: Any
) -> Any:
    given = {"strategy": "canary", "steps": "10,50", "name": "", "reason": "", **more}
    uri = f"models:/churn{version}" if str(version).startswith("@") else f"models:/churn/{version}"
    return steps.release(TARGET, "churn", uri, release_id=release_id, options=options or QUICK, **given)


def move(release_id: str = "job-1", **more: Any) -> Any:
    given = {"candidate": "", "strategy": "", "weight": -1, "mirror": -1.0, "options": {}, "reason": "", **more}
    return steps.move_traffic(TARGET, "churn", release_id=release_id, **given)


def deploy(name: str, version: int, release_id: str = "") -> Any:
    return steps.deploy(TARGET, "churn", name, f"models:/churn/{version}", {}, "", release_id)


def promote(release_id: str = "job-1", candidate: str = "") -> Any:
    return steps.promote(TARGET, "churn", release_id, candidate, "")


def roll_back(release_id: str = "job-1") -> str:
    return steps.roll_back(TARGET, "churn", release_id, "why")


def opened(stage: Stage, release_id: str = "job-1", candidate: str = "churn-v2") -> None:
    """A release of the candidate that is open, moved by hand."""
    deploy(candidate, int(candidate.rpartition("v")[2]))
    move(release_id, candidate=candidate, strategy="canary", weight=10)


def objects(stage: Stage) -> str:
    return stage.world.text()


def test_a_release_that_is_tried_again_says_how_it_ended(stage: Stage) -> None:
    first = release()
    before = objects(stage)
    again = release()
    assert (first.outcome, again.outcome, again.verdict) == ("promoted", "promoted", "advance")
    assert objects(stage) == before


@pytest.mark.parametrize("name", ["", "candidate"])
@pytest.mark.parametrize("promoted", [True, False])
def test_the_alias_that_a_promotion_takes_away_is_not_asked_for_again(stage: Stage, promoted: bool, name: str) -> None:
    stage.world.registry.aliases[("churn", "challenger")] = 2
    first = release("@challenger", name=name)
    if not promoted:
        roll_back()
    assert ("churn", "challenger") not in stage.world.registry.aliases
    again = release("@challenger", name=name)
    assert (first.outcome, again.outcome) == ("promoted", "promoted" if promoted else "rolled-back")
    with pytest.raises(StateConflict, match="is a canary of .*another release_id"):
        release(3, name=name)


@pytest.mark.parametrize("uri", ["@nightly", "latest"])
@pytest.mark.parametrize("ended", [True, False])
def test_an_alias_that_means_another_version_by_now_means_the_same_release(stage: Stage, uri: str, ended: bool) -> None:
    registry = stage.world.registry
    registry.aliases[("churn", "nightly")] = 2
    registry.deleted.add("churn/3")
    options = {**QUICK, "promote": ended}
    first = release(uri, options=options)
    registry.aliases[("churn", "nightly")] = 3
    registry.deleted.clear()
    before = objects(stage)
    again = release(uri, options=options)
    assert (again.outcome, again.release_id) == (first.outcome, first.release_id)
    assert stage.world.endpoint().traffic.weights.get("churn-v2")
    if ended:
        assert objects(stage) == before


@pytest.mark.parametrize("uri", [2, "@challenger", "latest"])
@pytest.mark.parametrize("name", ["", "candidate"])
@pytest.mark.parametrize("promoted", [True, False])
def test_a_release_that_is_tried_again_while_the_ledger_is_down_finds_its_work(
    stage: Stage, promoted: bool, name: str, uri: int | str
) -> None:
    registry = stage.world.registry
    registry.aliases[("churn", "challenger")] = 2
    registry.deleted.add("churn/3")
    options = {**QUICK, "promote": promoted}
    first = release(uri, name=name, options=options)
    before = objects(stage)
    registry.down = stage.world.runs.down = True
    again = release(uri, name=name, options=options)
    assert (again.outcome, again.release_id) == (first.outcome, first.release_id)
    registry.down = stage.world.runs.down = False
    if promoted:
        assert objects(stage) == before


def as_an_earlier_version_stored_it(stage: Stage, **less: Any) -> None:
    """The newest release without what was not written down then."""

    def edit(found: Any) -> Any:
        endpoint = read_endpoint(found, "churn")
        release = endpoint.release and replace(endpoint.release, **less)
        last = endpoint.last if release is not None else replace(endpoint.last, **less)
        return write_endpoint(found, replace(endpoint, release=release, last=last))

    stage.world.cluster.edit("VirtualService", "churn", edit)


@pytest.mark.parametrize("promoted", [True, False])
def test_a_release_of_an_earlier_version_is_found_by_the_version_that_its_deployment_serves(
    stage: Stage, promoted: bool
) -> None:
    """It wrote down neither versions nor URI; and a URI that says its version needs no registry."""
    options = {**QUICK, "promote": promoted}
    first = release(options=options)
    as_an_earlier_version_stored_it(stage, versions={}, options="", model_uri="")
    before = objects(stage)
    with pytest.raises(
        StateConflict, match="is a canary of churn-v2 .churn/2.: use another release_id for another plan"
    ):
        steps.release(
            TARGET,
            "churn",
            "models:/forest/1",
            release_id="job-1",
            options=options,
            strategy="canary",
            steps="10,50",
            name="churn-v2",
        )
    assert objects(stage) == before
    stage.world.registry.down = stage.world.runs.down = True
    assert release(options=options).outcome == first.outcome


PODS: dict[str, Any] = {"replicas": 2, "env": {"A": "1"}}
STAFF = {"match": [{"headers": {"X-Staff": {"exact": "1"}}}]}


@pytest.mark.parametrize(
    ("once", "again"),
    [
        ({}, {"replicas": 2}),
        ({"replicas": 2}, {}),
        (PODS, {**PODS, "env": {"A": "2"}}),
        ({}, STAFF),
        (STAFF, {}),
        (STAFF, {"match": [{"headers": {"X-Staff": {"exact": "2"}}}]}),
    ],
)
@pytest.mark.parametrize("promoted", [True, False])
def test_a_plan_with_other_pods_or_other_requests_is_another(
    stage: Stage, promoted: bool, once: dict[str, Any], again: dict[str, Any]
) -> None:
    release(options={**QUICK, "promote": promoted, **once})
    before = objects(stage)
    with pytest.raises(
        StateConflict, match="is a canary of churn-v2 .churn/2. with other options: use another release_id"
    ):
        release(options={**QUICK, "promote": promoted, **again})
    assert objects(stage) == before


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (PODS, {"replicas": "2", "env": '{"A": "1"}'}),
        ({"env_manager": "local"}, {}),
        (STAFF, {"match": [{"headers": {"x-staff": {"exact": "1"}}}]}),
    ],
)
@pytest.mark.parametrize("promoted", [True, False])
def test_another_spelling_of_pods_and_requests_is_the_same_plan(
    stage: Stage, promoted: bool, once: dict[str, Any], again: dict[str, Any]
) -> None:
    first = release(options={**QUICK, "promote": promoted, **once})
    assert release(options={**QUICK, "promote": promoted, **again}).outcome == first.outcome


@pytest.mark.parametrize("again", [PODS, STAFF, {}])
def test_a_digest_of_an_earlier_version_holds_a_plan_to_what_it_was_made_of(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, again: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_fixed", lambda plan, request: opening._fixed_before(plan))
        first = release(options=PODS | QUICK)
    assert release(options={**QUICK, **again}).outcome == first.outcome
    with pytest.raises(StateConflict, match="with other options"):
        release(options={**QUICK, **again, "alpha": 0.01})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "is a canary of churn-v2 .churn/2.: use another release_id"),
        ({"version": 3, "name": "churn-v2"}, "is a canary of churn-v2 .churn/2.: use another release_id"),
        ({"name": "other"}, "is a canary of churn-v2 .churn/2.: use another release_id"),
        ({"strategy": "blue-green", "steps": ""}, "is a canary of churn-v2 .churn/2.: use another release_id"),
        ({"steps": "20,50"}, "is a canary of churn-v2 .churn/2. with other options: use another release_id"),
        (
            {"options": {**QUICK, "alpha": 0.01}},
            "is a canary of churn-v2 .churn/2. with other options: use another release_id",
        ),
    ],
)
def test_the_next_night_another_plan_is_refused_under_the_same_id(
    stage: Stage, change: dict[str, Any], words: str
) -> None:
    """pipelines 3412: the second run took over the first's outcome, and said promoted of a version that never had traffic."""
    release()
    before = objects(stage)
    with pytest.raises(StateConflict, match=f"release 'job-1' of endpoint 'churn' {words}.*ended as promoted"):
        release(**change)
    assert objects(stage) == before


@pytest.mark.parametrize("change", [{"version": 3}, {"version": 3, "name": "churn-v2"}, {"steps": "20,50"}])
def test_side_by_side_another_plan_is_refused_under_the_same_id(stage: Stage, change: dict[str, Any]) -> None:
    """pipelines 8294."""
    release(options={**QUICK, "promote": False})
    before = objects(stage)
    with pytest.raises(StateConflict, match="release 'job-1' of endpoint 'churn' is .*another"):
        release(**{"options": {**QUICK, "promote": False}, **change})
    assert objects(stage) == before


def test_the_same_plan_side_by_side_does_not_take_a_release_from_a_driver_that_lives(stage: Stage) -> None:
    release(options={**QUICK, "promote": False})

    def drive(seconds: float) -> None:
        """The other run shows a sign of life, as its driver does at every look."""

        def edit(found: Any) -> Any:
            endpoint = read_endpoint(found, "churn")
            progress = progress_from_text(str(endpoint.progress))
            living = alive(progress, "other", "the other run", stage.clock.now())
            return write_endpoint(found, endpoint_with(endpoint, progress_to_text(living)))

        stage.world.cluster.edit("VirtualService", "churn", edit)
        if seconds < 60:
            stage.users.plans[stage.clock.monotonic() + 3] = lambda: drive(seconds + 3)

    drive(0)
    with pytest.raises(StateConflict, match="is driven by the other run, which is alive"):
        release(options={**QUICK, "promote": False})


def endpoint_with(endpoint: Any, progress: str) -> Any:
    return replace(endpoint, progress=progress)


def test_an_id_older_than_the_last_release_is_not_taken_again(stage: Stage) -> None:
    release(2, "job-1")
    release(3, "job-2")
    before = objects(stage)
    for step in (
        lambda: release(2, "job-1"),
        lambda: release(3, "job-1"),
        lambda: move("job-1", candidate="churn-v2", strategy="canary", weight=5),
    ):
        with pytest.raises(
            StateConflict, match="too late: release 'job-1' of endpoint 'churn' has ended as promoted .change"
        ):
            step()
    assert objects(stage) == before


def test_an_id_that_the_endpoint_has_forgotten_is_known_to_the_registry(stage: Stage) -> None:
    deploy("churn-v2", 2)
    for count in range(MAX_EARLIER + 2):
        move(f"job-{count}", candidate="churn-v2", strategy="canary", weight=1)
        roll_back(f"job-{count}")
    assert "job-0" not in str(verbs_on(stage).endpoint("churn"))
    with pytest.raises(StateConflict, match="too late: release 'job-0' .* has ended as rolled-back, says the registry"):
        move("job-0", candidate="churn-v2", strategy="canary", weight=1)
    deploy("churn-v3", 3)
    with pytest.raises(StateConflict, match="release 'job-0' .* was a canary of churn-v2, says the registry"):
        move("job-0", candidate="churn-v3", strategy="canary", weight=1)
    assert roll_back("job-0") == "rolled-back"
    assert verbs_on(stage).endpoint("churn")["release"] is None


@pytest.mark.parametrize("more", [{}, {"candidate": "churn-v2"}, {"candidate": "churn-v2", "strategy": "canary"}])
@pytest.mark.parametrize(("end", "outcome"), [(promote, "promoted"), (roll_back, "rolled-back")])
def test_traffic_of_a_release_that_has_ended_is_refused_naming_the_end(
    stage: Stage, end: Any, outcome: str, more: dict[str, Any]
) -> None:
    """pipelines 11329: the step was green with "nothing to do", and the candidate had 0%."""
    opened(stage)
    end()
    before = objects(stage)
    with pytest.raises(
        StateConflict, match=f"too late: release 'job-1' of endpoint 'churn' has ended as {outcome} .change"
    ):
        move(weight=50, **more)
    assert objects(stage) == before


def test_traffic_that_is_set_again_is_nothing_to_do(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    opened(stage)
    move(candidate="churn-v2", strategy="canary", weight=10)
    assert "(nothing to do)" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("more", [{"candidate": "churn-v3"}, {"strategy": "blue-green"}])
def test_traffic_of_another_plan_is_refused_under_an_open_id(stage: Stage, more: dict[str, Any]) -> None:
    opened(stage)
    deploy("churn-v3", 3)
    with pytest.raises(
        StateConflict, match="release 'job-1' of endpoint 'churn' is a canary of churn-v2 .churn/2.: use another"
    ):
        move(weight=0, **more)


def test_a_promotion_that_is_tried_again_is_done_whatever_came_between(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(stage)
    promote()
    deploy("churn-v3", 3)
    assert promote()["stable"] == "churn-v2"
    assert "was promoted already" in capsys.readouterr().out
    with pytest.raises(StateConflict, match="has promoted 'churn-v2', not 'churn-v3'"):
        promote(candidate="churn-v3")


def test_a_promotion_after_another_end_fails(stage: Stage) -> None:
    opened(stage)
    roll_back()
    deploy("churn-v3", 3)
    with pytest.raises(StateConflict, match="too late: release 'job-1' of endpoint 'churn' has ended as rolled-back"):
        promote()


def test_a_rollback_that_is_tried_again_has_nothing_to_do(stage: Stage) -> None:
    opened(stage)
    assert roll_back() == "rolled-back"
    deploy("churn-v3", 3)
    before = objects(stage)
    assert roll_back() == "rolled-back"
    assert objects(stage) == before


def test_a_rollback_that_is_tried_again_is_proved_and_recorded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try edits, and no proxy confirms it: the second one is not green before a proxy does."""
    opened(stage)

    def refuse(cluster: Any, probe: Any, timeout: float) -> Any:
        raise NotRouted("no proxy has it")

    with monkeypatch.context() as patch:
        patch.setattr(type(stage.world.cluster), "wait_routed", refuse)
        for _ in range(2):
            with pytest.raises(NotRouted):
                roll_back()
        with pytest.raises(NotRouted):
            steps.end_pipeline(TARGET, "churn", "job-1", state="FAILED", message="m", undo_promotion=False)
    assert [change.action for change in stage.world.endpoint().outbox] == ["rollback"]
    assert roll_back() == "rolled-back"
    assert stage.world.endpoint().outbox == ()
    assert [change["action"] for change in steps.read_ledger(TARGET, "churn", "job-1")].count("rollback") == 1


def test_a_rollback_that_is_tried_again_leaves_the_next_release_alone(stage: Stage) -> None:
    opened(stage)
    roll_back()
    opened(stage, "job-2", "churn-v3")
    before = objects(stage)
    assert roll_back() == "rolled-back"
    assert objects(stage) == before


@pytest.mark.parametrize(
    ("undo", "ended", "stable"), [(False, "promoted", "churn-v2"), (True, "rolled-back", "churn-v1")]
)
def test_a_promotion_between_look_and_rollback_stays_unless_it_may_be_undone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, undo: bool, ended: str, stable: str
) -> None:
    """Somebody promotes in the last moment: when the rollback is about to edit the object."""
    opened(stage)
    edit = type(stage.world.cluster).edit

    def edit_too_late(cluster: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(type(cluster), "edit", edit)
        promote()
        return edit(cluster, *arguments)

    monkeypatch.setattr(type(stage.world.cluster), "edit", edit_too_late)
    state = {"state": "FAILED", "message": "m", "undo_promotion": undo}
    assert steps.end_pipeline(TARGET, "churn", "job-1", **state) == ended  # type: ignore[arg-type]
    assert verbs_on(stage).endpoint("churn")["stable"] == stable


def test_a_release_that_must_not_be_undone_later_is_rolled_back_as_any(stage: Stage) -> None:
    opened(stage)
    for _ in range(2):
        assert steps.roll_back(TARGET, "churn", "job-1", "why", undo_promotion=False) == "rolled-back"
    assert verbs_on(stage).endpoint("churn")["last_release"]["outcome"] == "rolled-back"
    actions = [change["action"] for change in steps.read_ledger(TARGET, "churn", "job-1")]
    assert (actions[-1], actions.count("rollback")) == ("rollback", 1)


def test_a_reason_of_any_length_rolls_back(stage: Stage) -> None:
    """KFP's messages have any length, an option of ours has not."""
    opened(stage)
    ended = steps.end_pipeline(TARGET, "churn", "job-1", state="FAILED", message="x" * 2000, undo_promotion=False)
    assert ended == "rolled-back"
    reason = steps.read_ledger(TARGET, "churn", "job-1")[-1]["reason"]
    assert (len(reason), reason[-4:]) == (1000, "x...")
    assert reason.startswith("the pipeline ended as FAILED: x")


@pytest.mark.parametrize(("length", "ending"), [(1000, "yyyy"), (1001, "y...")])
def test_only_a_reason_that_is_too_long_is_cut(stage: Stage, length: int, ending: str) -> None:
    opened(stage)
    steps.roll_back(TARGET, "churn", "job-1", "y" * length)
    reason = steps.read_ledger(TARGET, "churn", "job-1")[-1]["reason"]
    assert (len(reason), reason[-4:]) == (1000, ending)


def test_an_older_promotion_can_not_be_undone_by_a_step(stage: Stage) -> None:
    opened(stage)
    promote()
    opened(stage, "job-2", "churn-v3")
    for end in (lambda: None, lambda: promote("job-2")):
        end()
        before = objects(stage)
        with pytest.raises(StateConflict, match="too late: release 'job-1' .* was promoted, and release 'job-2' came"):
            roll_back("job-1")
        assert objects(stage) == before


def test_a_version_is_not_deployed_under_an_id_with_another_plan(stage: Stage) -> None:
    deploy("churn-v2", 2, "job-1")
    opened(stage)
    deploy("churn-v2", 2, "job-1")
    with pytest.raises(StateConflict, match="which 'churn-v3' .churn/3. is no part of"):
        deploy("churn-v3", 3, "job-1")
    promote()
    deploy("churn-v2", 2, "job-1")
    with pytest.raises(StateConflict, match="which 'churn-v3' .churn/3. is no part of.*ended as promoted"):
        deploy("churn-v3", 3, "job-1")
    opened(stage, "job-2", "churn-v3")
    promote("job-2")
    with pytest.raises(StateConflict, match="too late: release 'job-1' .* has ended as promoted"):
        deploy("churn-v2", 2, "job-1")


def declare(winner: str = "") -> Any:
    return analysing.declare(TARGET, "churn", release_id="job-1", winner=winner, options={"force": True}, reason="")


def test_a_winner_is_declared_once_and_not_where_the_test_has_ended_otherwise(stage: Stage) -> None:
    deploy("churn-v2", 2)
    split = {"cookie": "arm", "weights": {"churn-v1": 50, "churn-v2": 50}}
    move(candidate="churn-v2", strategy="ab", options=split)
    assert declare("churn-v1")["stable"] == "churn-v1"
    deploy("churn-v3", 3)
    before = objects(stage)
    assert declare("churn-v1")["stable"] == "churn-v1"
    assert objects(stage) == before
    with pytest.raises(
        StateConflict, match="release 'job-1' .* is not open: none is .too late: it has ended as aborted"
    ):
        declare("churn-v2")


def test_a_winner_is_not_declared_of_a_test_that_was_rolled_back(stage: Stage) -> None:
    deploy("churn-v2", 2)
    move(candidate="churn-v2", strategy="ab", options={"cookie": "arm", "weights": {"churn-v1": 50, "churn-v2": 50}})
    roll_back()
    with pytest.raises(StateConflict, match="is not open: none is .too late: it has ended as rolled-back"):
        declare("churn-v1")


def test_another_cookie_under_the_same_id_is_refused(stage: Stage) -> None:
    deploy("churn-v2", 2)
    weights = {"churn-v1": 50, "churn-v2": 50}
    move(candidate="churn-v2", strategy="ab", options={"cookie": "arm", "weights": weights})
    with pytest.raises(Exception, match="option 'cookie' is fixed when an A/B release starts"):
        move(candidate="churn-v2", strategy="ab", options={"cookie": "other", "weights": weights})
    with pytest.raises(StateConflict, match="with other options: use another release_id"):
        verbs_on(stage).create(
            "churn-v2",
            "models:/churn/2",
            None,
            "churn",
            {"strategy": "ab", "cookie": "other", "release_id": "job-1"},
        )


HOOK = {"url": "http://127.0.0.1:9/", "events": ["rollback"]}
HELD = {"analysis": "none", "promote": False, "deadline": 60}
HALVES = {"weights": {"churn-v1": 50, "churn-v2": 50}}
THIRDS = {"weights": {"churn-v1": 34, "churn-v2": 33, "churn-v3": 33}}


@pytest.mark.parametrize(
    ("once", "again", "more"),
    [
        ({"header": "X-Arm", **HELD}, {"header": "x-arm", **HELD}, {"strategy": "ab", "steps": "50"}),
        ({"webhooks": [{**HOOK, "timeout": 1}]}, {"webhooks": [{**HOOK, "timeout": 1.0}]}, {}),
    ],
)
@pytest.mark.parametrize("promote", [True, False])
def test_another_spelling_of_options_is_the_same_release(
    stage: Stage, once: dict[str, Any], again: dict[str, Any], more: dict[str, Any], promote: bool
) -> None:
    first = release(options={**QUICK, "promote": promote, **once}, **more)
    assert release(options={**QUICK, "promote": promote, **again}, **more).outcome == first.outcome


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (
            {"candidate": "churn-v2", "options": {"header": "X-Arm", **HALVES}},
            {"candidate": "churn-v2", "options": {"header": "x-arm", **HALVES}},
        ),
        (
            {"candidate": "churn-v2,churn-v3", "options": {"cookie": "arm", **THIRDS}},
            {"candidate": "churn-v3,churn-v2", "options": {"cookie": "arm", **THIRDS}},
        ),
    ],
)
@pytest.mark.parametrize("release_id", ["job-1", ""])
def test_another_spelling_of_a_test_by_hand_changes_nothing(
    stage: Stage, once: dict[str, Any], again: dict[str, Any], release_id: str
) -> None:
    deploy("churn-v2", 2)
    deploy("churn-v3", 3)
    move(release_id, strategy="ab", **once)
    before = objects(stage)
    move(release_id, strategy="ab", **again)
    assert objects(stage) == before
