"""Who gains users by a change, whatever of our routes others have left on the object."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint, with_every_route, write_endpoint
from mlflow_istio.core.moves import policies, transitions
from mlflow_istio.core.moves.gaining import gaining
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import CustomRoute, PolicyRequest
from tests.support.endpoint_values import a_release, a_stamp, an_endpoint, by_header, canary, carrying

Verb = Callable[[Endpoint], Endpoint]
STAFF = CustomRoute(name="staff", deployment="v3", match=({"headers": {"x-user": {"exact": "staff"}}},))
ROW: dict[str, tuple[Verb, Verb, tuple[str, ...]]] = {
    "start of a canary": (lambda now: now, canary, ("v2",)),
    "start of a canary at no weight": (
        lambda now: now,
        lambda now: transitions.start(now, a_release("canary", "v2"), TrafficRequest()),
        (),
    ),
    "more weight": (canary, lambda now: transitions.shift(now, TrafficRequest(weight=60)), ("v2",)),
    "less weight": (canary, lambda now: transitions.shift(now, TrafficRequest(weight=1)), ("v1",)),
    "requests of its own": (
        canary,
        lambda now: transitions.shift(now, TrafficRequest(match=STAFF.match)),
        ("v2",),
    ),
    "promotion": (canary, transitions.promote, ("v2",)),
    "rollback": (canary, transitions.rollback, ("v1",)),
    "shadow": (
        lambda now: now,
        lambda now: transitions.start(now, a_release("shadow", "v2"), TrafficRequest(mirror=5)),
        ("v2",),
    ),
    "route of its own": (lambda now: now, lambda now: policies.set_rule(now, STAFF), ("v3",)),
    "route of its own that leads elsewhere": (
        lambda now: policies.set_rule(now, STAFF),
        lambda now: policies.set_rule(now, replace(STAFF, deployment="v2")),
        ("v2",),
    ),
    "end of a route of its own, whose users fall to the split": (
        lambda now: policies.set_rule(now, STAFF),
        lambda now: policies.remove_rule(now, "staff"),
        ("v1",),
    ),
    "end of requests of its own": (
        lambda now: transitions.start(now, a_release(), TrafficRequest(match=STAFF.match)),
        transitions.abort,
        ("v1",),
    ),
    "nothing": (canary, lambda now: now, ()),
    "a setting": (canary, lambda now: policies.set_policy(now, PolicyRequest(changes={"timeout": "2s"})), ()),
    "the end of a maintenance": (
        lambda now: policies.set_policy(now, PolicyRequest(changes={"maintenance": {"status": 503}})),
        lambda now: policies.set_policy(now, PolicyRequest(changes={"maintenance": None})),
        ("v1",),
    ),
}


@pytest.mark.parametrize("row", ROW)
def test_who_gains(row: str) -> None:
    before, verb, names = ROW[row]
    endpoint = before(an_endpoint())
    assert gaining(endpoint, verb(endpoint)) == names


def test_every_arm_of_an_ab_test_gains() -> None:
    before = an_endpoint()
    after = by_header(before)
    assert sorted(gaining(before, after)) == ["v1", "v2"]


def edited(obj: Object, *, without: str) -> Object:
    """The object after somebody took our routes of a kind away."""
    result = copy.deepcopy(obj)
    http: list[Any] = result["spec"]["http"]
    result["spec"]["http"] = [route for route in http if f".churn.{without}" not in str(route.get("name"))]
    assert len(result["spec"]["http"]) < len(http)
    return result


def test_who_gains_is_known_without_header_routes() -> None:
    obj = edited(changed(carrying(an_endpoint()), canary(an_endpoint()), a_stamp("c1")), without="pin.")
    now = read_endpoint(obj, "churn")
    assert (now.traffic.pins, now.missing) == (("v1", "v2", "v3"), ("pin.v1", "pin.v2", "pin.v3"))
    assert gaining(now, transitions.promote(now)) == ("v2",)


def test_a_header_route_that_somebody_took_away_comes_back_with_the_next_write() -> None:
    obj = carrying(an_endpoint())
    assert write_endpoint(edited(obj, without="pin."), read_endpoint(edited(obj, without="pin."), "churn")) == obj


def test_a_header_route_that_leads_elsewhere_or_stands_below_counts_as_missing() -> None:
    bent = copy.deepcopy(carrying(an_endpoint()))
    (route,) = [route for route in bent["spec"]["http"] if route["name"].endswith("pin.v2")]
    route["route"][0]["destination"]["subset"] = "v1"
    assert read_endpoint(bent, "churn").missing == ("pin.v2",)
    below = copy.deepcopy(carrying(an_endpoint()))
    below["spec"]["http"].sort(key=lambda route: route["name"].endswith("pin.v2"))
    assert read_endpoint(below, "churn").missing == ("pin.v2",)


def test_a_route_of_its_own_that_somebody_took_away_comes_back_only_for_who_asks() -> None:
    obj = carrying(policies.set_rule(an_endpoint(), STAFF))
    lost = edited(obj, without="rule.")
    now = read_endpoint(lost, "churn")
    assert (now.missing, gaining(now, now)) == (("rule.staff",), ())
    assert write_endpoint(lost, now) == lost, "its deployment may be gone"
    assert gaining(now, with_every_route(now)) == ("v3",)
    assert write_endpoint(lost, with_every_route(now)) == obj
    asked = policies.set_rule(now, STAFF)
    assert gaining(now, asked) == ("v3",)
    assert write_endpoint(lost, asked) == obj


def test_an_object_of_an_earlier_version_leaves_deployments_to_routes_and_the_open_release() -> None:
    obj = changed(carrying(an_endpoint()), canary(an_endpoint()), a_stamp("c1"))
    older = copy.deepcopy(obj)
    assert older["metadata"]["annotations"].pop("mlflow-istio.org/deployed.churn") == '["v1","v2","v3"]'
    assert read_endpoint(older, "churn") == read_endpoint(obj, "churn")
    assert read_endpoint(edited(older, without="pin."), "churn").traffic.pins == ("v2",)
