"""A key keeps callers at a gateway from pinned routes and the probe's, and stands nowhere else than in the mesh."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_istio.core.endpoint.endpoint import guard_of
from mlflow_istio.core.matching.pin_guard import (
    KEY_HEADER,
    OPEN,
    guard_match,
    has_gateway,
    is_key,
    key_headers,
    without_keys,
)
from mlflow_istio.core.matching.requests import Request, evaluate
from mlflow_istio.core.mesh.export import as_in_git
from mlflow_istio.core.mesh.virtual_service import read_endpoint, routes_of, with_guard, write_endpoint
from mlflow_istio.errors import InvalidInput, masked
from mlflow_istio.releases.context import new_key
from tests.support.in_memory import with_canary

KEY = "mik_" + "0123456789abcdef" * 2


def guarded(guard: str | None = KEY):
    """The VirtualService of an endpoint with a canary, and what guards it."""
    virtual_service = with_canary().cluster.get("VirtualService", "churn")
    assert virtual_service is not None
    return write_endpoint(virtual_service, replace(read_endpoint(virtual_service, "churn"), guard=guard))


def matches(virtual_service, part: str):
    return [
        match["headers"]
        for route in routes_of(virtual_service)
        if f".{part}" in str(route.get("name"))
        for match in route["match"]
    ]


def test_pins_and_the_probe_ask_for_the_key_and_the_split_does_not():
    virtual_service = guarded()
    for part in ("pin.", "probe"):
        found = matches(virtual_service, part)
        assert found
        assert all(headers[KEY_HEADER] == {"exact": KEY} for headers in found)
    assert "match" not in routes_of(virtual_service)[-1]


def test_the_key_goes_no_further_than_the_proxy():
    pins = [route for route in routes_of(guarded()) if ".pin." in route["name"]]
    assert all(KEY_HEADER in route["headers"]["request"]["remove"] for route in pins)


@pytest.mark.parametrize("guard", [None, OPEN])
def test_where_pins_are_open_nothing_is_asked_for(guard):
    assert KEY_HEADER not in json.dumps(guarded(guard))
    assert key_headers(guard) == {}


def test_it_is_read_back_as_it_was_written():
    virtual_service = guarded()
    endpoint = read_endpoint(virtual_service, "churn")
    assert (endpoint.guard, guard_of(virtual_service, "churn")) == (KEY, KEY)
    assert write_endpoint(virtual_service, endpoint) == virtual_service
    assert KEY not in repr(endpoint)


def test_what_comes_back_from_git_lets_nobody_through_and_gets_another_key():
    back = as_in_git(guarded(), "churn")
    assert KEY not in json.dumps(back)
    endpoint = read_endpoint(back, "churn")
    assert not is_key(endpoint.guard)
    assert guard_match(endpoint.guard) == {KEY_HEADER: {"regex": "$masked"}}
    assert all(headers[KEY_HEADER] == {"regex": "$masked"} for headers in matches(back, "pin."))
    assert matches(write_endpoint(back, endpoint), "pin.") == matches(back, "pin.")


class Fresh:
    fresh_key = KEY


@pytest.mark.parametrize(
    ("guard", "gateways", "expected"),
    [
        (None, ["istio-system/front"], KEY),
        (None, ["istio-system/front", "mesh"], KEY),
        (None, ["mesh"], None),
        (None, [], None),
        (OPEN, ["istio-system/front"], OPEN),
        ("mik_***", [], KEY),
        ("mik_" + "f" * 32, ["istio-system/front"], "mik_" + "f" * 32),
    ],
)
def test_an_endpoint_at_a_gateway_gets_a_key_unless_somebody_said_open(guard, gateways, expected):
    endpoint = replace(read_endpoint(guarded(), "churn"), guard=guard)
    assert with_guard(endpoint, Fresh(), {"spec": {"gateways": gateways}}).guard == expected


def test_a_delegate_is_guarded_by_the_gateway_of_its_root():
    assert not has_gateway({})
    endpoint = replace(read_endpoint(guarded(), "churn"), guard=None)
    assert with_guard(endpoint, Fresh(), {"spec": {}}, {"spec": {"gateways": ["front"]}}).guard == KEY


def test_keys_are_masked_in_every_text_and_value():
    assert is_key(new_key())
    assert new_key() != new_key()
    assert masked(f"header {KEY}, twice {KEY}") == "header mik_***, twice mik_***"
    assert KEY not in InvalidInput(f"bad {KEY}").message
    value = {"env": [{"name": "A", "value": KEY}, {"name": "B", "value": "b"}], "text": f"x {KEY}", "m": {"exact": KEY}}
    assert without_keys(value) == {"env": [{"name": "B", "value": "b"}], "text": "x mik_***", "m": {"regex": "$masked"}}


def test_an_explanation_says_that_a_key_is_asked_for_and_not_which():
    route = next(route for route in routes_of(guarded()) if ".pin." in route["name"])
    said = " ".join(map(str, evaluate(route["match"][0], Request(headers={"x-mlflow-deployment": "churn-v1"}))))
    assert KEY_HEADER in said
    assert KEY not in said


def test_whoever_pins_asks_for_the_key_in_one_place():
    """``releases.context.pin_headers``; a view shows the header alone, and the records are read with what they are given."""
    package = Path(__file__).parents[4] / "mlflow_istio"
    above = [
        path
        for room in ("adapters", "calls", "releases", "verbs", "client", "cli")
        for path in (package / room).rglob("*.py")
    ]
    pinning = {
        path.relative_to(package).as_posix() for path in above if "PIN_HEADER" in path.read_text(encoding="utf-8")
    }
    assert pinning == {"releases/context.py", "releases/reading/views.py", "adapters/records.py"}
