"""Whose requests are whose under a shared host: refused when taken, ordered by how specific they are, removed one by one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.moves.claims import Claim, claimed, claims_in, released
from mlflow_istio.errors import InvalidInput, StateConflict

REST: Object = {"name": "rest", "route": [{"destination": {"host": "rest"}}]}
CHAT = Claim(path="/api/v1/chat")


def root(*http: Object, **spec: Any) -> Object:
    return {
        "kind": "VirtualService",
        "metadata": {"name": "models"},
        "spec": {"hosts": ["models.example"], "http": list(http), **spec},
    }


def delegates(obj: Object) -> list[str]:
    return [route.get("delegate", {}).get("name", route.get("name", "?")) for route in obj["spec"]["http"]]


def test_a_path_is_scoring_itself_and_keeps_what_is_below_it() -> None:
    assert claimed(root(), "chat", CHAT)["spec"]["http"] == [
        {
            "match": [{"uri": {"exact": "/api/v1/chat"}}],
            "rewrite": {"uri": "/invocations"},
            "delegate": {"name": "chat"},
        },
        {"match": [{"uri": {"prefix": "/api/v1/chat/"}}], "rewrite": {"uri": "/"}, "delegate": {"name": "chat"}},
    ]


def test_a_header_alone_rewrites_nothing() -> None:
    claim = Claim(header=("model-version", "x"))
    assert claimed(root(), "chat", claim)["spec"]["http"] == [
        {"match": [{"headers": {"model-version": {"exact": "x"}}}], "delegate": {"name": "chat"}}
    ]


CLAIMS = {
    "deep": Claim(path="/api/v1/chat/long"),
    "both": Claim(path="/api/v1/chat", header=("model-version", "x")),
    "path": Claim(path="/api/v1/chat"),
    "short": Claim(path="/api"),
    "header-a": Claim(header=("model-version", "a")),
    "header-b": Claim(header=("model-version", "b")),
}


@pytest.mark.parametrize("order", list(itertools.permutations(CLAIMS))[::37])
def test_the_most_specific_stands_first_whatever_the_order_of_creation(order: tuple[str, ...]) -> None:
    now = root(REST)
    for name in order:
        now = claimed(now, name, CLAIMS[name])
    assert list(dict.fromkeys(delegates(now))) == [*CLAIMS, "rest"]
    assert claims_in(now) == CLAIMS
    for name in order:
        before = [route for route in now["spec"]["http"] if route.get("delegate", {}).get("name") != name]
        now = released(now, name)
        assert now["spec"]["http"] == before
    assert now == root(REST)


def test_they_stand_below_the_owners_own_matches_and_above_what_takes_everything() -> None:
    docs: Object = {"name": "docs", "match": [{"uri": {"prefix": "/docs"}}], "route": []}
    assert delegates(claimed(root(docs, REST), "chat", CHAT)) == ["docs", "chat", "chat", "rest"]
    assert delegates(claimed(root(docs), "chat", CHAT)) == ["docs", "chat", "chat"]


def test_they_stand_above_the_routes_of_an_endpoint_whose_host_it_is() -> None:
    own = [{"name": f"mlflow-istio.models.{part}", "match": [{}], "route": []} for part in ("probe", "pin.v1")]
    split: Object = {"name": "mlflow-istio.models.split", "route": []}
    found = delegates(claimed(root(*own, split), "chat", CHAT))
    assert found == [
        "chat",
        "chat",
        "mlflow-istio.models.probe",
        "mlflow-istio.models.pin.v1",
        "mlflow-istio.models.split",
    ]


THEIRS: Object = {"name": "support", "delegate": {"name": "chat", "namespace": "team-b"}}


def in_team_a(*http: Object) -> Object:
    obj = root(*http)
    return {**obj, "metadata": {**obj["metadata"], "namespace": "team-a"}}


@pytest.mark.parametrize(
    "theirs",
    [
        THEIRS,
        {**THEIRS, "match": [{"uri": {"prefix": "/support"}}]},
        {"delegate": {"name": "chat", "namespace": "team-b"}},
        {"name": "vip", "match": [{"uri": {"prefix": "/vip"}}], "delegate": {"name": "chat"}},
        {"match": [{"uri": {"prefix": "/support"}}], "delegate": {"name": "chat"}},
        {"match": [{"uri": {"prefix": "/support"}}], "timeout": "3s", "delegate": {"name": "chat", "namespace": ""}},
        {"match": [{"uri": {"exact": "/api/v1/chat"}, "port": 81}], "delegate": {"name": "chat"}},
        {"name": "vip", "match": [{"uri": {"prefix": "/vip"}}], "delegate": {"name": "chat", "namespace": "team-a"}},
    ],
)
def test_a_route_of_the_owners_that_delegates_to_one_of_that_name_is_neither_moved_nor_taken_away(
    theirs: Object,
) -> None:
    docs: Object = {"name": "docs", "match": [{"uri": {"prefix": "/docs"}}], "route": []}
    before = in_team_a(docs, theirs, REST)
    claims = {"chat": CHAT, "deep": CLAIMS["deep"], "header": CLAIMS["header-a"]}
    now = before
    for name, claim in claims.items():
        now = claimed(now, name, claim)
    assert [route for route in now["spec"]["http"] if "name" in route or route == theirs] == [docs, theirs, REST]
    assert claimed(now, "chat", CHAT) is now
    assert claims_in(now) == claims
    for name in claims:
        now = released(now, name)
    assert now == before


def test_a_name_that_the_owner_gave_to_what_stands_there_makes_it_nobody_elses() -> None:
    now = claimed(in_team_a(REST), "chat", CHAT)
    now["spec"]["http"] = [{**route, "name": f"r{n}"} for n, route in enumerate(now["spec"]["http"])]
    assert claimed(now, "chat", CHAT) is now
    assert [route["name"] for route in released(now, "chat")["spec"]["http"]] == ["r2"]


@pytest.mark.parametrize("change", [{"name": "mine"}, {}])
def test_one_of_ours_whose_match_the_owner_changed_is_the_owners_from_then_on(change: Object) -> None:
    now = claimed(in_team_a(REST), "chat", CHAT)
    scoring, below, rest = now["spec"]["http"]
    changed = {**scoring, **change, "match": [{"uri": {"exact": "/api2"}}]}
    now["spec"]["http"] = [changed, below, rest]
    assert released(now, "chat") == in_team_a(changed, REST)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_ours_with_a_damaged_annotation_go_and_the_owners_stays(claim: Claim) -> None:
    theirs: Object = {"match": [{"uri": {"prefix": "/support"}}], "delegate": {"name": "chat"}}
    broken = claimed(in_team_a(theirs, REST), "chat", claim)
    assert len(broken["spec"]["http"]) > 2
    broken["metadata"]["annotations"]["mlflow-istio.org/delegate.chat"] = "{"
    assert released(broken, "chat") == in_team_a(theirs, REST)


EVERYTHING: dict[str, Any] = {
    "a name in its match": [{"name": "all", "uri": {"prefix": "/"}}],
    "nothing, by name": [{"name": "all"}],
    "a regex": [{"uri": {"regex": ".*"}}],
    "another regex": [{"uri": {"regex": "^/(.*)$"}}],
    **{
        f"the regex {regex}": [{"uri": {"regex": regex}}]
        for regex in ("[/].*", r"\/.*", ".{0,}", ".*.*", "/|/.*", r"[\s\S]*", "(?s).*", "(/.*)?", "/[^?]*", ".+?")
    },
    "both schemes": [{"scheme": {"regex": "https?"}}],
    "each method": [{"method": {"regex": "GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS"}}],
    "any host": [{"authority": {"regex": ".*"}}],
    "an empty prefix": [{"uri": {"prefix": ""}}],
    "any path": [{"uri": {}}],
    "any method": [{"method": {"regex": ".*"}, "uri": {"prefix": "/"}, "ignoreUriCase": True}],
    "one of two": [{"uri": {"prefix": "/docs"}}, {}],
    "empty parts": [{"headers": {}, "withoutHeaders": {}, "queryParams": {}, "sourceLabels": {}, "port": 0}],
    "its only host": [{"authority": {"exact": "models.example"}}],
    "its only gateway": [{"gateways": ["mesh"], "sourceLabels": {"app": "web"}}],
}


@pytest.mark.parametrize("match", EVERYTHING.values(), ids=list(EVERYTHING))
def test_they_stand_above_what_takes_everything_in_whichever_words(match: Any) -> None:
    rest = {**REST, "match": match}
    assert delegates(claimed(root(rest), "chat", CHAT)) == ["chat", "chat", "rest"]


ASIDE: dict[str, tuple[Any, dict[str, Any]]] = {
    "another host": ([{"authority": {"exact": "admin.example"}}], {"hosts": ["admin.example", "models.example"]}),
    "a host below a wildcard": ([{"authority": {"exact": "admin.example"}}], {"hosts": ["*.example"]}),
    "another gateway": ([{"gateways": ["mesh"]}], {"gateways": ["mesh", "infra/front"]}),
    "another scheme": ([{"scheme": {"exact": "https"}}], {}),
    "a port": ([{"port": 8443}], {}),
    "some callers": ([{"sourceNamespace": "web", "uri": {"prefix": "/api"}}], {}),
    "a header": ([{"headers": {"X-Team": {"regex": "*"}}}], {}),
    "a query": ([{"queryParams": {"debug": {}}}], {}),
}


@pytest.mark.parametrize(("match", "spec"), ASIDE.values(), ids=list(ASIDE))
def test_what_can_not_take_their_requests_stays_above_them(match: Any, spec: dict[str, Any]) -> None:
    aside: Object = {"name": "aside", "match": match, "route": []}
    assert delegates(claimed(root(aside, REST, **spec), "chat", CHAT)) == ["aside", "chat", "chat", "rest"]


TAKEN: dict[str, tuple[Any, str]] = {
    "its path": ([{"uri": {"prefix": "/api"}}], r"route 'taker' \(uri prefix '/api'\) takes"),
    "all but the docs": ([{"uri": {"regex": "/[^d].*"}}], r"route 'taker' \(uri regex '/\[\^d\].\*'\) takes"),
    "its gateway": (
        [{"gateways": ["front.infra"], "uri": {"prefix": "/api"}}],
        "gateways .'infra/front'. and uri prefix",
    ),
    "all but what starts so": ([{"uri": {"regex": "/([^d].*)?"}}], "uri regex"),
    "short ones": ([{"uri": {"regex": "/.{0,200}"}}], "uri regex"),
    "two methods": ([{"method": {"regex": "GET|POST"}}], "method regex"),
    "one method": ([{"method": {"exact": "POST"}}], "method exact 'POST'"),
    "whoever has no header": ([{"withoutHeaders": {"x-a": {"regex": "*"}}}], r"withoutHeaders\[x-a\] any value"),
}


@pytest.mark.parametrize(("match", "words"), TAKEN.values(), ids=list(TAKEN))
def test_what_takes_their_requests_is_refused_by_name_and_field(match: Any, words: str) -> None:
    taker: Object = {"name": "taker", "match": match, "route": []}
    with pytest.raises(
        StateConflict, match=rf"{words}.*/api/v1/chat already: choose another path or header, or let that"
    ):
        claimed(root(taker, REST, gateways=["infra/front"]), "chat", CHAT)
    below = claimed(root(REST, taker, gateways=["infra/front"]), "chat", CHAT)
    assert delegates(below) == ["chat", "chat", "rest", "taker"]


def test_a_host_that_one_route_leaves_and_another_takes_is_no_way_in() -> None:
    hosts = ["a.example", "b.example"]
    each: list[Object] = [{"name": host[0], "match": [{"authority": {"prefix": host}}], "route": []} for host in hosts]
    assert delegates(claimed(root(each[0], hosts=hosts), "chat", CHAT)) == ["a", "chat", "chat"]
    with pytest.raises(StateConflict, match=r"route 'a' \(authority prefix 'a.example'\) takes"):
        claimed(root(*each, hosts=hosts), "chat", CHAT)


def test_claiming_again_and_releasing_twice_change_nothing() -> None:
    once = claimed(root(REST), "chat", CHAT)
    assert claimed(once, "chat", CHAT) is once
    assert released(released(once, "chat"), "chat") == root(REST)


def test_what_belongs_to_another_is_refused() -> None:
    now = claimed(root(REST), "chat", CHAT)
    with pytest.raises(
        StateConflict, match="endpoint 'other' can't have /api/v1/chat, which belongs to endpoint 'chat'"
    ):
        claimed(now, "other", CHAT)
    with pytest.raises(StateConflict, match="endpoint 'chat' has /api/v1/chat and can't have /b"):
        claimed(now, "chat", Claim(path="/b"))
    theirs: Object = {"name": "theirs", "match": [{"uri": {"prefix": "/api"}}], "route": []}
    with pytest.raises(StateConflict, match=r"route 'theirs' \(uri prefix '/api'\) takes /api/v1/chat already"):
        claimed(root(theirs, REST), "chat", CHAT)
    with pytest.raises(StateConflict, match="is itself a delegate"):
        claimed(root(REST, hosts=[]), "chat", CHAT)


@pytest.mark.parametrize("turned", [False, True])
def test_one_that_takes_scoring_requests_of_another_is_refused_naming_both(turned: bool) -> None:
    claims = {"chat": CHAT, "thief": Claim(path="/api/v1/chat/invocations")}
    first, second = sorted(claims, reverse=turned)
    words = (
        f"endpoint '{second}' can't have {claims[second]} beside endpoint '{first}', which has {claims[first]}: "
        "/api/v1/chat/invocations takes scoring requests of /api/v1/chat: choose"
    )
    with pytest.raises(StateConflict, match=words):
        claimed(claimed(root(REST), first, claims[first]), second, claims[second])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give 'path' or 'match_header'"),
        ({"path": "api"}, "path 'api' is not valid"),
        ({"path": "/"}, "is not valid"),
        ({"path": "/a/../b"}, "is not valid"),
        ({"path": "/a?b"}, "is not valid"),
        ({"path": "/invocations"}, "every model is scored"),
        ({"header": ("model version", "x")}, "is not valid"),
        ({"header": ("x-mlflow-deployment", "x")}, "has a meaning of its own"),
        ({"header": ("cookie", "x")}, "has a meaning of its own"),
        ({"header": ("x", "")}, "that a header carries"),
    ],
)
def test_a_claim_that_can_not_be_matched_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Claim(**fields)


def test_a_damaged_claim_is_named() -> None:
    broken = claimed(root(REST), "chat", CHAT)
    broken["metadata"]["annotations"]["mlflow-istio.org/delegate.chat"] = "{"
    with pytest.raises(InvalidInput, match=r"annotation mlflow-istio.org/delegate.chat is damaged"):
        claims_in(broken)
