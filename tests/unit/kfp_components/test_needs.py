"""What people need of a pipeline: delete, keep the old version, counts of another step, approvals, an end for nobody's candidate.

On the real verbs and in-memory ports.
"""

from __future__ import annotations

from typing import Any

import pytest

from kfp_components import analysing, steps
from kfp_components.inputs import check_compare, with_counts
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions, check_release_options
from tests.support.places import TARGET, verbs_on
from tests.support.simulated_users import Stage, a_stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """churn-v1 serves, churn-v2 waits."""
    made = a_stage()
    made.world.deploy("churn-v2")
    monkeypatch.setattr(steps, "verbs_of", lambda target: verbs_on(made))
    monkeypatch.setattr(analysing, "verbs_of", lambda target: verbs_on(made))
    return made


def move(**more: Any) -> Any:
    given = {"candidate": "churn-v2", "strategy": "canary", "weight": 10, "mirror": -1.0, "options": {}, "reason": ""}
    return steps.move_traffic(TARGET, "churn", **{**given, "release_id": "job-1", **more})


# Deleting


def test_the_replaced_version_is_deleted_once_and_never_one_in_use(stage: Stage) -> None:
    """kserve 3591."""
    move()
    with pytest.raises(StateConflict, match="'churn-v2' of endpoint 'churn' has traffic"):
        steps.delete_deployment(TARGET, "churn", "churn-v2", {}, "")
    steps.promote(TARGET, "churn", "job-1", "", "")
    assert steps.delete_deployment(TARGET, "churn", "churn-v1", {}, "replaced")
    assert not steps.delete_deployment(TARGET, "churn", "churn-v1", {}, "replaced")
    assert stage.world.cluster.get("Deployment", "churn-v1") is None
    assert verbs_on(stage).history("churn")[-1]["reason"] == "replaced"


def test_a_replaced_version_that_is_kept_has_a_deadline(stage: Stage) -> None:
    move()
    view = steps.promote(TARGET, "churn", "job-1", "", "", "1h")
    (deadline,) = view["deadlines"]
    assert "churn-v1" in str(deadline)


def test_an_endpoint_is_deleted_once(stage: Stage) -> None:
    move()
    with pytest.raises(StateConflict, match="has an open release 'job-1'"):
        steps.delete_endpoint(TARGET, "churn", {}, "")
    assert steps.delete_endpoint(TARGET, "churn", {"force": True}, "")
    assert not steps.delete_endpoint(TARGET, "churn", {}, "")
    assert stage.world.objects() == []


# Approval


def ask(stage: Stage, key: str, release_id: str = "job-1") -> tuple[bool, str]:
    stage.world.runs.tags["churn/2"] = {key: "approved"}
    return steps.wait_for_approval(
        TARGET,
        "churn",
        "churn-v2",
        tag="istio.approval",
        timeout=0.05,
        default="reject",
        interval=0.01,
        release_id=release_id,
    )


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    ("key", "approved"),
    [("istio.approval.job-1", True), ("istio.approval", False), ("istio.approval.job-0", False)],
)
def test_an_approval_belongs_to_one_release(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, opened: bool, key: str, approved: bool
) -> None:
    """pikoci 152: the tag that approved an earlier release approved tonight's at once."""
    monkeypatch.setattr(
        verbs_on(stage).__class__, "version_tag", lambda _self, label, key: stage.world.runs.tag(label, key)
    )
    if opened:
        move()
    assert ask(stage, key)[0] is approved
    if opened:
        assert ask(stage, key, release_id="")[0] is approved, "the open release is meant"


def test_an_approval_without_a_release_is_refused(stage: Stage) -> None:
    with pytest.raises(InvalidInput, match="an approval belongs to a release, and none of endpoint 'churn' is open"):
        ask(stage, "istio.approval", release_id="")
    stage.world.deploy("churn-v3")
    move(candidate="churn-v3")
    with pytest.raises(StateConflict, match="'churn-v2' is no candidate of release 'job-1'"):
        ask(stage, "istio.approval")
    steps.roll_back(TARGET, "churn", "job-1", "")
    with pytest.raises(StateConflict, match="too late: release 'job-1' .* has ended as rolled-back"):
        ask(stage, "istio.approval")


# Counts of another step

SPLIT = {"cookie": "arm", "weights": {"churn-v1": 50, "churn-v2": 50}}
BOUGHT = {"kpi": {"bought": {"better": "higher"}}, "delta": 1.2}


def analyse(counts: dict[str, Any], options: dict[str, Any] = BOUGHT) -> Any:
    return analysing.analyse(
        TARGET, "churn", release_id="job-1", options=options, minutes=60.0, seconds=1.0, counts=counts
    )


def test_a_kpis_counts_come_from_another_step(stage: Stage) -> None:
    """Numbers arrive as floats; the counts began with the release, so the first look counts them, and a second counts the rest."""
    move(strategy="ab", weight=-1, options=SPLIT)
    stage.users.send(60)
    first = analyse({"churn-v1": [100.0, 10.0], "churn-v2": [100.0, 14.0]})
    assert first["outcome"] == "inconclusive"
    assert [round(arm["estimate"], 2) for arm in first["arms"]] == [0.1, 0.14]
    counts = {"churn-v1": [5000.0, 500.0], "churn-v2": [5000.0, 700.0]}
    second = analyse(counts)
    assert (second["outcome"], second["winner"]) == ("winner", "churn-v2")
    assert [round(arm["estimate"], 2) for arm in second["arms"]] == [0.1, 0.14]
    won = analysing.declare(
        TARGET, "churn", release_id="job-1", winner="churn-v2", options=BOUGHT, reason="", counts=counts
    )
    assert won["stable"] == "churn-v2"


