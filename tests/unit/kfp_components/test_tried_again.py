"""A step that died between two of its works and is tried again goes on with what it had begun, whatever has moved meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from kfp_components import steps
from mlflow_istio.core.basics.objects import ASKED_ANNOTATION, annotations_of
from mlflow_istio.core.endpoint.endpoint import MAX_EARLIER
from mlflow_istio.errors import InvalidInput, StateConflict
from mlflow_istio.releases.driving import opening
from tests.support.in_memory import Killed
from tests.support.places import TARGET, Place, verbs_on
from tests.support.simulated_users import Stage, a_stage

QUICK: dict[str, Any] = {"interval": 5, "hold": 10, "min_requests": 0, "warmup": 0, "analysis": "none", "deadline": 600}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """churn-v1 serves; the alias nightly means version 2, and a busy clock brings requests."""
    made = a_stage()
    made.world.registry.aliases[("churn", "nightly")] = 2
    made.world.registry.deleted.add("churn/3")
    monkeypatch.setattr(steps, "verbs_of", lambda target: verbs_on(made))
    return made


def release(uri: str, name: str = "", release_id: str = "job-1") -> Any:
    given = {"strategy": "canary", "steps": "50", "reason": "", "options": QUICK}
    return steps.release(TARGET, "churn", uri, name=name, release_id=release_id, **given)


def deploy(uri: str, release_id: str) -> Any:
    return steps.deploy(TARGET, "churn", "candidate", uri, {}, "", release_id)


def moves_on(stage: Stage) -> None:
    """Version 3 is registered, and the alias goes to it."""
    stage.world.registry.deleted.clear()
    stage.world.registry.aliases[("churn", "nightly")] = 3


def killed(*_arguments: Any, **_options: Any) -> Any:
    raise Killed


@pytest.mark.parametrize("uri", ["models:/churn@nightly", "models:/churn/latest"])
@pytest.mark.parametrize("name", ["", "candidate"])
def test_an_alias_that_moves_between_deploying_and_opening_means_what_was_deployed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, uri: str, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "preflight", killed)
        patch.setattr(opening, "run_for", killed)
        with pytest.raises(Killed):
            release(uri, name)
    moves_on(stage)
    assert release(uri, name).outcome == "promoted"
    stable = name or "churn-v2"
    assert [obj["metadata"]["name"] for obj in stage.world.cluster.list("Deployment", {})] == sorted(
        ["churn-v1", stable]
    )
    assert verbs_on(stage).deployment(stable)["model_version"] == "churn/2"


def test_under_another_id_the_alias_means_what_it_means_now(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(opening, "run_for", killed)
        with pytest.raises(Killed):
            release("models:/churn@nightly")
    moves_on(stage)
    release("models:/churn@nightly", release_id="job-2")
    assert verbs_on(stage).endpoint("churn")["stable"] == "churn-v3"


def test_a_deployment_that_is_tried_again_is_the_version_it_was(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(stage.world.cluster), "wait_ready", killed)
        with pytest.raises(Killed):
            deploy("models:/churn@nightly", "job-1")
    moves_on(stage)
    assert deploy("models:/churn@nightly", "job-1")["model_version"] == "churn/2"
    with pytest.raises(
        StateConflict, match="alias 'nightly' means churn/3 now, but deployment 'candidate' exists already"
    ):
        deploy("models:/churn@nightly", "job-2")


def test_a_uri_that_says_its_version_leaves_no_mark(stage: Stage) -> None:
    """Neither does one without an id; so that nothing else is written than before."""
    for uri, release_id, mark in (
        ("models:/churn/2", "job-1", None),
        ("models:/churn@nightly", "", None),
        ("models:/churn@nightly", "job-1", "job-1 models:/churn@nightly"),
    ):
        deploy(uri, release_id)
        (standing,) = [
            obj for obj in stage.world.cluster.list("Deployment", {}) if obj["metadata"]["name"] == "candidate"
        ]
        assert annotations_of(standing).get(ASKED_ANNOTATION) == mark


def test_an_id_that_is_forgotten_where_nobody_names_the_ledger_has_nothing_to_roll_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exit handler without the ledger's address must not fail a pipeline that has no release of its own."""
    deploy("models:/churn/2", "")
    for count in range(MAX_EARLIER + 2):
        given = {
            "candidate": "candidate",
            "strategy": "canary",
            "weight": 1,
            "mirror": -1.0,
            "options": {},
            "reason": "",
        }
        steps.move_traffic(TARGET, "churn", release_id=f"job-{count}", **given)
        steps.roll_back(TARGET, "churn", f"job-{count}", "why")

    def nowhere(*_arguments: Any, **_options: Any) -> Any:
        raise InvalidInput("no MLflow tracking server is named")

    monkeypatch.setattr(Place, "context", nowhere)
    assert steps.roll_back(TARGET, "churn", "job-0", "why") == "not opened"
    assert "whether there was a release 'job-0' long ago can't be told: no MLflow" in capsys.readouterr().out
