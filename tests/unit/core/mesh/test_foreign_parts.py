"""Everybody else's routes, destinations, fields and annotations stay equal, to the last unknown field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, annotations_of, with_annotations
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import (
    LEGACY,
    OTHER,
    a_release,
    adopted,
    an_endpoint,
    by_header,
    canary,
    carrying,
    moved,
    names,
    own,
    pin_route,
    route,
    split,
    with_match,
)


def foreign_parts(virtual_service: Object) -> Any:
    """Everything that is not ours: other routes, other fields of the split's route, other annotations, the rest."""
    found = copy.deepcopy(virtual_service)
    http = [r for r in found["spec"].pop("http") if not str(r.get("name", "")).startswith("mlflow-istio.churn.")]
    for entry in http:
        if entry.get("name") == "main":
            entry["route"] = [
                {key: value for key, value in destination.items() if key != "weight"}
                for destination in entry["route"]
                if destination["destination"]["host"] != "churn"
            ]
            entry.pop("mirrors", None)
    annotations = found["metadata"].pop("annotations")
    theirs = {key: value for key, value in annotations.items() if not key.startswith("mlflow-istio.org/")}
    return found, http, theirs


VERBS = {
    "canary": canary,
    "ab": lambda now: transitions.start(now, a_release("canary"), TrafficRequest(weight=5)),
    "shadow": lambda now: transitions.start(now, a_release("shadow"), TrafficRequest(mirror=5)),
    "promote": lambda now: transitions.promote(canary(now)),
    "pin": lambda now: transitions.pin(now, "v4"),
    "unpin": lambda now: transitions.unpin(now, "v3"),
    "delete": transitions.mark_deleting,
}


@pytest.mark.parametrize("verb", VERBS)
def test_foreign_routes_fields_and_annotations_stay_equal(verb: str) -> None:
    before = adopted(mirrors=[{"destination": to_json(OTHER)}])
    kept = copy.deepcopy(before)
    after = moved(before, VERBS[verb], "c1")
    assert foreign_parts(after) == foreign_parts(before)
    assert before == kept, "the input was changed"
    assert after != before


@pytest.mark.parametrize("verb", ["canary", "shadow", "promote"])
def test_abort_and_rollback_give_the_adopted_route_its_destinations_back(verb: str) -> None:
    before = adopted()
    back = transitions.rollback
    after = moved(moved(before, VERBS[verb], "c1"), back, "c2")
    assert route(after, "main") == route(before, "main")


def test_our_routes_stand_right_above_the_adopted_one_inside_its_match() -> None:
    after = moved(adopted(), canary, "c1")
    assert names(after) == [
        "docs",
        "mlflow-istio.churn.probe",
        *(f"mlflow-istio.churn.pin.{name}" for name in ("v1", "v2", "v3")),
        "main",
        "",
    ]
    probe = route(after, "mlflow-istio.churn.probe")
    assert probe["match"] == [{"uri": {"prefix": "/api"}, "headers": {"x-mlflow-istio-probe": {"exact": "1"}}}]


def test_temporary_routes_inherit_what_the_split_does_for_its_users_and_no_more() -> None:
    before = adopted(headers={"response": {"set": {"x": "y"}}}, corsPolicy={"maxAge": "1s"}, rewrite={"uri": "/"})
    pin = route(moved(before, canary, "c1"), "mlflow-istio.churn.pin.v2")
    main = route(before, "main")
    inherited = {field: main[field] for field in ("timeout", "retries", "headers", "corsPolicy", "rewrite")}
    assert pin == {**pin_route("v2"), **inherited}


def test_a_destination_and_a_mirror_that_nobody_moved_are_written_as_they_stand() -> None:
    alone = adopted(route=[{"destination": to_json(LEGACY)}], mirrors=[{"destination": to_json(OTHER)}])
    after = moved(alone, lambda now: transitions.pin(now, "v4"), "c1")
    assert route(after, "main") == route(alone, "main")


