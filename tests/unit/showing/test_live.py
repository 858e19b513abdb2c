"""What a person sees of a release: a panel in a terminal, and one line for each look with news where there is none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.releases.driving.drive import Seen
from mlflow_istio.showing.live import line_of, panel, watching
from tests.support.simulated_users import Behaviour, Stage


@pytest.fixture(scope="module")
def looks() -> list[Seen]:
    """Every look at a release that is rolled back."""
    stage, seen = Stage(), []
    stage.users.behaviours = {"churn-v2": Behaviour(errors=0.1)}
    stage.open()
    from dataclasses import replace

    from mlflow_istio.releases.driving.progressive import drive

    drive(stage.context, replace(stage.dependencies, watch=seen.append), "churn")
    return seen


def shown(what: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(what)
    return out.getvalue()


def test_a_line_says_step_weight_requests_evidence_and_what_happens(looks: list[Seen]) -> None:
    line = line_of(looks[-1])
    assert line.startswith("[churn] step 1 of 2 (10% > 50%); churn-v2 10%; ")
    for words in ("requests (churn-v1 ", "; evidence ", " of 3.00; rolls back: The candidate is worse: errors"):
        assert words in line
    assert "moves traffic: Ready to start." in line_of(looks[0])


def test_a_panel_shows_weights_guards_with_intervals_and_the_evidence(looks: list[Seen]) -> None:
    text = shown(panel(looks[-1]))
    for words in (
        "canary of churn-v2 against churn-v1",
        "churn-v2",
        "10%",
        "errors",
        " to ",
        "█",
        "of 3.00",
        "rolls back",
    ):
        assert words in text
    first = shown(panel(looks[0]))
    assert "░" * 30 in first
    assert "-" in first


def test_where_nothing_is_watched_nothing_is_claimed(looks: list[Seen]) -> None:
    from dataclasses import replace

    from mlflow_istio.core.release.progress import first_progress
    from tests.support.simulated_users import a_plan

    bare = first_progress(a_plan(guards=()), looks[0].progress.started)
    seen = replace(looks[0], progress=bare, verdict=Verdict(word="hold", reason="Waiting."), doing="Wait")
    assert "evidence" not in line_of(seen)
    assert "before the first step" in line_of(seen)
    assert "evidence" not in shown(panel(seen))


def test_without_a_terminal_each_look_with_news_is_one_line(looks: list[Seen]) -> None:
    out = io.StringIO()
    with watching(Console(file=out, width=80)) as show:
        for seen in (looks[0], looks[0], looks[-1]):
            show(seen)
    lines = out.getvalue().splitlines()
    assert lines == [line_of(looks[0]), line_of(looks[-1])]


def test_in_a_terminal_the_panel_is_drawn_anew(looks: list[Seen]) -> None:
    out = io.StringIO()
    with watching(Console(file=out, width=120, force_terminal=True)) as show:
        for seen in looks:
            show(seen)
    assert "rolls back" in out.getvalue()
