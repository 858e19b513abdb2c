"""A control's share, role and end, purely: what it gets beside whom, and what the ledger, tags and aliases make of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint, with_change
from mlflow_istio.core.endpoint.registry_state import registry_state_of
from mlflow_istio.core.endpoint.traffic import Traffic, WeightedDestination
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.control_share import announced, dismissed, without_share
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.moves.way_back import needed, restore
from mlflow_istio.errors import StateConflict
from tests.support.endpoint_values import OTHER, TIME, a_release, a_stamp, an_endpoint, own, split

LATER = TIME + timedelta(hours=1)
VERSIONS = {"v1": "churn/1", "v2": "churn/2", "v3": "churn/1"}


def controlled(weight: int = 10, **changes: object) -> Endpoint:
    """v1 is stable, v2 is released, v3 is its control."""
    started = transitions.start(an_endpoint(**changes), a_release(control="v3"), TrafficRequest(weight=weight))
    return announced(started, "v3", LATER)


@pytest.mark.parametrize(
    ("weight", "weights"),
    [
        (0, {"v1": 100, "v2": 0, "v3": 0}),
        (10, {"v1": 80, "v2": 10, "v3": 10}),
        (50, {"v1": 0, "v2": 50, "v3": 50}),
        (75, {"v1": 0, "v2": 75, "v3": 25}),
    ],
)
def test_it_gets_the_candidates_share_or_what_is_left(weight: int, weights: dict[str, int]) -> None:
    assert controlled(weight).traffic.weights == weights
    assert transitions.shift(controlled(), TrafficRequest(weight=weight)).traffic.weights == weights


def test_a_foreign_destination_keeps_its_own() -> None:
    foreign = Traffic(split=(*split(v1=70), WeightedDestination(destination=OTHER, weight=30)), pins=("v1", "v2", "v3"))
    assert controlled(50, traffic=foreign).traffic.weights == {"v1": 0, "v2": 50, "v3": 20, "other": 30}


def test_one_that_is_not_ready_or_gone_leaves_its_share_to_the_stable() -> None:
    assert without_share(controlled(20)).traffic.weights == {"v1": 80, "v2": 20, "v3": 0}
    gone = dismissed(controlled(20), "v3")
    assert gone.traffic.weights == {"v1": 80, "v2": 20}
    assert gone.release is not None
    assert gone.release.control == ""
    assert dismissed(gone, "v3") == gone


@pytest.mark.parametrize("end", [transitions.promote, transitions.abort, transitions.rollback])
def test_whatever_ends_the_release_it_is_due_at_once_and_a_control_until_it_is_gone(end: object) -> None:
    after = end(controlled(20))  # type: ignore[operator]
    assert "v3" not in after.traffic.weights
    assert [(deadline.kind, deadline.what, deadline.at) for deadline in after.deadlines] == [("control", "v3", TIME)]
    assert after.role_of("v3") == "control"
    with pytest.raises(StateConflict, match="is a control, which goes with its release: name another"):
        transitions.start(after, a_release("canary", "v3", id="r2"), TrafficRequest(weight=10))


def test_a_command_given_again_finds_its_work_done_though_the_control_went_meanwhile() -> None:
    ended = with_change(controlled(20), transitions.abort(controlled(20)), a_stamp("c1", "abort"), "1")
    cleared = with_change(ended, transitions.unpin(ended, "v3"), a_stamp("c2", "remove"), "2")
    assert transitions.abort(cleared) == cleared
    other = with_change(cleared, transitions.unpin(cleared, "v2"), a_stamp("c3", "remove"), "3")
    with pytest.raises(StateConflict, match="has no open release"):
        transitions.abort(other)


def test_tags_tell_of_it_and_no_alias_follows_it() -> None:
    standing = registry_state_of(controlled(20), "prod", VERSIONS)
    served = {each.version: each for each in standing.served}
    assert (served["churn/1"].role, served["churn/1"].weight, served["churn/1"].control) == ("stable", 80, "v3")
    assert served["churn/1"].tags("prod", "churn")["istio.prod.churn.control"] == "v3"
    assert standing.aliases == {("churn", "champion"): 1, ("churn", "challenger"): 2}
    promoted = registry_state_of(transitions.promote(controlled(20)), "prod", VERSIONS)
    assert {each.version: each.role for each in promoted.served} == {"churn/1": "control", "churn/2": "stable"}
    assert promoted.aliases == {("churn", "champion"): 2, ("churn", "challenger"): None}


def test_the_ledger_names_it_and_a_way_back_gives_its_share_to_the_stable() -> None:
    during = with_change(an_endpoint(), controlled(20), a_stamp("c1", "start"), "1").outbox[-1]
    assert during.control == "v3"
    assert needed(during, ()) == {"v1": "churn/1", "v2": "churn/2"}
    ended = replace(transitions.abort(controlled(20)), deadlines=())
    back = restore(ended, during, LATER)
    assert back.traffic.weights == {"v1": 80, "v2": 20}
    assert back.stable == own("v1")
    assert back.release is not None
    assert back.release.candidates == ("v2",)