def test_a_mirror_of_others_without_a_percentage_copies_all() -> None:
    before = adopted(mirrors=[{"destination": to_json(OTHER)}, {"destination": {"host": "off"}, "percentage": {}}])
    assert [mirror.percentage for mirror in read_endpoint(before, "churn").traffic.mirrors] == [100.0, 0.0]


def test_an_only_destination_gets_all_whatever_its_weight_says() -> None:
    before = adopted(route=[{"destination": to_json(LEGACY), "weight": 0}])
    assert read_endpoint(before, "churn").traffic.split == split(legacy=100)


def test_the_weight_of_what_stays_alone_is_written() -> None:
    both = adopted(route=[{"destination": to_json(LEGACY), "weight": 100}])
    half = moved(both, lambda now: transitions.start(now, a_release(), TrafficRequest(weight=50)), "c1")
    after = moved(half, transitions.abort, "c2")
    assert route(after, "main")["route"] == [{"destination": to_json(LEGACY), "weight": 100}]


def test_a_mirror_of_ours_stands_in_the_same_list_as_others() -> None:
    theirs = {"destination": to_json(OTHER), "percentage": {"value": 50}, "more": 1}
    after = moved(adopted(mirrors=[theirs]), VERBS["shadow"], "c1")
    ours = {"destination": to_json(own("v2")), "percentage": {"value": 5}}
    assert route(after, "main")["mirrors"] == [theirs, ours]
    changed = moved(after, lambda now: transitions.shift(now, TrafficRequest(mirror=7)), "c2")
    assert route(changed, "main")["mirrors"] == [theirs, {**ours, "percentage": {"value": 7}}]


def test_every_match_of_the_split_is_combined_with_every_match_of_ours() -> None:
    outer = [{"uri": {"prefix": "/a"}}, {"headers": {"x-tenant": {"exact": "1"}}}]
    after = moved(with_match(carrying(an_endpoint()), outer), by_header, "c1")
    assert route(after, "mlflow-istio.churn.arm.v2")["match"] == [
        {"uri": {"prefix": "/a"}, "headers": {"x-arm": {"exact": "r1.v2"}}},
        {"headers": {"x-tenant": {"exact": "1"}, "x-arm": {"exact": "r1.v2"}}},
    ]
    assert read_endpoint(after, "churn").traffic == by_header(an_endpoint()).traffic


@pytest.mark.parametrize(
    "first", [None, [{"uri": {"prefix": "/a"}}], [{"headers": {"x-tenant": {}}}, {"method": {"exact": "GET"}}]]
)
@pytest.mark.parametrize(
    "then", [None, [{"uri": {"prefix": "/b"}}], [{"uri": {"prefix": "/a"}}, {"queryParams": {"q": {}}}]]
)
def test_an_owner_may_change_the_match_of_the_split_under_an_open_release(
    first: list[Object] | None, then: list[Object] | None
) -> None:
    opened = moved(with_match(carrying(an_endpoint()), first), by_header, "c1")
    after = moved(with_match(opened, then), lambda now: transitions.shift(now, TrafficRequest(weight=60)), "c2")
    expected = moved(with_match(carrying(an_endpoint()), then), by_header, "c1")
    expected = moved(expected, lambda now: transitions.shift(now, TrafficRequest(weight=60)), "c2")
    assert after["spec"] == expected["spec"]


def test_without_its_probe_route_the_splits_own_match_is_taken_away() -> None:
    opened = moved(with_match(carrying(an_endpoint()), [{"uri": {"prefix": "/a"}}]), by_header, "c1")
    http = [r for r in opened["spec"]["http"] if r["name"] != "mlflow-istio.churn.probe"]
    broken = {**opened, "spec": {**opened["spec"], "http": http}}
    assert read_endpoint(broken, "churn").traffic == read_endpoint(opened, "churn").traffic


def test_sticky_cookies_are_set_by_our_destinations_and_leave_with_the_release() -> None:
    before = adopted(
        route=[{"destination": to_json(own("v1")), "weight": 70}, {"destination": to_json(OTHER), "weight": 30}]
    )
    before = with_stable(before)
    after = moved(before, lambda now: transitions.start(now, a_release("ab", traffic_request=COOKIE), COOKIE), "c1")
    headers = [entry.get("headers") for entry in route(after, "main")["route"]]
    cookies = [h and h["response"]["add"]["set-cookie"] for h in headers]
    tail = "; Path=/; Max-Age=604800; SameSite=Lax"
    assert cookies == [f"arm=r1.v1{tail}", f"arm=r1.v2{tail}", None]
    assert route(moved(after, transitions.abort, "c2"), "main") == route(before, "main")