def test_an_arm_without_counts_is_named(stage: Stage) -> None:
    move(strategy="ab", weight=-1, options=SPLIT)
    stage.users.send(60)
    assert "No data from churn-v2" in analyse({"churn-v1": [100, 10]})["reason"]


@pytest.mark.parametrize(
    ("options", "counts", "words"),
    [
        ({"kpi": {"a": {}, "b": {}}}, {"v1": [1, 0]}, "counts are those of one KPI"),
        ({"kpi": {"a": {"queries": {}}}}, {"v1": [1, 0]}, "KPI 'a' has its counts twice"),
    ],
)
def test_counts_belong_to_one_kpi(options: dict[str, Any], counts: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        with_counts(options, counts)


def test_counts_without_a_name_are_those_of_kpi() -> None:
    assert with_counts({"delta": 2.0}, {"v1": [1, 0]}) == {"delta": 2.0, "kpi": {"kpi": {"counts": {"v1": [1, 0]}}}}
    assert with_counts({"delta": 2.0}, {}) == {"delta": 2.0}


@pytest.mark.parametrize("counts", [{"v1": (1, 2)}, {"v1": (1,)}, {"v1": (-1, 0)}])
def test_counts_that_can_not_be_are_refused(counts: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InvalidInput, match="KPI 'bought' of 'v1' gave"):
        Kpi(name="bought", counts=counts)


@pytest.mark.parametrize("counts", [[], {}, {"v1": 3}])
def test_counts_of_another_form_are_refused(stage: Stage, counts: Any) -> None:
    move(strategy="ab", weight=-1, options=SPLIT)
    with pytest.raises(InvalidInput, match="counts of 'bought' must be an object of deployments"):
        analyse({}, {"kpi": {"bought": {"counts": counts}}})


def test_counts_that_stand_still_drive_no_release() -> None:
    options = parse_options(ReleaseOptions, {"kpi": {"bought": {"counts": {"v1": [1, 0]}}}}, cluster="istio")
    with pytest.raises(InvalidInput, match="counts of 'bought' stand still while a release goes on"):
        check_release_options(options)


# Nobody's candidate


def test_a_candidate_that_nobody_called_ends_with_0_requests(stage: Stage) -> None:
    stage.users.rate = 0.0
    options = {
        "interval": 5,
        "hold": 10,
        "warmup": 0,
        "deadline": 60,
        "analysis": [{"guard": "errors", "allowed": 0.03}],
    }
    for name in ("churn-v1", "churn-v2"):
        stage.users.metrics.serve(name, 0)
    ended = steps.release(TARGET, "churn", "models:/churn/2", release_id="job-1", steps="10", options=options)
    assert ended.outcome == "inconclusive"
    assert "0 requests: nobody called 'churn-v2'." in ended.reason


def test_an_arm_that_nobody_called_is_named(stage: Stage) -> None:
    stage.users.rate = 0.0
    for name in ("churn-v1", "churn-v2"):
        stage.users.metrics.serve(name, 0)
    move(strategy="ab", weight=-1, options=SPLIT)
    view = analysing.analyse(TARGET, "churn", release_id="job-1", options={}, minutes=0.001, seconds=0.01)
    assert view["outcome"] == "inconclusive"
    assert "0 requests: nobody called churn-v1, churn-v2." in view["reason"]


def test_the_first_look_says_of_nobody_that_it_was_not_called(stage: Stage) -> None:
    """It takes the base line: every arm has 0 requests since then, however many came before."""
    move(strategy="ab", weight=-1, options=SPLIT)
    for looks, requests in ((1, False), (2, True)):
        stage.users.send(60)
        view = analysing.analyse(TARGET, "churn", release_id="job-1", options={}, minutes=0, seconds=1)
        assert view["looks"] == looks
        assert [arm["requests"] > 0 for arm in view["arms"]] == [requests, requests]
        assert "nobody called" not in view["reason"]


# A similarity


def test_a_similarity_of_what_is_no_text_is_refused_by_name() -> None:
    """litellm 36250: it was ignored, and texts were compared for equality."""
    for answers, said in (
        ("classes", {"similarity": 0.7}),
        ("numbers", {"similarity": 0.7}),
        ("numbers", {"scorer": "edit"}),
    ):
        options = {"answers": answers, **said}
        with pytest.raises(InvalidInput, match=f"option '(similarity|scorer)' has no effect with answers={answers}"):
            check_compare({"target": "istio:/models", "endpoint": "churn", "options": options})


def test_a_scorer_by_name_need_not_be_there_where_the_pipeline_is_compiled() -> None:
    options = {"answers": "text", "scorer": "only_in_the_image.scores:alike", "similarity": 0.7}
    check_compare({"target": "istio:/models", "endpoint": "churn", "options": options})
    with pytest.raises(InvalidInput, match="option 'scorer'.*neither package.module:function nor built in"):
        check_compare({"target": "istio:/models", "endpoint": "churn", "options": {**options, "scorer": "alike()"}})
