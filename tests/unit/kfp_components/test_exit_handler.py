"""What the exit handler makes of the words that KFP's runners have for an end; docs/kfp.md has the table and where it was read."""

from __future__ import annotations

import inspect
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

import kfp_components
from kfp_components import steps
from kfp_components.final_state import final_state
from mlflow_istio.errors import NotFound

PAGE = (Path(__file__).parents[3] / "docs" / "kfp.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What KFP tells an exit handler")[2].partition("\n## ")[0]
WORDS = re.findall(r"^\| `([A-Z_]+)` \| .* \| (\w+) \|$", SECTION, re.M)
OLD = datetime.now(timezone.utc) - timedelta(hours=1)


class Endpoint:
    """An endpoint whose views come in turn; the last one stays. It notes what is asked of it."""

    def __init__(self, *views: dict[str, Any] | None) -> None:
        self.views = list(views)
        self.sent: list[dict[str, Any]] = []

    def endpoint(self, name: str) -> dict[str, Any]:
        view = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        if view is None:
            raise NotFound(f"there is no endpoint '{name}'")
        return {"traffic": {}, "release": None, "last_release": None, **view}

    def update_endpoint(self, name: str, config: dict[str, Any], *, undo_promotion: bool = True) -> None:
        self.sent.append(config)


def driven(*, lease_expires: datetime = OLD, stopped: bool = False, state: str = "open") -> dict[str, Any]:
    driver = {"id": "d1", "who": "ada", "alive_until": lease_expires.isoformat()}
    return {"release": {"id": "job-1", "state": state, "progress": {"stopped": stopped, "driver": driver}}}


BY_HAND = {"release": {"id": "job-1"}}
PROMOTED = {"last_release": {"id": "job-1", "outcome": "promoted"}}
ABORTED = {"last_release": {"id": "job-1", "outcome": "aborted"}}
OTHERS = {"release": {"id": "job-2"}, "last_release": {"id": "job-1", "outcome": "superseded"}}


def end(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, state: str | None, *, undo: bool = True) -> str:
    """Call the component's own function, as its step does."""
    monkeypatch.setattr(steps, "verbs_of", lambda target: endpoint)
    status = dsl.PipelineTaskFinalStatus(
        state=state,  # type: ignore[arg-type]
        pipeline_job_resource_name="run",
        pipeline_task_name="exit-handler-1",
        error_code=None,
        error_message=None,
    )
    function = inspect.unwrap(kfp_components.roll_back_unless_succeeded.python_func)
    said: str = function(status=status, target="istio-local", endpoint="churn", release_id="job-1", undo_promotion=undo)
    return said


def test_the_page_tells_every_kind_of_word() -> None:
    assert {verdict for _, verdict in WORDS} == {"succeeded", "failed", "cancelled", "unclear"}
    assert {"SUCCEEDED", "COMPLETE", "RUNNING", "CACHED", "SKIPPED", "FAILED", "CANCELED"} <= {
        word for word, _ in WORDS
    }


@pytest.mark.parametrize(("word", "verdict"), WORDS)
def test_a_word_means_what_the_page_says(word: str, verdict: str) -> None:
    assert final_state(word) == final_state(word.lower()) == final_state(f"PIPELINE_STATE_{word}") == verdict


@pytest.mark.parametrize("word", [None, "", "Bogus", "SUCCEEDED_NOT", "NOT FAILED"])
def test_a_word_yet_unknown_is_no_verdict(word: str | None) -> None:
    assert final_state(word) == "unclear"


@pytest.mark.parametrize("word", [word for word, verdict in WORDS if verdict == "succeeded"])
@pytest.mark.parametrize("view", [BY_HAND, PROMOTED, driven(), None])
def test_a_pipeline_that_went_well_undoes_nothing(
    monkeypatch: pytest.MonkeyPatch, word: str, view: dict[str, Any] | None
) -> None:
    endpoint = Endpoint(view)
    assert end(monkeypatch, endpoint, word) == "succeeded"
    assert endpoint.sent == []


