"""Where a route and a destination treat one header, who has it rests on how many destinations there are: held against Envoy."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.policy.header_rules import meetings, portable
from tests.corpus import answers
from tests.corpus.cases import load

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


def recorded(case: str, header: str) -> list[str]:
    """What the model saw of a header behind the real istiod and Envoy."""
    ((answered,),) = [one["answers"] for one in answers.recorded("headers")[case]]
    return sorted(line for line in answered["seen"]["headers"] if line.startswith(f"{header}:"))


@pytest.mark.parametrize("header", ["x-set", "x-add", "x-a", "x-b"])
def test_its_value_rests_on_the_number_of_destinations_where_it_does_behind_the_real_istiod(header: str) -> None:
    cases = [f"headers-of-a-route-and-of-its-destination{end}" for end in ("", "s")]
    one, several = (recorded(case, header) for case in cases)
    route = next(found for found in load() if found.name == cases[0]).http[0]
    found = meetings(route["headers"], route["route"][0]["headers"], "a")
    by_number = {meeting.header for meeting in found if meeting.side == "request" and meeting.by_number}
    assert (header in by_number) == (one != several)


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
