"""One id, one plan: what an endpoint remembers of releases, and what each verb makes of an id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import (
    MAX_EARLIER,
    Endpoint,
    endpoint_from,
    state_annotations,
    with_change,
)
from mlflow_istio.core.endpoint.release_state import (
    ClosedRelease,
    EarlierRelease,
    check_run_is_free,
    describe_release,
    same_plan,
)
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import StateConflict
from tests.support.endpoint_values import a_release, a_stamp, an_endpoint

PLAN: dict[str, Any] = {"versions": {"v2": "churn/2"}, "options": "digest-a"}


def closed(release_id: str = "r1", outcome: str = "promoted", **changes: Any) -> ClosedRelease:
    values: dict[str, Any] = {"id": release_id, "strategy": "canary", "outcome": outcome, "candidates": ("v2",)}
    return ClosedRelease(**{**values, **PLAN, **changes})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"strategy": "shadow"}, False),
        ({"candidates": ("v3",)}, False),
        ({"versions": {"v2": "churn/3"}}, False),
        ({"options": "digest-b"}, False),
        ({"versions": {}}, True),
        ({"options": ""}, True),
    ],
)
def test_plans_are_the_same_by_all_that_both_know_of_themselves(changes: dict[str, Any], same: bool) -> None:
    assert same_plan(closed(), replace(closed(), **changes)) is same
    assert same_plan(replace(closed(), **changes), closed()) is same


def test_the_order_of_the_arms_makes_no_other_plan() -> None:
    arms = closed(strategy="ab", candidates=("v2", "v3"))
    assert same_plan(arms, replace(arms, candidates=("v3", "v2")))
    assert not same_plan(arms, replace(arms, candidates=("v3",)))
    release = a_release("ab", "v3", "v2")
    check_run_is_free("churn", release, "ab", "v2,v3", "")
    with pytest.raises(StateConflict, match="was a ab of v2"):
        check_run_is_free("churn", release, "ab", "v2", "")


def test_a_release_is_described_with_the_versions_that_are_known() -> None:
    assert describe_release(a_release("canary", "v2", "v3", **PLAN)) == "canary of v2 (churn/2), v3"


def an_end(endpoint: Endpoint, release_id: str, change: str) -> Endpoint:
    """Another release that was opened and rolled back."""
    started = transitions.start(endpoint, a_release(id=release_id, **PLAN), TrafficRequest(weight=5))
    opened = with_change(endpoint, started, a_stamp(f"{change}-start"), "1")
    opened = replace(opened, outbox=())
    ended = with_change(opened, transitions.abort(opened), a_stamp(f"{change}-end"), "2")
    return replace(ended, outbox=())


def test_an_endpoint_remembers_the_ids_of_its_newest_releases_and_how_they_ended() -> None:
    endpoint = an_endpoint()
    for count in range(MAX_EARLIER + 3):
        endpoint = an_end(endpoint, f"r{count}", f"c{count}")
    assert endpoint.last is not None
    assert endpoint.last.id == f"r{MAX_EARLIER + 2}"
    assert [earlier.id for earlier in endpoint.earlier] == [f"r{count}" for count in range(2, MAX_EARLIER + 2)]
    newest = endpoint.earlier[-1]
    assert (newest.outcome, newest.sequence) == ("aborted", endpoint.last.sequence - 2)
    annotations = {key: value for key, value in state_annotations(endpoint).items() if value is not None}
    stored = {"metadata": {"name": "churn", "annotations": annotations}}
    read = endpoint_from(stored, "churn", endpoint.traffic)
    assert (read.last, read.earlier) == (endpoint.last, endpoint.earlier)


def test_a_release_that_was_opened_again_is_remembered_once() -> None:
    endpoint = an_end(an_endpoint(), "r1", "a")
    reopened = replace(endpoint, release=a_release(id="r1"), last=None)
    again = with_change(endpoint, reopened, a_stamp("b"), "3")
    assert again.earlier == ()
    endpoint = replace(an_end(an_end(endpoint, "r2", "c"), "r3", "d"), last=closed("r1"))
    assert [earlier.id for earlier in an_end(endpoint, "r4", "e").earlier] == ["r2", "r1"]


ENDED = an_endpoint(last=closed(sequence=7), earlier=(EarlierRelease(id="r0", outcome="aborted", sequence=4),))
OPEN = replace(ENDED, release=a_release("canary", id="r2", **PLAN))


@pytest.mark.parametrize(
    ("release_id", "said"), [("r0", ("aborted", 4)), ("r1", ("promoted", 7)), ("r2", None), ("other", None)]
)
def test_how_a_release_ended_is_found_by_its_id(release_id: str, said: tuple[str, int] | None) -> None:
    found = transitions.ended_release(OPEN, release_id)
    assert (None if found is None else (found.outcome, found.sequence)) == said


@pytest.mark.parametrize(
    ("endpoint", "changes", "words"),
    [
        (
            OPEN,
            {"id": "r2", "options": "digest-b"},
            "'r2' of endpoint 'churn' is a canary of v2 .churn/2. with other o",
        ),
        (OPEN, {"id": "r2", "versions": {"v2": "churn/3"}}, "is a canary of v2 .churn/2.: use another release_id"),
        (
            OPEN,
            {"id": "r1", "strategy": "shadow"},
            "use another release_id for another plan .it has ended as promoted.",
        ),
        (ENDED, {"id": "r1"}, "too late: release 'r1' of endpoint 'churn' has ended as promoted .change 7."),
        (ENDED, {"id": "r0"}, "too late: release 'r0' of endpoint 'churn' has ended as aborted .change 4."),
    ],
)
def test_an_id_that_is_used_up_opens_no_release(endpoint: Endpoint, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StateConflict, match=words):
        transitions.start(endpoint, a_release(**{**PLAN, **changes}), TrafficRequest())


@pytest.mark.parametrize(
    ("outcome", "action", "candidate", "said"),
    [
        ("promoted", "promote", None, True),
        ("promoted", "promote", "v1", True),
        ("promoted", "promote", "v2", "has promoted 'v1', not 'v2'"),
        ("promoted", "rollback", None, False),
        ("promoted", "abort", None, "has ended as promoted .change 7.: action=rollback undoes a promotion"),
        ("rolled-back", "promote", None, "has ended as rolled-back .change 7.: start another release"),
        ("rolled-back", "rollback", None, True),
        ("superseded", "abort", None, True),
    ],
)
def test_a_verb_on_a_release_that_has_ended_is_done_or_too_late(
    outcome: str, action: str, candidate: str | None, said: bool | str
) -> None:
    endpoint = replace(ENDED, last=closed(outcome=outcome, sequence=7), sequence=12)
    if isinstance(said, bool):
        assert transitions.is_done(endpoint, "r1", action, candidate) is said
    else:
        with pytest.raises(StateConflict, match=f"too late: release 'r1' of endpoint 'churn' {said}"):
            transitions.is_done(endpoint, "r1", action, candidate)


def test_nothing_is_done_of_an_open_release_or_of_whichever_is_the_newest() -> None:
    assert not transitions.is_done(OPEN, "r2", "promote")
    assert not transitions.is_done(ENDED, None, "promote")


@pytest.mark.parametrize("endpoint", [OPEN, ENDED])
def test_a_verb_on_an_older_release_says_what_came_after_it(endpoint: Endpoint) -> None:
    newest = "r2" if endpoint.release else "r1"
    with pytest.raises(StateConflict, match=f"too late: release 'r0' is not the newest .* '{newest}' came after it"):
        transitions.is_done(endpoint, "r0", "rollback")


@pytest.mark.parametrize(
    ("release_id", "deployment", "version", "words"),
    [
        ("r2", "v2", "churn/2", ""),
        ("r2", "v3", "churn/2", "is a canary of v2 .churn/2., which 'v3' .churn/2. is no part of"),
        ("r2", "v2", "churn/3", "which 'v2' .churn/3. is no part of: use another release_id"),
        ("r1", "v2", "churn/2", ""),
        ("r1", "v3", "churn/3", "is no part of: use another release_id for another plan .it has ended as promoted."),
        ("r0", "v2", "churn/2", "too late: release 'r0' of endpoint 'churn' has ended as aborted"),
        ("new", "v9", "churn/9", ""),
    ],
)
def test_a_version_is_deployed_only_under_an_id_that_it_is_part_of(
    release_id: str, deployment: str, version: str, words: str
) -> None:
    if words:
        with pytest.raises(StateConflict, match=words):
            transitions.check_part(OPEN, release_id, deployment, version)
    else:
        transitions.check_part(OPEN, release_id, deployment, version)


@pytest.mark.parametrize(
    ("strategy", "candidates", "outcome", "words"),
    [
        ("canary", "v2", "", ""),
        ("", "", "", ""),
        ("shadow", "v2", "", "was a shadow of v2, says the registry"),
        ("canary", "v3", "promoted", "was a canary of v3, says the registry"),
        ("canary", "v2", "promoted", "too late: .* has ended as promoted, says the registry"),
    ],
)
def test_a_run_of_the_id_is_free_while_its_plan_is_the_same_and_open(
    strategy: str, candidates: str, outcome: str, words: str
) -> None:
    if words:
        with pytest.raises(StateConflict, match=words):
            check_run_is_free("churn", a_release(), strategy, candidates, outcome)
    else:
        check_run_is_free("churn", a_release(), strategy, candidates, outcome)