COOKIE = TrafficRequest(cookie="arm", weight=10)


def with_stable(virtual_service: Object) -> Object:
    """The same with our v1 as stable."""
    key = "mlflow-istio.org/state.churn"
    state = annotations_of(virtual_service)[key]
    legacy = f'"stable":{{"host":"{LEGACY.host}","port":{{"number":8080}}}}'
    assert legacy in state
    return with_annotations(virtual_service, {key: state.replace(legacy, '"stable":{"host":"churn","subset":"v1"}')})


@pytest.mark.parametrize(
    "theirs",
    [
        "session=abc.v1; Path=/; Max-Age=60; HttpOnly",
        "arm=r1.v9; Path=/; Max-Age=60; SameSite=Lax",
        "lang=de",
    ],
)
def test_a_users_own_cookie_is_neither_taken_for_ours_nor_lost(theirs: str) -> None:
    headers = {"response": {"add": {"set-cookie": theirs, "x": "1"}, "set": {"y": "2"}}, "request": {"set": {"z": "3"}}}
    mine = [{"destination": to_json(own("v1")), "weight": 100, "headers": headers}]
    before = with_stable(adopted(route=mine))
    assert read_endpoint(before, "churn").traffic.sticky is None
    after = moved(before, canary, "c1")
    assert route(after, "main")["route"][0]["headers"] == headers
    with pytest.raises(InvalidInput, match="destination 'v1' already adds a 'set-cookie' header"):
        moved(before, lambda now: transitions.start(now, a_release("ab", traffic_request=COOKIE), COOKIE), "c1")


def test_other_headers_of_a_destination_stay_beside_our_cookie() -> None:
    headers = {"response": {"add": {"x": "1"}, "set": {"y": "2"}}, "request": {"set": {"z": "3"}}}
    mine = [{"destination": to_json(own("v1")), "weight": 100, "headers": headers}]
    before = with_stable(adopted(route=mine))
    after = moved(before, lambda now: transitions.start(now, a_release("ab", traffic_request=COOKIE), COOKIE), "c1")
    found = route(after, "main")["route"][0]["headers"]
    assert found["response"]["add"].pop("set-cookie").startswith("arm=r1.v1")
    assert found == headers
    assert route(moved(after, transitions.abort, "c2"), "main") == route(before, "main")


SAME_SUBSET = (Destination(host="legacy", subset="v2"), Destination(host="other", subset="v2", port=80))


def test_foreign_destinations_are_told_apart_from_each_other_and_from_a_deployment_that_their_subset_is_called_like() -> (
    None
):
    """All three have a subset ``v2``, and each keeps its own weight under its own name, in every later change and entry."""
    entries = [
        {"destination": to_json(LEGACY), "weight": 70},
        {"destination": to_json(SAME_SUBSET[0]), "weight": 10},
        {"destination": to_json(SAME_SUBSET[1]), "weight": 20},
    ]
    before = adopted(route=entries)

    after = moved(before, lambda now: transitions.start(now, a_release("canary"), TrafficRequest(weight=5)), "c1")

    endpoint = read_endpoint(after, "churn")
    assert endpoint.traffic.weights == {LEGACY.name: 65, "v2": 5, "legacy/v2": 10, "other/v2:80": 20}
    assert endpoint.outbox[-1].after is not None
    assert endpoint.outbox[-1].after.weights == endpoint.traffic.weights
    back = moved(after, transitions.abort, "c2")
    assert read_endpoint(back, "churn").traffic.weights == {LEGACY.name: 70, "legacy/v2": 10, "other/v2:80": 20}
    kept = [entry for entry in route(back, "main")["route"] if entry["destination"]["host"] in ("legacy", "other")]
    assert kept == entries[1:]
