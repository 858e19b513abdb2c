"""Every verb from every state: what it makes of the endpoint, or the words with which it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Assignment
from mlflow_istio.core.endpoint.traffic import Traffic
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, MlflowIstioError, StateConflict
from tests.support.endpoint_values import (
    LEGACY,
    a_release,
    a_stamp,
    adopted,
    an_endpoint,
    carrying,
    own,
    split,
    started,
)

Verb = Callable[[Endpoint], Endpoint]


def after(endpoint: Endpoint, *verbs: Verb) -> Endpoint:
    """The endpoint after verbs that went through the object, each with its own change."""
    virtual_service = carrying(endpoint)
    for verb in verbs:
        now = read_endpoint(virtual_service, "churn")
        virtual_service = changed(virtual_service, verb(now), a_stamp(f"c{now.sequence + 1}"))
    return read_endpoint(virtual_service, "churn")


def _start(now: Endpoint) -> Endpoint:
    return transitions.start(now, a_release(id="r9"), TrafficRequest(weight=10))


def _shift(now: Endpoint) -> Endpoint:
    return transitions.shift(now, TrafficRequest(weight=50))


def _pin(now: Endpoint) -> Endpoint:
    return transitions.pin(now, "v4")


def _unpin(now: Endpoint) -> Endpoint:
    return transitions.unpin(now, "v2")


def _delete(now: Endpoint) -> Endpoint:
    return transitions.mark_deleting(now)


CANARY = started("canary", traffic_request=TrafficRequest(weight=10))
STATES: dict[str, Endpoint] = {
    "quiet": after(an_endpoint()),
    "canary": after(CANARY),
    "paused": after(CANARY, transitions.pause),
    "shadow": after(started("shadow")),
    "promoted": after(CANARY, transitions.promote),
    "promoted, then another deployed": after(CANARY, transitions.promote, _pin),
    "aborted": after(CANARY, transitions.abort),
    "aborted, then another deployed": after(CANARY, transitions.abort, _pin),
    "rolled back": after(CANARY, transitions.rollback),
    "promotion rolled back": after(CANARY, transitions.promote, transitions.rollback),
    "deleting": after(an_endpoint(), _delete),
}
VERBS: dict[str, Verb] = {
    "pin": _pin,
    "unpin": _unpin,
    "start": _start,
    "shift": _shift,
    "promote": transitions.promote,
    "abort": transitions.abort,
    "rollback": transitions.rollback,
    "pause": transitions.pause,
    "resume": transitions.resume,
    "delete": _delete,
}
NONE = "endpoint 'churn' has no open release, so there is no candidate"
OPEN = r"endpoint 'churn' has an open release 'r1' \(\w+ of v2\): promote, rollback or abort it first"
GOING = "endpoint 'churn' is being deleted: finish with mlflow deployments delete-endpoint"
SAME = "same"
"""Nothing is left to do: the same command, given again."""

# What each verb leaves: (weights, stable, open release's state, last outcome), SAME, or the refusal's words.
EXPECTED: dict[str, dict[str, Any]] = {
    "quiet": {
        "start": ({"v1": 90, "v2": 10}, "v1", "open", None),
        "unpin": ({"v1": 100}, "v1", None, None),
        "rollback": "has nothing to roll back: 'v1' is stable, no release is open",
        "delete": ({"v1": 100}, "v1", None, None),
        **dict.fromkeys(("shift", "promote", "abort", "pause", "resume"), NONE),
    },
    "canary": {
        "start": OPEN,
        "unpin": r"deployment 'v2' of endpoint 'churn' has traffic \(weight 10\): abort the release",
        "shift": ({"v1": 50, "v2": 50}, "v1", "open", None),
        "promote": ({"v2": 100}, "v2", None, "promoted"),
        "abort": ({"v1": 100}, "v1", None, "aborted"),
        "rollback": ({"v1": 100}, "v1", None, "rolled-back"),
        "pause": ({"v1": 90, "v2": 10}, "v1", "paused", None),
        "resume": SAME,
        "delete": OPEN + r" \(or 'mlflow-istio delete-endpoint --force' deletes the endpoint with it\)",
    },
    "paused": {
        "start": OPEN,
        "unpin": "has traffic",
        "shift": ({"v1": 50, "v2": 50}, "v1", "paused", None),
        "promote": ({"v2": 100}, "v2", None, "promoted"),
        "abort": ({"v1": 100}, "v1", None, "aborted"),
        "rollback": ({"v1": 100}, "v1", None, "rolled-back"),
        "pause": SAME,
        "resume": ({"v1": 90, "v2": 10}, "v1", "open", None),
        "delete": OPEN,
    },
    "shadow": {
        "start": OPEN,
        "unpin": r"has traffic \(weight 0\)",
        "shift": "option 'weight' has no effect with strategy=shadow",
        "promote": ({"v2": 100}, "v2", None, "promoted"),
        "abort": ({"v1": 100}, "v1", None, "aborted"),
        "rollback": ({"v1": 100}, "v1", None, "rolled-back"),
        "pause": ({"v1": 100}, "v1", "paused", None),
        "resume": SAME,
        "delete": OPEN,
    },
    "promoted": {
        "start": "deployment 'v2' is stable already: a candidate must be another",
        "unpin": "deployment 'v2' of endpoint 'churn' is stable: promote another first, or delete the whole endpoint",
        "promote": SAME,
        "rollback": ({"v1": 100}, "v1", None, "rolled-back"),
        "delete": ({"v2": 100}, "v2", None, "promoted"),
        **dict.fromkeys(("shift", "abort", "pause", "resume"), NONE),
    },
    "promoted, then another deployed": {
        "start": "stable already",
        "unpin": "is stable",
        "promote": NONE,
        "rollback": ({"v1": 100}, "v1", None, "rolled-back"),
        "delete": ({"v2": 100}, "v2", None, "promoted"),
        "pin": SAME,
        **dict.fromkeys(("shift", "abort", "pause", "resume"), NONE),
    },
    "aborted": {
        "start": ({"v1": 90, "v2": 10}, "v1", "open", "aborted"),
        "unpin": ({"v1": 100}, "v1", None, "aborted"),
        "abort": SAME,
        "rollback": SAME,
        "delete": ({"v1": 100}, "v1", None, "aborted"),
        **dict.fromkeys(("shift", "promote", "pause", "resume"), NONE),
    },
    "aborted, then another deployed": {
        "start": ({"v1": 90, "v2": 10}, "v1", "open", "aborted"),
        "unpin": ({"v1": 100}, "v1", None, "aborted"),
        "rollback": "has nothing to roll back: 'v1' is stable",
        "delete": ({"v1": 100}, "v1", None, "aborted"),
        "pin": SAME,
        **dict.fromkeys(("shift", "promote", "abort", "pause", "resume"), NONE),
    },
    "rolled back": {
        "start": ({"v1": 90, "v2": 10}, "v1", "open", "rolled-back"),
        "unpin": ({"v1": 100}, "v1", None, "rolled-back"),
        "abort": SAME,
        "rollback": SAME,
        "delete": ({"v1": 100}, "v1", None, "rolled-back"),
        **dict.fromkeys(("shift", "promote", "pause", "resume"), NONE),
    },
    "promotion rolled back": {
        "start": ({"v1": 90, "v2": 10}, "v1", "open", "rolled-back"),
        "unpin": ({"v1": 100}, "v1", None, "rolled-back"),
        "abort": SAME,
        "rollback": SAME,
        "delete": ({"v1": 100}, "v1", None, "rolled-back"),
        **dict.fromkeys(("shift", "promote", "pause", "resume"), NONE),
    },
    "deleting": {
        "delete": SAME,
        **dict.fromkeys(("pin", "unpin", "start", "shift", "promote", "abort", "rollback", "pause", "resume"), GOING),
    },
}
PINNED = "pinned"
for _state in EXPECTED.values():
    _state.setdefault("pin", PINNED)
CASES = [(state, verb) for state in STATES for verb in VERBS]
REFUSED = [
    (state, verb)
    for state, verb in CASES
    if isinstance(EXPECTED[state][verb], str) and EXPECTED[state][verb] not in (SAME, PINNED)
]


@pytest.mark.parametrize(("state", "verb"), CASES)
def test_each_verb_does_from_each_state_what_the_table_says(state: str, verb: str) -> None:
    before, expected = STATES[state], EXPECTED[state][verb]
    if expected == PINNED:
        result = VERBS[verb](before)
        assert result == replace(before, traffic=before.traffic.with_pin("v4"))
    elif expected == SAME:
        assert VERBS[verb](before) == before
    elif isinstance(expected, str):
        with pytest.raises(MlflowIstioError, match=expected):
            VERBS[verb](before)
    else:
        result = VERBS[verb](before)
        found = (
            result.traffic.weights,
            result.stable.name,
            result.release.state if result.release else None,
            result.last.outcome if result.last else None,
        )
        assert found == expected


@pytest.mark.parametrize(("state", "verb"), [case for case in CASES if case not in REFUSED])
def test_done_twice_is_done_once(state: str, verb: str) -> None:
    once = after(STATES[state], VERBS[verb])
    assert after(STATES[state], VERBS[verb], VERBS[verb]) == once


@pytest.mark.parametrize(("state", "verb"), REFUSED)
def test_a_refusal_is_one_line_that_names_the_thing(state: str, verb: str) -> None:
    with pytest.raises(MlflowIstioError) as caught:
        VERBS[verb](STATES[state])
    assert any(name in caught.value.message for name in ("'churn'", "'v2'", "strategy=shadow"))
    assert "\n" not in caught.value.message


def test_changes_are_counted() -> None:
    assert [STATES[state].sequence for state in ("quiet", "canary", "promoted", "promotion rolled back")] == [
        0,
        0,
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("release", "endpoint", "words"),
    [
        (a_release(candidates=()), an_endpoint(), "needs a candidate: name a deployment with 'candidate'"),
        (a_release("canary", "v2", "v3"), an_endpoint(), "strategy=canary takes one candidate, not 2: use strategy=ab"),
        (a_release("canary", "v9"), an_endpoint(), "endpoint 'churn' has no deployment 'v9': deploy it first"),
        (a_release("canary", "v1"), an_endpoint(), "'v1' is stable already"),
    ],
)
def test_a_release_without_a_fit_candidate_is_refused(release: Any, endpoint: Endpoint, words: str) -> None:
    with pytest.raises((InvalidInput, StateConflict), match=words):
        transitions.start(endpoint, release, TrafficRequest())


def test_a_release_of_its_id_is_started_once_and_never_after_it_has_ended() -> None:
    """pipelines 11329: a late step of an ended release said "nothing to do" while its candidate had no traffic."""
    release = a_release()
    assert transitions.start(STATES["canary"], release, TrafficRequest(weight=90)) == STATES["canary"]
    with pytest.raises(StateConflict, match="too late: release 'r1' of endpoint 'churn' has ended as promoted"):
        transitions.start(STATES["promoted"], release, TrafficRequest(weight=90))


@pytest.mark.parametrize("state", ["canary", "promoted"])
def test_an_id_that_had_another_plan_is_refused(state: str) -> None:
    other = a_release("canary", "v3")
    with pytest.raises(
        StateConflict, match="release 'r1' of endpoint 'churn' is a canary of v2: use another release_id"
    ):
        transitions.start(STATES[state], other, TrafficRequest())


def test_a_foreign_deployment_of_stables_name_may_be_a_candidate_of_ours() -> None:
    foreign = an_endpoint(traffic=Traffic(split=split(legacy=100), pins=("v1",)), stable=LEGACY)
    result = transitions.start(foreign, a_release("canary", "v1"), TrafficRequest(weight=10))
    assert result.traffic.split == split(legacy=90, v1=10)
    assert (result.role_of("v1"), transitions.promote(result).role_of("v1")) == ("candidate", "stable")


TWO_ARMS = started(
    "ab", "v2", "v3", traffic_request=TrafficRequest(header="x-arm", weights={"v1": 40, "v2": 30, "v3": 30})
)


def test_promote_names_one_of_several_candidates() -> None:
    promoted = transitions.promote(TWO_ARMS, "v3")
    assert (promoted.stable, promoted.traffic.weights) == (own("v3"), {"v3": 100})
    assert transitions.promote(after(TWO_ARMS, lambda now: transitions.promote(now, "v3")), "v3").stable == own("v3")


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (None, "release 'r1' has 2 candidates: name the one to promote with -C candidate=v2"),
        ("v1", "'v1' is no candidate of release 'r1': its candidates are v2, v3"),
    ],
)
def test_promote_refuses_to_guess(candidate: str | None, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        transitions.promote(TWO_ARMS, candidate)


def test_promote_of_another_than_the_one_just_promoted_is_refused() -> None:
    with pytest.raises(StateConflict, match=NONE):
        transitions.promote(STATES["promoted"], "v3")


def test_a_candidate_without_traffic_is_not_removed_under_its_release() -> None:
    with pytest.raises(
        StateConflict, match="'v2' of endpoint 'churn' is a candidate of the open release: abort it first"
    ):
        transitions.unpin(started("canary", traffic_request=TrafficRequest(weight=0)), "v2")


def test_after_the_previous_version_is_removed_there_is_nothing_to_roll_back_to() -> None:
    removed = after(STATES["promoted"], lambda now: transitions.unpin(now, "v1"))
    assert removed.last is not None
    assert removed.last.previous is None
    with pytest.raises(StateConflict, match="nothing to roll back"):
        transitions.rollback(removed)


def test_removing_another_version_leaves_the_way_back() -> None:
    removed = after(STATES["promoted"], lambda now: transitions.unpin(now, "v3"))
    assert transitions.rollback(removed).stable == own("v1")


def test_the_end_of_a_release_keeps_who_was_stable_only_where_it_was_promoted() -> None:
    ends = {state: STATES[state].last for state in ("promoted", "aborted", "rolled back", "promotion rolled back")}
    assert {state: end.previous for state, end in ends.items() if end} == {
        "promoted": own("v1"),
        "aborted": None,
        "rolled back": None,
        "promotion rolled back": None,
    }
    assert {end.run for end in ends.values() if end} == {"run-r1"}


def test_a_forced_deletion_aborts_the_release_and_leaves_the_traffic_as_it_is() -> None:
    before = STATES["canary"]
    result = transitions.mark_deleting(before, force=True)
    assert (result.deleting, result.release, result.traffic) == (True, None, before.traffic)
    assert result.last is not None
    assert result.last.outcome == "aborted"


def test_the_message_about_an_open_release_holds_without_one() -> None:
    assert transitions.open_release(an_endpoint()) == "endpoint 'churn' has no open release"


def test_plans_are_the_same_by_strategy_and_candidates() -> None:
    one = a_release(id="a")
    assert transitions.same_plan(one, a_release(id="b"))
    assert not transitions.same_plan(one, a_release("shadow"))
    assert not transitions.same_plan(one, a_release("canary", "v3"))


@pytest.mark.parametrize(
    ("state", "release_id", "fits"),
    [
        ("quiet", None, True),
        ("quiet", "r1", False),
        ("canary", "r1", True),
        ("canary", "r2", False),
        ("promoted", "r1", True),
        ("promoted", "r2", False),
    ],
)
def test_a_verb_that_names_a_release_means_the_newest(state: str, release_id: str | None, fits: bool) -> None:
    if fits:
        transitions.check_release(STATES[state], release_id)
    else:
        with pytest.raises(StateConflict, match=f"release '{release_id}' is not the newest of endpoint 'churn'"):
            transitions.check_release(STATES[state], release_id)


def test_an_arm_that_is_gone_since_the_test_was_planned_is_refused() -> None:
    """Else its users would be sent where nothing stands; found by the property tests on an adopted route."""
    planned = a_release("ab", "v2", traffic_request=TrafficRequest(header="x-arm"))
    gone = transitions.unpin(read_endpoint(adopted(), "churn"), "v1")
    with pytest.raises(StateConflict, match="has no deployment 'v1': deploy it first"):
        transitions.start(gone, planned, TrafficRequest(header="x-arm"))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("cookie", "arm", "option 'cookie' can't be: endpoint 'churn' speaks gRPC"),
        (
            "header",
            "X-Arm-Bin",
            "option 'header' can't be 'X-Arm-Bin': endpoint 'churn' speaks gRPC, which sends .* Base64",
        ),
    ],
)
def test_a_caller_of_grpc_names_its_arm_by_a_metadatum_of_text(kind: str, name: str, words: str) -> None:
    assignment = Assignment(kind=kind, name=name, values={"v1": "a", "v2": "b"})
    release = a_release("ab", assignment=assignment)
    endpoint = an_endpoint(settings={"protocol": "grpc"})
    with pytest.raises(InvalidInput, match=words):
        transitions.start(endpoint, release, TrafficRequest(weight=50, **{kind: name}))
    other = replace(release, assignment=replace(assignment, kind="header", name="x-arm"))
    assert transitions.start(endpoint, other, TrafficRequest(weight=50, header="x-arm")).traffic.arms
