"""Where a route and a destination treat one header, who has it rests on how many destinations there are: held against Envoy."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.policy.header_rules import meetings, portable

EXPECTED = {  # of a route's and its destination's operation: whether they meet, and whether their number matters
    ("set", "set"): (True, True),
    ("set", "add"): (True, True),
    ("set", "remove"): (True, False),
    ("add", "set"): (True, False),
    ("add", "add"): (False, False),
    ("add", "remove"): (True, False),
    ("remove", "set"): (True, True),
    ("remove", "add"): (True, True),
    ("remove", "remove"): (False, False),
}


def rules(operation: str, value: str, name: str = "x-a") -> dict[str, Any]:
    return {operation: [name] if operation == "remove" else {name: value}}


@pytest.mark.parametrize(("route", "destination"), EXPECTED)
def test_set_add_and_remove_of_one_header_meet(route: str, destination: str) -> None:
    """As a real Envoy carried them out, with routes as istiod writes them."""
    for side in ("request", "response"):
        found = list(meetings({side: rules(route, "route")}, {side: rules(destination, "destination", "X-A")}, "web"))
        meet, by_number = EXPECTED[route, destination]
        assert [one.by_number for one in found] == ([by_number] if meet else [])


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