@pytest.mark.parametrize("word", [word for word, verdict in WORDS if verdict in ("failed", "cancelled")])
@pytest.mark.parametrize(
    ("view", "undo", "said"),
    [
        (BY_HAND, False, "rolled-back"),
        (driven(), False, "rolled-back"),
        (PROMOTED, True, "rolled-back"),
        (PROMOTED, False, "promoted"),
        (ABORTED, True, "aborted"),
        (OTHERS, True, "superseded"),
        (None, True, "not opened"),
    ],
)
def test_what_failed_or_was_cancelled_is_undone(
    monkeypatch: pytest.MonkeyPatch, word: str, view: dict[str, Any] | None, undo: bool, said: str
) -> None:
    endpoint = Endpoint(view)
    assert end(monkeypatch, endpoint, word, undo=undo) == said
    assert [sent["action"] for sent in endpoint.sent] == ["rollback"] * (said == "rolled-back")


@pytest.mark.parametrize("word", [*(word for word, verdict in WORDS if verdict == "unclear"), "Bogus", None])
@pytest.mark.parametrize(
    ("view", "said"),
    [
        (PROMOTED, "promoted"),
        (ABORTED, "aborted"),
        (OTHERS, "superseded"),
        (None, "not opened"),
        (BY_HAND, "left open"),
        (driven(stopped=True), "left open"),
        (driven(state="paused"), "left open"),
        (driven(), "rolled-back"),
    ],
)
def test_the_release_decides_where_the_word_does_not(
    monkeypatch: pytest.MonkeyPatch, word: str | None, view: dict[str, Any] | None, said: str
) -> None:
    """Even with undo_promotion: what the pipeline itself reported is never undone by an unknown word."""
    endpoint = Endpoint(view)
    assert end(monkeypatch, endpoint, word, undo=True) == said
    assert [sent["action"] for sent in endpoint.sent] == ["rollback"] * (said == "rolled-back")


def test_a_driver_that_still_lives_keeps_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody resumed it from elsewhere: the sign of life is renewed while the exit handler waits for it to run out."""
    soon = datetime.now(timezone.utc) + timedelta(milliseconds=50)
    endpoint = Endpoint(driven(lease_expires=soon), driven(lease_expires=soon + timedelta(minutes=1)))
    assert end(monkeypatch, endpoint, "RUNNING") == "left open"
    assert endpoint.sent == []


def test_a_driver_whose_step_was_killed_a_moment_ago_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = datetime.now(timezone.utc) + timedelta(milliseconds=50)
    endpoint = Endpoint(driven(lease_expires=soon))
    assert end(monkeypatch, endpoint, "RUNNING") == "rolled-back"
    assert datetime.now(timezone.utc) >= soon


def test_a_release_that_a_person_pauses_during_the_wait_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(driven(), driven(state="paused"))
    assert end(monkeypatch, endpoint, "RUNNING") == "left open"
    assert endpoint.sent == []


def test_a_release_that_fails_is_rolled_back_even_if_a_person_has_paused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(monkeypatch, Endpoint(driven(state="paused")), "FAILED") == "rolled-back"


def test_a_wait_that_would_take_hours_ends_after_ten_minutes_with_the_release_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an interval of an hour, the sign of life of a driver that has died stands for three."""
    waits: list[float] = []
    monkeypatch.setattr(steps.time, "sleep", waits.append)
    endpoint = Endpoint(driven(lease_expires=datetime.now(timezone.utc) + timedelta(hours=3)))
    assert end(monkeypatch, endpoint, "RUNNING") == "left open"
    assert (waits, endpoint.sent) == ([600.0], [])
    log = capsys.readouterr().out
    assert "waiting 600 s for the driver of release 'job-1'" in log
    assert "warning: release 'job-1' of 'churn' may still be driven by ada, alive until " in log


def test_a_release_that_ends_during_the_wait_is_told_as_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end(monkeypatch, Endpoint(driven(), PROMOTED), "RUNNING") == "promoted"
