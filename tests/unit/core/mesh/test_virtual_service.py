"""Our routes come and go right above the one that carries the split, and each change leaves its entry beside them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mlflow_istio.core.basics.objects import with_annotations
from mlflow_istio.core.endpoint.endpoint import state_annotations
from mlflow_istio.core.endpoint.traffic import Mirror
from mlflow_istio.core.matching.requests import Request, answering_route
from mlflow_istio.core.mesh.virtual_service import cookie_match, read_endpoint, write_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from tests.support.endpoint_values import (
    LEGACY,
    OTHER,
    a_release,
    a_virtual_service,
    adopted,
    an_endpoint,
    canary,
    carrying,
    moved,
    names,
    route,
    started,
)


def test_our_routes_stand_in_order_of_precedence_above_the_split() -> None:
    assert names(carrying(started("ab", traffic_request=TrafficRequest(header="x-arm", weight=10)))) == [
        "mlflow-istio.churn.probe",
        "mlflow-istio.churn.pin.v1",
        "mlflow-istio.churn.pin.v2",
        "mlflow-istio.churn.pin.v3",
        "mlflow-istio.churn.arm.v1",
        "mlflow-istio.churn.arm.v2",
        "mlflow-istio.churn.split",
    ]


@pytest.mark.parametrize(
    ("headers", "answered_by"),
    [
        ({}, "split"),
        ({"x-mlflow-istio-probe": "1"}, "probe"),
        ({"x-mlflow-deployment": "v3"}, "pin.v3"),
        ({"x-mlflow-deployment": "v9"}, "split"),
        ({"cookie": "arm=r1.v2"}, "arm.v2"),
        ({"cookie": "a=1; arm=r1.v2; b=2"}, "arm.v2"),
        ({"cookie": "arm=r1.v2", "x-mlflow-deployment": "v1"}, "pin.v1"),
        ({"cookie": "charm=r1.v2"}, "split"),
        ({"cookie": "arm=r1.v22"}, "split"),
        ({"cookie": "arm=r0.v2"}, "split"),
    ],
)
def test_a_request_is_answered_by_the_first_route_that_means_it(headers: dict[str, str], answered_by: str) -> None:
    virtual_service = carrying(started("ab", traffic_request=TrafficRequest(cookie="arm", weight=10)))
    found = answering_route(virtual_service, Request(headers=headers))
    assert found is not None
    assert found["name"] == f"mlflow-istio.churn.{answered_by}"


def test_the_probe_route_answers_with_the_newest_change() -> None:
    after = moved(a_virtual_service(), canary, "c1")
    answer = {"status": 200, "body": {"string": "c1"}}
    assert route(after, "mlflow-istio.churn.probe")["directResponse"] == answer


def test_a_cookies_name_is_matched_literally() -> None:
    match = cookie_match("a.b|c", "r1.v2")["headers"]["cookie"]["regex"]
    assert re.fullmatch(match, "x=1; a.b|c=r1.v2")
    assert not re.fullmatch(match, "aXb|c=r1.v2")
    assert not re.fullmatch(match, "a.b")


def test_a_change_leaves_its_entry_in_the_same_object() -> None:
    before = adopted()
    after = moved(before, canary, "c1", "start", reason="why", evidence={"p": 0.1}, run="run-x")
    endpoint = read_endpoint(after, "churn")
    (entry,) = endpoint.outbox
    assert (entry.id, entry.sequence, entry.action, entry.reason, entry.who) == ("c1", 2, "start", "why", "me")
    assert (entry.release, entry.run, entry.resource_version, entry.evidence) == ("r1", "run-x", "41", {"p": 0.1})
    assert entry.before == read_endpoint(before, "churn").traffic
    assert entry.after == endpoint.traffic
    assert entry.versions == {"v1": "churn/1", "v2": "churn/2", "v3": "churn/3"}


def test_a_change_that_is_there_already_is_not_made_again() -> None:
    once = moved(a_virtual_service(), canary, "c1")
    assert moved(once, lambda now: transitions.shift(now, TrafficRequest(weight=99)), "c1") is once
    twice = moved(once, transitions.abort, "c2")
    assert moved(twice, lambda now: transitions.pin(now, "v4"), "c1") is twice


def test_nothing_to_change_is_the_same_object() -> None:
    before = a_virtual_service()
    assert moved(before, lambda now: now, "c1") is before


def test_a_pause_moves_no_traffic_and_writes_no_entry() -> None:
    before = moved(a_virtual_service(), canary, "c1")
    after = moved(before, transitions.pause, "c2")
    endpoint = read_endpoint(after, "churn")
    assert endpoint.release is not None
    assert endpoint.release.state == "paused"
    assert (endpoint.change, [entry.id for entry in endpoint.outbox]) == ("c1", ["c0", "c1"])
    assert after["spec"] == before["spec"]


def test_the_end_of_a_release_is_recorded_even_when_no_weight_moves() -> None:
    theirs = Mirror(destination=OTHER, percentage=1)
    before = carrying(an_endpoint(release=a_release(), traffic=replace(an_endpoint().traffic, mirrors=(theirs,))))
    endpoint = read_endpoint(moved(before, transitions.abort, "c1", "abort"), "churn")
    assert [(entry.action, entry.release, entry.run) for entry in endpoint.outbox] == [("abort", "r1", "run-r1")]
    assert endpoint.last is not None
    assert endpoint.last.sequence == endpoint.sequence


def test_what_undoes_a_promotion_belongs_to_its_release_and_run() -> None:
    promoted = moved(moved(a_virtual_service(), canary, "c1"), transitions.promote, "c2")
    endpoint = read_endpoint(moved(promoted, transitions.rollback, "c3", "rollback"), "churn")
    assert [(entry.release, entry.run) for entry in endpoint.outbox] == [
        (None, None),
        ("r1", "run-r1"),
        ("r1", "run-r1"),
        ("r1", "run-r1"),
    ]


def test_two_endpoints_on_one_object_do_not_touch_each_other() -> None:
    other = replace(an_endpoint(), name="churn-eu", route="eu", stable=LEGACY)
    one = carrying(an_endpoint())
    routes = [*one["spec"]["http"], {"name": "eu", "route": []}]
    both = with_annotations({**one, "spec": {**one["spec"], "http": routes}}, state_annotations(other))
    both = write_endpoint(both, other)
    after = moved(both, canary, "c1")
    assert read_endpoint(after, "churn-eu") == other
    assert [r for r in after["spec"]["http"] if not r["name"].startswith("mlflow-istio.churn.")] == [
        r for r in both["spec"]["http"] if not r["name"].startswith("mlflow-istio.churn.")
    ]
