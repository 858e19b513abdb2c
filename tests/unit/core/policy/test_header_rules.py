"""Where a route and a destination treat one header, who has it rests on how many destinations there are: held against Envoy."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlflow_istio.core.policy.header_rules import meetings, portable
from tests.corpus import answers
from tests.corpus.cases import load

OPERATIONS = ("set", "add", "remove")
PAIRS = list(itertools.product(OPERATIONS, OPERATIONS))


def rules(operation: str, value: str, name: str = "x-a") -> dict[str, Any]:
    return {operation: [name] if operation == "remove" else {name: value}}


def recorded(case: str) -> dict[str, list[Any]]:
    """Path to what the model saw and what the caller got of x-a, as the real Envoy had it, for a header that was sent and none."""
    (found,) = [one for one in load() if one.name == case]
    seen: dict[str, list[Any]] = {}
    for request, answered in zip(found.requests, answers.recorded("headers")[case], strict=True):
        (answer,) = answered["answers"]
        both = [answer["seen"]["headers"], answer.get("headers", [])]
        seen.setdefault(request.path, []).append(
            [sorted(one for one in lines if one.startswith("x-a:")) for lines in both]
        )
    return seen


@pytest.mark.parametrize(("route", "destination"), PAIRS)
def test_a_header_meets_and_its_value_rests_on_the_number_of_destinations_as_the_real_envoy_has_it(
    route: str, destination: str
) -> None:
    path = f"/{route}-{destination}"
    one = recorded("header-levels-of-one-destination")[path]
    several = recorded("header-levels-of-several-destinations")[path]
    for side in ("request", "response"):
        found = list(meetings({side: rules(route, "route")}, {side: rules(destination, "destination", "X-A")}, "web"))
        assert [meeting.by_number for meeting in found] == ([one != several] if found else [])
        assert bool(found) == (route != destination or route == "set")
        assert found or one == several


def test_a_meeting_says_who_says_what() -> None:
    (found,) = meetings(
        {"response": {"set": {"x-tenant": "a"}}}, {"response": {"set": {"X-Tenant": "b"}, "remove": ["server"]}}, "web"
    )
    assert str(found) == (
        "response header 'x-tenant': the route says set x-tenant: 'a', and its destination 'web' set X-Tenant: 'b'; Envoy goes "
        "by the destination where it is the only one, and by the route where there are several"
    )


@pytest.mark.parametrize(
    ("route", "destination"),
    [
        (None, {"request": {"set": {"x-a": "1"}}}),
        ({"request": {"set": {"x-a": "1"}}}, {"response": {"set": {"x-a": "2"}}}),
        ({"request": {"set": {"x-a": "1"}}}, {"request": {"set": {"X-A": "1"}}}),
        ({"request": {"add": {"x-a": "1"}}}, {"request": {"add": {"x-a": "2"}}}),
        ({"request": {"remove": ["x-a"]}}, {"request": {"remove": ["X-A"]}}),
        ({"request": None}, {"request": {"set": None}}),
    ],
)
def test_what_comes_out_the_same_is_none(route: Any, destination: Any) -> None:
    assert list(meetings(route, destination, "web")) == []


def test_what_a_deployment_can_not_have_of_an_owners_destination_is_named() -> None:
    headers = {
        "request": {"set": {"Host": "web.example", "x-a": "1"}, "remove": ["x-b"]},
        "response": {"add": {"Set-Cookie": "a=b"}},
    }
    assert portable(headers, sticky=False) == (
        {"request": {"set": {"x-a": "1"}, "remove": ["x-b"]}, "response": {"add": {"Set-Cookie": "a=b"}}},
        ("request set Host",),
    )
    assert portable(headers, sticky=True) == (
        {"request": {"set": {"x-a": "1"}, "remove": ["x-b"]}},
        ("request set Host", "response add Set-Cookie"),
    )
    assert portable(None, sticky=True) == ({}, ())
