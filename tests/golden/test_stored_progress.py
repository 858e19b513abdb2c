"""Releases that an earlier version left open on their objects, each with the look that came next and what that version made of it.

The files are what that version wrote, so nothing rewrites them: whoever changes what is stored adds files and a reader.
A guard of every kind is in them, a rollback by each, and every strategy.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest

from mlflow_istio.core.release.advance import Observation, advance
from mlflow_istio.core.release.judgement import bounds_of, look_figures
from mlflow_istio.core.release.progress import progress_from_text, progress_to_text
from tests.golden import FOLDER

NEVER_PROMISED = re.compile(r"at most once in [\w, ]+ releases")
"""How earlier versions said how rare such evidence is, beyond what their method could support: the one thing said otherwise."""

SAID_SINCE = re.compile(r"(?<=isn't complete) \([^)]*\)")
"""What a step still needs: said since."""

CASES = {
    f"{file.stem}-{number}": case
    for file in sorted((FOLDER / "stored_progress").glob("*.json"))
    for number, case in enumerate(json.loads(file.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_open_release_of_an_earlier_version_is_read_and_written_as_it_was(case: dict[str, Any]) -> None:
    assert progress_to_text(progress_from_text(case["progress"])) == case["progress"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_open_release_of_an_earlier_version_goes_on_as_that_version_would_have(case: dict[str, Any]) -> None:
    look = Observation(**case["look"])
    progress, action = advance(progress_from_text(case["progress"]), look, datetime.fromisoformat(case["now"]))
    reason = SAID_SINCE.sub("", action.verdict.reason)
    assert (type(action).__name__, action.verdict.word, reason) == (
        case["action"],
        case["word"],
        NEVER_PROMISED.sub("in at most 5% of releases", case["reason"]),
    )
    assert [bound.describe() for bound in bounds_of(progress.plan, progress.evidence)] == case["bounds"]
    weight = next(look.weights[name] for name in progress.plan.candidates)
    assert look_figures(progress.plan, progress.evidence, weight) == pytest.approx(case["figures"], rel=1e-5)


def test_every_kind_of_guard_is_among_them() -> None:
    plans = [json.loads(case["progress"])["plan"] for case in CASES.values()]
    assert {guard["kind"] for plan in plans for guard in plan["guards"]} == {
        *("errors", "latency", "rate", "mean", "objective"),
    }
