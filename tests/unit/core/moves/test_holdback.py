"""A promotion that is watched, as transitions of the endpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlflow_istio.core.endpoint.deadlines import KEEP, WATCH, Deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.registry_state import registry_state_of
from mlflow_istio.core.endpoint.traffic import Destination, WeightedDestination
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.holdback import held_back, watch
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.endpoint_values import TIME, an_endpoint, started

UNTIL = TIME + timedelta(hours=2)


def half(weight: int = 50) -> Endpoint:
    return started(traffic_request=TrafficRequest(weight=weight))


def watched(endpoint: Endpoint | None = None, *, holdback: int = 5, keep: float | None = None) -> Endpoint:
    return watch(endpoint or half(), "v2", holdback=holdback, until=UNTIL, now=TIME, keep=keep)


def test_the_candidate_is_stable_and_the_one_before_keeps_its_share() -> None:
    after = watched()
    assert after.traffic.weights == {"v2": 95, "v1": 5}
    assert (after.stable.name, after.release is not None) == ("v2", True)
    assert [after.role_of(name) for name in ("v1", "v2")] == ["holdback", "stable"]
    assert after.deadlines == (Deadline(kind=WATCH, at=UNTIL, what="r1"),)
    assert watch(after, "v2", holdback=9, until=UNTIL, now=TIME) == after


def test_the_registry_has_the_promoted_version_as_champion_and_nobody_as_challenger() -> None:
    state = registry_state_of(watched(), "prod", {"v1": "m/1", "v2": "m/2"})
    assert state.aliases == {("m", "champion"): 2, ("m", "challenger"): None}
    tags = {served.version: served.tags("prod", "churn") for served in state.served}
    assert (tags["m/1"]["istio.prod.churn.role"], tags["m/1"]["istio.prod.churn.weight"]) == ("holdback", "5")
    assert (tags["m/2"]["istio.prod.churn.role"], tags["m/2"]["istio.prod.churn.release"]) == ("stable", "r1")


def test_promote_ends_it_well_and_the_way_back_is_still_the_one_before() -> None:
    after = transitions.promote(watched(), now=TIME)
    assert after.traffic.weights["v2"] == 100
    assert after.last is not None
    assert (after.last.outcome, after.last.previous, after.release) == ("promoted", after.destination("v1"), None)
    assert (after.deadlines, after.progress) == ((), None)
    assert transitions.rollback(after).traffic.weights["v1"] == 100


@pytest.mark.parametrize(("keep", "asked", "at"), [(7200.0, None, 7200), (7200.0, 60, 3660), (None, None, None)])
def test_the_one_before_goes_when_its_time_since_the_promotion_is_over(
    keep: float | None, asked: int | None, at: int | None
) -> None:
    now = TIME + timedelta(hours=1)
    after = transitions.promote(watched(keep=keep), now=now, keep=timedelta(seconds=asked) if asked else None)
    wanted = () if at is None else (Deadline(kind=KEEP, at=TIME + timedelta(seconds=at), what="v1"),)
    assert after.deadlines == wanted


@pytest.mark.parametrize("verb", ["rollback", "abort"])
def test_rollback_and_abort_go_back_in_one_edit(verb: str) -> None:
    after = getattr(transitions, verb)(watched(keep=7200.0), now=TIME)
    assert (after.traffic.weights["v1"], after.stable.name, after.deadlines) == (100, "v1", ())
    assert after.last is not None
    assert (after.last.outcome, after.last.previous) == ("rolled-back" if verb == "rollback" else "aborted", None)
    assert getattr(transitions, verb)(after) == after


def test_a_watch_that_is_superseded_ends_well() -> None:
    after = transitions.abort(watched(), "superseded", now=TIME)
    assert (after.stable.name, after.traffic.weights["v2"]) == ("v2", 100)
    assert after.last is not None
    assert after.last.outcome == "promoted"


def test_another_release_a_weight_and_a_removal_are_refused_and_told_what_ends_the_watch() -> None:
    endpoint = watched()
    release = endpoint.release
    assert release is not None
    again = replace(release, id="r2", candidates=("v3",), watching=None)
    for refused in (
        lambda: transitions.start(transitions.pin(endpoint, "v3"), again, TrafficRequest(weight=5)),
        lambda: transitions.shift(endpoint, TrafficRequest(weight=50)),
        lambda: transitions.unpin(endpoint, "v1"),
    ):
        with pytest.raises(StateConflict, match="release 'r1' has promoted 'v2' and watches it") as found:
            refused()
        assert "rollback goes back, promote ends that well now" in found.value.message


def test_a_stable_of_its_owners_keeps_no_share() -> None:
    endpoint = half()
    theirs = Destination(host="web", subset=None)
    foreign = replace(
        endpoint,
        stable=theirs,
        traffic=replace(
            endpoint.traffic,
            split=(
                WeightedDestination(destination=theirs, weight=50),
                WeightedDestination(destination=endpoint.destination("v2"), weight=50),
            ),
        ),
    )
    with pytest.raises(InvalidInput, match="needs a stable that was deployed here: 'web'"):
        watched(foreign)


def test_what_the_owner_has_in_the_route_keeps_its_weight_and_must_leave_room() -> None:
    endpoint = half(20)
    others = WeightedDestination(destination=Destination(host="other", subset=None), weight=30)
    split = tuple(replace(share, weight=50) if share.weight == 80 else share for share in endpoint.traffic.split)
    mixed = replace(endpoint, traffic=replace(endpoint.traffic, split=(*split, others)))
    assert watched(mixed).traffic.weights == {"v2": 65, "v1": 5, "other": 30}
    full = replace(mixed.traffic, split=(split[1], replace(others, weight=80)))
    with pytest.raises(InvalidInput, match="no room for holdback=20"):
        watched(replace(mixed, traffic=full), holdback=20)


def test_weights_that_somebody_moved_are_put_back() -> None:
    endpoint = watched()
    moved = replace(endpoint.traffic, split=tuple(replace(share, weight=50) for share in endpoint.traffic.split))
    assert held_back(replace(endpoint, traffic=moved)).traffic == endpoint.traffic
    assert an_endpoint() == held_back(an_endpoint())
