"""Requests that reach an adopted route are made up from its match, and refused where none can be."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.entrance import Entrance, entrance_at
from mlflow_istio.core.matching.probe import pin_probe
from mlflow_istio.errors import InvalidInput


def entrance(*above: Object, **fields: Any) -> Entrance:
    mine = {"name": "main", "route": [{"destination": {"host": "web"}}], **fields}
    obj = {"kind": "VirtualService", "metadata": {"name": "shop"}, "spec": {"http": [*above, mine]}}
    return entrance_at(obj, mine)


def uri(**match: str) -> list[Object]:
    return [{"uri": match}]


TABLE: dict[str, tuple[dict[str, Any], str, dict[str, str], str]] = {
    "prefix that scoring has": ({"match": uri(prefix="/inv")}, "/invocations", {}, "GET"),
    "exact scoring": ({"match": uri(exact="/invocations")}, "/invocations", {}, "GET"),
    "prefix cut off": ({"match": uri(prefix="/api"), "rewrite": {"uri": "/"}}, "/api/invocations", {}, "GET"),
    "prefix cut off, slash": ({"match": uri(prefix="/api/"), "rewrite": {"uri": "/"}}, "/api/invocations", {}, "GET"),
    "prefix replaced": ({"match": uri(prefix="/api"), "rewrite": {"uri": "/invocations"}}, "/api", {}, "GET"),
    "exact replaced": ({"match": uri(exact="/chat"), "rewrite": {"uri": "/invocations"}}, "/chat", {}, "GET"),
    "regex rewrite": (
        {
            "match": uri(prefix="/v1"),
            "rewrite": {"uriRegexRewrite": {"match": "^/v1(/.*)$", "rewrite": "\\1"}},
        },
        "/v1/invocations",
        {},
        "GET",
    ),
    "uri regex": ({"match": uri(regex="/(invocations|ping)")}, "/invocations", {}, "GET"),
    "header": ({"match": [{"headers": {"X-Tier": {"exact": "gold"}}}]}, "/invocations", {"x-tier": "gold"}, "GET"),
    "header there": ({"match": [{"headers": {"x-tier": {}}}]}, "/invocations", {"x-tier": "1"}, "GET"),
    "header prefix": ({"match": [{"headers": {"x": {"prefix": "a"}}}]}, "/invocations", {"x": "a"}, "GET"),
    "header regex": ({"match": [{"headers": {"x": {"regex": "^gold.*"}}}]}, "/invocations", {"x": "gold"}, "GET"),
    "method": ({"match": [{"method": {"exact": "POST"}}]}, "/invocations", {}, "POST"),
    "authority": ({"match": [{"authority": {"exact": "a.example"}}]}, "/invocations", {"Host": "a.example"}, "GET"),
    "query": ({"match": [{"queryParams": {"v": {"exact": "2"}}}]}, "/invocations?v=2", {}, "GET"),
    "second of two": (
        {"match": [{"headers": {"x": {"regex": "[0-9]{7}"}}}, {"uri": {"prefix": "/"}}]},
        "/invocations",
        {},
        "GET",
    ),
    "gateways and port": ({"match": [{"gateways": ["g"], "port": 80}]}, "/invocations", {}, "GET"),
}


@pytest.mark.parametrize(("fields", "path", "headers", "method"), TABLE.values(), ids=list(TABLE))
def test_a_request_that_the_match_takes(fields: Any, path: str, headers: dict[str, str], method: str) -> None:
    found = entrance(**fields)
    assert (found.scoring, dict(found.headers), found.method) == (path, headers, method)
    assert found.probe_path == path


def test_a_route_without_a_match_takes_any_request() -> None:
    assert entrance() == Entrance(virtual_service="shop")
    probe = pin_probe("churn", "v1", "churn/1")
    assert entrance().through(probe).path == "/ping"
    assert entrance().through(probe).virtual_service == "shop"


def test_a_path_that_a_route_above_takes_is_not_used() -> None:
    above = {"name": "docs", "match": uri(prefix="/invocations"), "route": [{"destination": {"host": "docs"}}]}
    both = [{"uri": {"prefix": "/invocations"}}, {"uri": {"prefix": "/m"}}]
    assert entrance(above, match=both).scoring == "/m/invocations"


def test_where_no_path_becomes_invocations_the_path_that_is_handed_on_is_told() -> None:
    found = entrance(match=uri(prefix="/api"))
    assert (found.scoring, found.handed_on) == ("/api/invocations", "/api/invocations")
    assert entrance(match=uri(exact="/chat")).handed_on == "/chat"
    assert entrance(match=uri(prefix="/m"), rewrite={"uri": "/invocations"}).handed_on == "/invocations"
    broken = {"rewrite": {"uriRegexRewrite": {"match": "(", "rewrite": ""}}}
    assert entrance(match=uri(prefix="/m"), **broken).handed_on is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"match": [{"sourceNamespace": "web"}]}, "matches on sourceNamespace"),
        ({"match": [{"headers": {"x": {"regex": "[0-9]{7}"}}}]}, "matches on headers"),
        ({"match": uri(regex="/v[0-9]+/x")}, "matches on uri"),
        ({"match": [{"headers": {"x": {"regex": "("}}}]}, "matches on headers"),
    ],
)
def test_what_no_request_of_ours_reaches_is_refused(fields: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        entrance(**fields)


def test_a_probe_through_a_match_carries_what_the_match_asks_for() -> None:
    found = entrance(
        match=[{"uri": {"prefix": "/api"}, "headers": {"x-tier": {"exact": "gold"}}}], rewrite={"uri": "/"}
    )
    probe = found.through(pin_probe("churn", "v1", "churn/1"))
    assert (probe.virtual_service, probe.path) == ("shop", "/api/invocations")
    assert probe.headers == {"x-tier": "gold", "x-mlflow-deployment": "v1"}
    version = {"x-mlflow-model-version": "churn/1"}
    assert probe.proved_by(405, version, "")
    assert not probe.proved_by(503, version, "")
    assert not probe.proved_by(405, {}, "")
