"""Requests that reach an adopted route are made up from its match, and refused where none can be."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.explanation import explain
from mlflow_istio.core.matching.coverage import is_catch_all
from mlflow_istio.core.matching.entrance import Entrance, entrance_at
from mlflow_istio.core.matching.places import placed
from mlflow_istio.core.matching.probe import Listeners, pin_probe
from mlflow_istio.core.matching.requests import Request
from mlflow_istio.errors import InvalidInput
from tests.corpus.cases import Case, load
from tests.testbed.gateway import NAME as GATEWAY


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


def shop(*above: Object, mine: list[Object] | None = None, **spec: Any) -> Entrance:
    """The entrance of a route of a VirtualService with hosts and gateways."""
    main = {"name": "main", "route": [{"destination": {"host": "web"}}], **({"match": mine} if mine else {})}
    whole = {"hosts": ["shop.example"], "gateways": ["front", "mesh"], **spec, "http": [*above, main]}
    obj = {"kind": "VirtualService", "metadata": {"name": "shop", "namespace": "team-a"}, "spec": whole}
    return entrance_at(obj, main)


def other(*match: Object, **more: Any) -> Object:
    return {"name": "other", **({"match": list(match)} if match else {}), "route": [], **more}


API = uri(prefix="/api")
HTTPS, PLAIN = Listeners(taking=(("https", 0),)), Listeners(taking=(("http", 0),))
DOORS: dict[str, tuple[list[Object], list[Object], Listeners | None, tuple[str, ...] | None]] = {
    "https alone": ([], [{"scheme": {"exact": "https"}}], HTTPS, ("team-a/front",)),
    "https as a header": ([], [{"headers": {":scheme": {"exact": "https"}}}], HTTPS, ("team-a/front",)),
    "https as a proxy says it": (
        [],
        [{"headers": {"X-Forwarded-Proto": {"exact": "https"}}}],
        HTTPS,
        ("team-a/front",),
    ),
    "not http": ([], [{"withoutHeaders": {":scheme": {"exact": "http"}}}], HTTPS, ("team-a/front",)),
    "http is sent elsewhere": ([other({"scheme": {"exact": "http"}})], [], HTTPS, ("team-a/front",)),
    "https goes elsewhere": ([other({"scheme": {"exact": "https"}})], [], PLAIN, None),
    "both, one after the other": (
        [other({"scheme": {"exact": "https"}, "uri": {"prefix": "/docs"}})],
        [{"scheme": {"regex": "https?"}}],
        None,
        None,
    ),
    "a port alone": ([], [{"port": 8443}], Listeners(named=(8443,), taking=(("http", 8443),)), None),
    "another port": (
        [other({"port": 8443})],
        [],
        Listeners(named=(8443,), taking=(("http", 0),)),
        None,
    ),
    "a port and a scheme": (
        [other({"port": 80})],
        [{"scheme": {"exact": "https"}, "port": 8443}],
        Listeners(named=(80, 8443), taking=(("https", 8443),)),
        ("team-a/front",),
    ),
    "sidecars alone": ([], [{"gateways": ["mesh"], "scheme": {"exact": "http"}}], None, ("mesh",)),
}


@pytest.mark.parametrize(("above", "mine", "listeners", "gateways"), DOORS.values(), ids=list(DOORS))
def test_a_probe_goes_where_the_route_takes_requests(
    above: list[Object], mine: list[Object], listeners: Listeners | None, gateways: tuple[str, ...] | None
) -> None:
    found = shop(*above, mine=mine)
    assert (found.listeners, found.gateways) == (listeners, gateways)
    assert found.through(pin_probe("churn", "v1", "churn/1")).listeners == listeners


def test_a_listener_that_is_not_known_gets_a_probe_only_where_all_take_it() -> None:
    at_8443 = Listeners(named=(80, 8443), taking=(("https", 8443),))
    assert [at_8443.has(*one) for one in (("https", 8443), ("http", 8443), ("https", 443), ("https", None))] == [
        *(True, False),
        *(False, False),
    ]
    assert HTTPS.has("https", None)
    assert not HTTPS.has("http", None)
    assert str(at_8443) == "https at port 8443"
    assert str(Listeners(named=(80,), taking=(("http", 0), ("https", 0)))) == "http or https at another port than 80"
    assert str(HTTPS) == "https"


PSEUDO: dict[str, tuple[Object, dict[str, str], str, str]] = {
    ":method": ({":method": {"exact": "DELETE"}}, {}, "DELETE", "/invocations"),
    ":path": ({":path": {"prefix": "/api"}}, {}, "GET", "/api/invocations"),
    ":path with a query": ({":path": {"exact": "/v1?user=ann"}}, {}, "GET", "/v1?user=ann"),
    ":authority": ({":authority": {"exact": "shop.example"}}, {"Host": "shop.example"}, "GET", "/invocations"),
    "host": ({"Host": {"prefix": "shop"}}, {"Host": "shop.example"}, "GET", "/invocations"),
}


@pytest.mark.parametrize(("asked", "headers", "method", "path"), PSEUDO.values(), ids=list(PSEUDO))
def test_what_a_match_asks_for_by_a_pseudo_header_is_no_header_of_a_request(
    asked: Object, headers: dict[str, str], method: str, path: str
) -> None:
    found = shop(mine=[{"headers": asked}])
    assert (found.headers, found.method, found.scoring) == (headers, method, path)


ASIDE: dict[str, tuple[Object, dict[str, Any], dict[str, str], tuple[str, ...] | None]] = {
    "another host": (
        other({"authority": {"exact": "admin.example"}}),
        {"hosts": ["shop.example", "admin.example"]},
        {},
        None,
    ),
    "the first host": (
        other({"authority": {"exact": "admin.example"}}),
        {"hosts": ["admin.example", "shop.example"]},
        {"Host": "shop.example"},
        None,
    ),
    "a host below a wildcard": (other({"authority": {"exact": "admin.example"}}), {"hosts": ["*.example"]}, {}, None),
    "sidecars": (other({"gateways": ["mesh"]}), {}, {}, ("team-a/front",)),
    "one gateway of two": (
        other({"gateways": ["back.team-a.svc.cluster.local"]}),
        {"gateways": ["back", "front"]},
        {},
        ("team-a/front",),
    ),
    "a gateway that is not its own": (other({"gateways": ["else/front"]}), {}, {}, None),
    "some callers": (other({"sourceLabels": {"app": "web"}}), {}, {}, None),
    "callers of a namespace": (other({"sourceNamespace": "web", "uri": {"prefix": "/"}}), {}, {}, None),
    "another port": (other({"port": 8443}), {}, {}, None),
    "https": (other({"scheme": {"exact": "https"}}), {}, {}, None),
    "an address that sidecars don't write": (other({"headers": {"x-forwarded-for": {}}}), {}, {}, ("mesh",)),
    "another request's id": (other({"headers": {"x-request-id": {"exact": "7"}}}), {}, {}, None),
    "who has a header": (other({"headers": {"X-A": {"regex": "*"}}}), {}, {}, None),
    "a token": (other({"headers": {"@request.auth.claims.team": {"exact": "a"}}}), {}, {}, None),
    "a delegate": (other(delegate={"name": "x", "namespace": "team-b"}), {}, {}, None),
    "one of ours": ({"name": "mlflow-istio.main.probe", "directResponse": {"status": 200}}, {}, {}, None),
}


@pytest.mark.parametrize("mine", [None, API], ids=["everything", "/api"])
@pytest.mark.parametrize(("above", "spec", "headers", "gateways"), ASIDE.values(), ids=list(ASIDE))
def test_a_route_above_that_can_not_take_our_requests_is_in_nobodys_way(
    above: Object, spec: Any, headers: dict[str, str], gateways: tuple[str, ...] | None, mine: list[Object] | None
) -> None:
    found = shop(above, mine=mine, **spec)
    assert (found.headers, found.gateways) == (headers, gateways)
    assert found.scoring == ("/api/invocations" if mine else "/invocations")
    probe = found.through(pin_probe("churn", "v1", "churn/1"))
    assert (probe.gateways, probe.headers) == (gateways, {**headers, "x-mlflow-deployment": "v1"})


TAKERS: dict[str, tuple[Object, dict[str, Any], str]] = {
    "everything": (other(), {}, "route 'other' (no match)"),
    "a prefix": (other({"uri": {"prefix": "/"}}), {}, "route 'other' (uri prefix '/')"),
    "one of two": (other({"uri": {"prefix": "/x"}}, {"uri": {"regex": ".*"}}), {}, "route 'other' (uri regex '.*')"),
    "without a name": ({"match": [{}], "route": []}, {}, "route 'spec.http[0]' (no match)"),
    "its only host": (
        other({"authority": {"prefix": "shop."}}),
        {},
        "route 'other' (authority prefix 'shop.')",
    ),
    "all its gateways": (
        other({"gateways": ["mesh", "front.team-a"], "sourceLabels": {"app": "web"}}),
        {},
        "route 'other' (gateways ['mesh', 'team-a/front']",
    ),
    "its scheme": (
        other({"scheme": {"exact": "http"}}),
        {"gateways": ["mesh"]},
        "route 'other' (scheme exact 'http')",
    ),
    "both schemes": (
        other({"scheme": {"exact": "http"}}, {"headers": {":scheme": {"exact": "https"}}}),
        {},
        "route 'other' (scheme exact 'http')",
    ),
    "a header that every proxy writes": (
        other({"headers": {"X-Request-Id": {}}}),
        {},
        "route 'other' (headers[X-Request-Id] any value)",
    ),
    "a header that gateways write": (
        other({"headers": {"x-forwarded-for": {}}}),
        {"gateways": ["front"]},
        "route 'other' (headers[x-forwarded-for] any value)",
    ),
    "pseudo headers": (
        other({"headers": {":method": {}, ":path": {"prefix": "/"}}}),
        {},
        "route 'other' (headers[:method] any value and headers[:path] prefix '/')",
    ),
    "all methods": (
        other({"method": {"exact": "GET"}}, {"method": {"regex": "POST|PUT"}}),
        {},
        "route 'other' (method exact 'GET')",
    ),
}


@pytest.mark.parametrize("mine", [None, API], ids=["everything", "/api"])
@pytest.mark.parametrize(("above", "spec", "words"), TAKERS.values(), ids=list(TAKERS))
def test_a_route_above_that_takes_our_requests_is_named_with_its_field(
    above: Object, spec: Any, words: str, mine: list[Object] | None
) -> None:
    with pytest.raises(InvalidInput) as refused:
        shop(above, mine=mine, **spec)
    assert f"reaches route 'main' ({'it matches on uri' if mine else 'it matches on nothing'})" in refused.value.message
    assert f"{words}" in refused.value.message
    assert refused.value.message.endswith("above it takes them: put it below, or let it match less")


@pytest.mark.parametrize("mine", [None, API], ids=["everything", "/api"])
@pytest.mark.parametrize(
    ("match", "method", "headers"),
    [
        ({"method": {"prefix": "G"}}, "POST", {}),
        ({"withoutHeaders": {"X-User": {"regex": "*"}}}, "GET", {"x-user": "1"}),
        ({"withoutHeaders": {"x-user": {}}, "method": {"exact": "GET"}}, "POST", {}),
        ({"withoutHeaders": {"x-user": {"prefix": "ann"}}}, "GET", {"x-user": "ann"}),
    ],
)
def test_a_route_above_that_leaves_scoring_or_who_has_a_header_is_passed(
    match: Object, method: str, headers: dict[str, str], mine: list[Object] | None
) -> None:
    found = shop(other(match), mine=mine)
    assert (found.method, found.headers) == (method, headers)
    assert found.probe_path == found.scoring == ("/api/invocations" if mine else "/invocations")


def test_a_route_above_that_wants_neither_a_header_nor_reading_is_passed_with_both() -> None:
    found = shop(other({"withoutHeaders": {"x-user": {}}}), other({"method": {"exact": "GET"}}))
    assert (found.method, found.headers, found.scoring) == ("POST", {"x-user": "1"}, "/invocations")


@pytest.mark.parametrize(
    ("above", "scoring"),
    [("/invocations", "/"), ("/ping", "/invocations"), ("/docs", "/invocations")],
)
def test_a_route_without_a_match_is_asked_where_nobody_above_takes_it(above: str, scoring: str) -> None:
    found = shop(other({"uri": {"exact": above}}))
    assert found.scoring == scoring
    assert found.probe_path == (None if above == "/docs" else scoring)


def test_a_match_on_a_host_is_asked_by_a_host_that_is_there() -> None:
    beta: list[Object] = [{"authority": {"prefix": "beta."}}]
    assert shop(mine=beta, hosts=["shop.example", "beta.shop.example"]).headers == {"Host": "beta.shop.example"}
    assert shop(mine=[{"authority": {"exact": "a.example"}}], hosts=["*.example"]).headers == {"Host": "a.example"}
    assert shop(mine=[{"authority": {"exact": "shop"}}], hosts=["shop"], gateways=["mesh"]).headers == {"Host": "shop"}
    with pytest.raises(InvalidInput, match="it matches on authority"):
        shop(mine=[{"authority": {"exact": "gone.example"}}])


def test_a_match_on_gateways_is_proved_at_those_alone() -> None:
    assert shop(mine=[{"gateways": ["./front"], "sourceLabels": {"app": "web"}}]).gateways == ("team-a/front",)
    with pytest.raises(InvalidInput, match="it matches on gateways"):
        shop(mine=[{"gateways": ["else/front"]}])


def test_the_absence_of_a_header_is_asked_for_by_not_sending_it() -> None:
    found = shop(mine=[{"withoutHeaders": {"x-preview": {"regex": "*"}}, "headers": {"x-user": {"regex": "*"}}}])
    assert found.headers == {"x-user": "1"}


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
        ({"match": [{"headers": {":status": {}}}]}, "matches on headers"),
        ({"match": [{"withoutHeaders": {"x-request-id": {}}}]}, "matches on withoutHeaders"),
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


CASES = [case for case in load() if case.istiod == "same" and case.http and "elsewhere" not in str(case.http)]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_what_is_made_up_for_a_route_of_the_corpus_reaches_it(case: Case) -> None:
    """The explanation is held against the real istiod and Envoy (``test_explanation.py``), and so is this by it."""
    obj = case.virtual_service(gateways=[GATEWAY], ready_route=False)
    obj["metadata"]["namespace"] = "corpus"
    for index, route in enumerate(obj["spec"]["http"]):
        if "delegate" in route:
            continue
        try:
            found = entrance_at(obj, route)
        except InvalidInput:
            continue
        path, _, query = found.scoring.partition("?")
        headers = {name.lower(): value for name, value in found.headers.items()}
        scheme, port = found.listeners.taking[0] if found.listeners else ("http", 80)
        request = Request(
            path=path,
            method=found.method,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=headers,
            authority=headers.get("host", case.hosts[0]),
            scheme=scheme,
            port=port or 81,
        )
        explained = explain(obj, request)
        taking = [explained.place, *(passed.place for passed in explained.perhaps)]
        assert index in [place.index for place in taking if place is not None], (found, explained)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith("everything-said-by")], ids=lambda case: case.name
)
def test_what_takes_everything_behind_the_real_istiod_is_a_catch_all(case: Case) -> None:
    obj = case.virtual_service(gateways=[GATEWAY, "mesh"], ready_route=False)
    first, *others = placed(obj)["spec"]["http"]
    assert is_catch_all(first, placed(obj))
    for other_route in others:
        with pytest.raises(InvalidInput, match="above it takes them: put it below"):
            entrance_at(obj, other_route)


@pytest.mark.parametrize("case", [case for case in CASES if "-aside-" in case.name], ids=lambda case: case.name)
def test_what_leaves_the_rest_behind_the_real_istiod_is_none(case: Case) -> None:
    obj = case.virtual_service(gateways=[GATEWAY], ready_route=False)
    first, *others = placed(obj)["spec"]["http"]
    assert not is_catch_all(first, placed(obj))
    assert entrance_at(obj, obj["spec"]["http"][len(others)]).virtual_service == case.name
