"""Steps that wait and steps that come late."""

from typing import Any

import pytest

from kfp_components import steps
from mlflow_istio.errors import InvalidInput, NotFound, RegistryError


class Asked:
    """Verbs that answer in turn."""

    def __init__(self, *answers: Any, view: Any = None) -> None:
        self.answers = list(answers)
        self.view = view
        self.sent: list[dict[str, Any]] = []

    def deployment(self, name: str, endpoint: str) -> dict[str, Any]:
        return {"name": name, "model_version": "churn/2", "endpoint": endpoint}

    def version_tag(self, label: str, key: str) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def endpoint(self, name: str) -> dict[str, Any]:
        if self.view is None:
            raise NotFound(f"there is no endpoint '{name}'")
        return {"traffic": {}, **self.view}

    def update_endpoint(self, name: str, config: dict[str, Any], *, undo_promotion: bool = True) -> None:
        self.sent.append(config)


def wait(monkeypatch: pytest.MonkeyPatch, asked: Asked, **changes: Any) -> tuple[bool, str]:
    monkeypatch.setattr(steps, "verbs_of", lambda target: asked)
    options = {"tag": "istio.approval", "timeout": 0.2, "default": "reject", "interval": 0.01, **changes}
    return steps.wait_for_approval("istio-local", "churn", "churn-v2", **options)


@pytest.mark.parametrize(
    ("answers", "changes", "approved"),
    [
        (("approved",), {}, True),
        ((None, None, "approved"), {}, True),
        ((None, "rejected"), {}, False),
        ((RegistryError("down"), "approved"), {}, True),
        ((None,), {}, False),
        ((None,), {"default": "approve"}, True),
    ],
)
def test_a_person_answers_or_the_default_does(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[Any, ...], changes: dict[str, Any], approved: bool
) -> None:
    assert wait(monkeypatch, Asked(*answers), **changes)[0] is approved


def test_an_answer_that_is_neither_yes_nor_no_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="is 'maybe': set it to approved or rejected"):
        wait(monkeypatch, Asked("maybe"))


OPEN = {"release": {"id": "job-1"}, "last_release": None}
OTHER = {"release": {"id": "job-2"}, "last_release": {"id": "job-1", "outcome": "superseded"}}
PROMOTED = {"release": None, "last_release": {"id": "job-1", "outcome": "promoted"}}


@pytest.mark.parametrize(
    ("view", "undo", "said", "calls"),
    [
        (None, True, "not opened", 0),
        (OPEN, False, "rolled-back", 1),
        (OTHER, True, "superseded", 0),
        (PROMOTED, True, "rolled-back", 1),
        (PROMOTED, False, "promoted", 0),
        ({"release": None, "last_release": None}, True, "not opened", 0),
    ],
)
def test_only_this_pipelines_release_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch, view: Any, undo: bool, said: str, calls: int
) -> None:
    asked = Asked(view=view)
    monkeypatch.setattr(steps, "verbs_of", lambda target: asked)
    assert steps.roll_back("istio-local", "churn", "job-1", "why", undo_promotion=undo) == said
    assert asked.sent == [{"action": "rollback", "release_id": "job-1", "reason": "why"}] * calls


def test_an_error_of_ours_ends_a_step_with_one_line() -> None:
    def fail() -> None:
        raise NotFound("there is no endpoint 'churn'")

    with pytest.raises(SystemExit) as ended:
        steps.step(fail)
    assert ended.value.code == "error: there is no endpoint 'churn'"
