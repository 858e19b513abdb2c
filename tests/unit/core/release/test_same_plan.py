"""A release that an earlier version opened is known again by the same options, and by no others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.release.plan import RULES, GuardPlan, ReleasePlan, auto_guards, gross_guard
from mlflow_istio.core.release.progress import progress_from_text
from mlflow_istio.core.release.same_plan import as_before_controls, as_stored, is_of_earlier_version
from tests.golden import FOLDER
from tests.support.simulated_users import a_plan

EARLIER = {
    f"{file.stem}-{number}": progress_from_text(case["progress"]).plan
    for file in sorted((FOLDER / "stored_progress").glob("*.json"))
    for number, case in enumerate(json.loads(file.read_text(encoding="utf-8")))
}
"""Plans that earlier versions left on their objects."""


def made_today(known: ReleasePlan) -> ReleasePlan:
    """What today's version makes of the options that this plan was made of."""
    guards = known.guards and (*known.guards, *(() if known.rules == RULES else (gross_guard(),)))
    weights = {"errors": 4.0} if known.rules < RULES else {}
    return replace(
        known,
        guards=tuple(replace(guard, weight=weights.get(guard.name, guard.weight)) for guard in guards),
        control="auto" if known.strategy == "canary" and known.guards else "none",
        capacity="follow",
        warm="auto",
        warm_requests=300,
        phase=None if known.rules < RULES else known.phase,
        rules=RULES,
    )


@pytest.mark.parametrize("known", EARLIER.values(), ids=EARLIER)
def test_the_same_options_make_the_plan_that_stands_there(known: ReleasePlan) -> None:
    assert is_of_earlier_version(known)
    assert made_today(known) != known
    assert as_stored(made_today(known), known) == known


OTHERS: dict[str, dict[str, Any]] = {
    "steps": {"steps": (3,)},
    "hold": {"hold": 99.0},
    "control": {"control": "fresh"},
    "no control": {"control": "none"},
    "surge": {"surge": "2"},
    "watch": {"watch": 60.0},
    "keep": {"keep_old": 60.0},
    "guard": {"guards": (*auto_guards(), GuardPlan(name="slo", kind="objective", limit=0.1))},
    "margin": {"guards": auto_guards(2.0)},
}


@pytest.mark.parametrize("said", OTHERS.values(), ids=OTHERS)
def test_what_is_said_otherwise_makes_another_plan(said: dict[str, Any]) -> None:
    known = a_plan(rules=RULES)
    assert as_stored(made_today(known), known) == known
    assert as_stored(replace(made_today(known), **said), known) != known


def test_a_plan_of_today_is_held_to_all_but_its_warm_up_which_is_done() -> None:
    known = a_plan(rules=RULES, control="auto", capacity="follow", warm="auto")
    assert not is_of_earlier_version(known)
    assert as_stored(replace(known, warm="none"), known) == known
    assert as_stored(replace(known, capacity="fixed"), known) != known


def test_where_the_plan_is_not_kept_both_ways_with_replicas_are_thought_of() -> None:
    known = a_plan(rules=RULES)
    today = replace(made_today(known), warm_requests=known.warm_requests)
    assert known in list(as_before_controls(today))
    assert replace(known, capacity="follow") in list(as_before_controls(today))
    assert list(as_before_controls(replace(today, surge="1"))) == []
