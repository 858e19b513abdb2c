"""Who answers a request and why, worked out offline; held against what a real istiod and Envoy answered (``tests/corpus``)."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.explanation import Explanation, explain, known_delegates
from mlflow_istio.core.matching.requests import Finding, Request, evaluate, normalized
from mlflow_istio.errors import InvalidInput
from tests.corpus import cases
from tests.corpus.answers import recorded
from tests.testbed.gateway import NAME as GATEWAY

RECORDED = [
    pytest.param(case, number, id=f"{case.name}-{number}")
    for case in cases.load()
    # A case with a DestinationRule of its own may give a subset's name to other replicas, or eject some.
    if case.istiod == "same" and case.rule is None
    for number, _ in enumerate(case.requests)
    if case.name in recorded(case.family)
]


def as_request(sent: cases.Request, host: str) -> Request:
    path, _, query = (sent.call or sent.path).partition("?")
    headers = {name.lower(): value for name, value in sent.headers.items()}
    method = "POST" if sent.call else sent.method
    if sent.call:
        headers["content-type"] = "application/grpc"
    parameters: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        parameters.setdefault(name, value)
    authority = headers.pop("host", host)
    return Request(
        path=normalized(path), method=method, headers=headers, query=parameters, authority=authority, port=80
    )


@pytest.mark.parametrize(("case", "number"), RECORDED)
def test_who_answers_is_who_answered_behind_the_real_istiod(case: cases.Case, number: int) -> None:
    sent = case.requests[number]
    answers = recorded(case.family)[case.name][number]["answers"]
    root = case.virtual_service(gateways=[GATEWAY], ready_route=False)
    root["metadata"]["namespace"] = "corpus"
    delegates = known_delegates(case.delegate_services(), root, whole=True)
    found = explain(root, as_request(sent, case.hosts[0]), delegates)
    # Who the caller is can't be told, nor what a proxy writes into a request.
    assert bool(found.perhaps) is ("sourceLabels" in case.local or case.name == "headers-that-a-proxy-writes")
    seen = {answer["subset"] for answer in answers if "subset" in answer}
    may_answer: set[str | None] = {share.destination.subset for share in found.shares}
    if None in may_answer:  # no subset is named: every replica of the service
        may_answer = {subset for subset, replicas in cases.SUBSETS.items() if replicas}
    if found.place is None:
        assert [answer["status"] for answer in answers] == ["UNIMPLEMENTED" if sent.call else 404]
    assert seen <= may_answer
    if all("subset" in answer for answer in answers) and not sent.shares:
        assert seen == may_answer, "somebody who should answer never did"
    if sent.shares.keys() <= cases.SUBSETS.keys() and sent.shares:  # others are the statuses of faults
        assert {share.destination.subset: share.percent for share in found.shares} == sent.shares


def test_the_corpus_holds_enough_to_say_so() -> None:
    assert len(RECORDED) > 150


def routes(*http: Object, name: str = "root") -> Object:
    return {"metadata": {"name": name}, "spec": {"http": list(http)}}


def to(subset: str, *match: Object, **more: Any) -> Object:
    return {
        "name": subset,
        **({"match": list(match)} if match else {}),
        "route": [{"destination": {"host": "m", "subset": subset}}],
        **more,
    }


def said(found: Explanation) -> list[tuple[str, list[str]]]:
    return [(passed.place.name, [str(finding) for finding in passed.because]) for passed in found.above]


def test_each_route_above_says_the_first_field_of_each_match_that_did_not_hold() -> None:
    http = routes(
        to("a", {"uri": {"exact": "/v1"}, "method": {"exact": "PUT"}}, {"headers": {"x-a": {"prefix": "b"}}}),
        to("b", {"queryParams": {"q": {}}}),
        to("c"),
    )
    found = explain(http, Request(path="/v1", headers={"x-a": "abc"}))
    assert found.place is not None
    assert found.place.name == "c"
    assert said(found) == [
        ("a", ["method is 'POST', wanted: exact 'PUT'", "headers[x-a] is 'abc', wanted: prefix 'b'"]),
        ("b", ["queryParams[q] is not there, wanted: any value"]),
    ]


def test_what_held_is_said_too() -> None:
    match = {"uri": {"prefix": "/V1"}, "ignoreUriCase": True, "withoutHeaders": {"x-a": {"exact": "1"}}}
    found = explain(routes(to("a", match)), Request(path="/v1/chat"))
    assert [str(finding) for finding in found.why] == [
        "uri is '/v1/chat', wanted: prefix '/V1', ignoring case",
        "withoutHeaders[x-a] is not there, wanted: not exact '1'",
    ]


UNKNOWABLE: dict[str, tuple[Object, str]] = {
    "labels": ({"sourceLabels": {"app": "x"}}, "the labels of the caller's pod"),
    "namespace": ({"sourceNamespace": "x"}, "the namespace of the caller's pod"),
    "gateways": ({"gateways": ["mesh"]}, "the proxy that the request arrives at"),
    "port": ({"port": 8080}, "say which with port"),
    "authority": ({"authority": {"exact": "a.example"}}, "say which host with authority"),
    "host header": ({"headers": {"Host": {"exact": "a.example"}}}, "say which host with authority"),
    "token": ({"headers": {"@request.auth.claims.sub": {"exact": "a"}}}, "a verified token"),
    "host as a pseudo header": (
        {"headers": {":authority": {"exact": "a.example"}}},
        "say which host with authority",
    ),
    "lookahead": ({"uri": {"regex": "/(?=a).*"}}, "can't be read (has '(?='"),
    "RE2 only": ({"uri": {"regex": r"/\pL+"}}, "means something else outside of Envoy"),
    "ungreedy": ({"uri": {"regex": "(?U)/.*"}}, "means something else outside of Envoy"),
    "half a set": ({"uri": {"regex": "/[a"}}, "can't be read"),
    "unknown field": ({"newField": 1}, "this version does not know it"),
}


@pytest.mark.parametrize(("match", "reason"), UNKNOWABLE.values(), ids=UNKNOWABLE)
def test_what_can_not_be_told_is_said_and_the_next_route_is_named_as_well(match: Object, reason: str) -> None:
    found = explain(routes(to("a", match), to("b")), Request())
    assert found.place is not None
    assert (found.place.name, found.above) == ("b", ())
    ((pending_notification,),) = [passed.because for passed in found.perhaps]
    assert pending_notification.holds is None
    assert reason in str(pending_notification)
    assert "can't be evaluated offline" in str(pending_notification)


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({"prefix": "/invocations"}, True),
        ({"exact": "/invocations"}, False),
        ({"exact": "/invocations?debug="}, None),
        ({"regex": "/invocations[?]debug=?"}, True),
        ({}, True),
    ],
)
@pytest.mark.parametrize("field", ["headers", "withoutHeaders"])
def test_a_query_may_be_written_in_several_ways(field: str, wanted: Object, holds: bool | None) -> None:
    """Nobody who says which parameters a request has says how they are written."""
    (finding,) = evaluate({field: {":path": wanted}}, Request(query={"debug": ""}))
    assert finding.holds is (holds if field == "headers" or holds is None else not holds)
    assert ("how the query is written" in finding.reason) == (holds is None)


@pytest.mark.parametrize(("match", "reason"), UNKNOWABLE.values(), ids=UNKNOWABLE)
def test_another_field_that_does_not_hold_settles_it(match: Object, reason: str) -> None:
    found = explain(routes(to("a", {**match, "queryParams": {"q": {}}}), to("b")), Request())
    assert (len(found.above), found.perhaps) == (1, ())


@pytest.mark.parametrize(
    ("match", "request_", "holds"),
    [
        ({"port": 80}, Request(port=80), True),
        ({"port": 80}, Request(port=81), False),
        ({"scheme": {"exact": "https"}}, Request(), False),
        ({"authority": {"prefix": "beta."}}, Request(authority="beta.example"), True),
        ({"headers": {"host": {"exact": "a"}}}, Request(authority="a"), True),
        (
            {"headers": {"cookie": {"regex": "(.*; ?)?arm=r1\\.v2(;.*)?"}}},
            Request(headers={"cookie": "a=1; arm=r1.v2"}),
            True,
        ),
        (
            {"headers": {"cookie": {"regex": "(.*; ?)?arm=r1\\.v2(;.*)?"}}},
            Request(headers={"cookie": "harm=r1.v2"}),
            False,
        ),
        ({"headers": {"x": {"regex": r"\d"}}}, Request(headers={"x": "٣"}), False),
        ({"withoutHeaders": {"x": {"regex": ".*"}}}, Request(), False),
    ],
)
def test_fields_that_a_request_decides(match: Object, request_: Request, holds: bool) -> None:
    found = explain(routes(to("a", match)), request_)
    assert (found.place is not None) is holds
    assert found.perhaps == ()


def test_a_path_is_normalized_as_the_proxy_does() -> None:
    assert [normalized(path) for path in ("/a/./b", "/a/../b", "//a", "/a/..", "/..", "/", "/a/.", "/a%2Fb")] == [
        "/a/b", "/b", "//a", "/", "/", "/", "/a/", "/a%2Fb",
    ]  # fmt: skip


def test_a_delegate_answers_with_both_matches_and_hands_back_what_it_does_not_take() -> None:
    root = routes(
        {"name": "models", "match": [{"uri": {"prefix": "/m/"}}], "delegate": {"name": "churn", "namespace": "ml"}},
        to("rest"),
    )
    delegate = routes(to("x", {"headers": {"x": {}}}), name="churn")
    known = {("ml", "churn"): delegate}
    taken = explain(root, Request(path="/m/a", headers={"x": "1"}), known)
    assert taken.place is not None
    assert (taken.place.virtual_service, taken.place.name) == ("churn", "x")
    passed = explain(root, Request(path="/m/a"), known)
    assert passed.place is not None
    assert (passed.place.name, said(passed)) == ("rest", [("x", ["headers[x] is not there, wanted: any value"])])
    unknown = explain(root, Request(path="/m/a"))
    assert unknown.place is not None
    assert (unknown.place.name, unknown.shares) == ("models", ())


def test_shares_and_mirrors_are_those_that_count() -> None:
    split = [
        {"destination": {"host": "m", "subset": "a"}, "weight": 1},
        {"destination": {"host": "m", "subset": "b"}, "weight": 3},
        {"destination": {"host": "m", "subset": "c"}},
    ]
    found = explain(routes({"route": split, "mirror": {"host": "m", "subset": "d"}}), Request())
    assert [(share.destination.name, share.percent) for share in found.shares] == [("a", 25.0), ("b", 75.0)]
    assert [(mirror.destination.name, mirror.percent) for mirror in found.mirrors] == [("d", 100.0)]
    assert found.place is not None
    assert found.place.name == "spec.http[0] of VirtualService root"
    off = {"mirrors": [{"destination": {"host": "m"}, "percentage": {"value": 0}}]}
    assert explain(routes({"route": split, **off}), Request()).mirrors == ()


def test_without_a_route_that_takes_it_nobody_answers() -> None:
    found = explain(routes(to("a", {"uri": {"exact": "/a"}})), Request())
    assert (found.place, found.shares, found.mirrors) == (None, (), ())


def test_a_finding_reads_as_a_sentence() -> None:
    assert str(Finding(field="uri", wanted="exact '/a'", actual="/b", holds=False)) == "uri is '/b', wanted: exact '/a'"


def test_of_two_delegates_of_one_name_each_answers_where_its_namespace_is_said() -> None:
    root = routes(
        {"match": [{"uri": {"prefix": "/own"}}], "delegate": {"name": "chat"}},
        {"match": [{"uri": {"prefix": "/same"}}], "delegate": {"name": "chat", "namespace": "team-a"}},
        {"match": [{"uri": {"prefix": "/theirs"}}], "delegate": {"name": "chat", "namespace": "team-b"}},
        {"match": [{"uri": {"prefix": "/unknown"}}], "delegate": {"name": "chat", "namespace": "team-c"}},
    )
    root["metadata"]["namespace"] = "team-a"
    both = []
    for namespace, subset in (("team-a", "a"), ("team-b", "b")):
        delegate = routes(to(subset), name="chat")
        delegate["metadata"]["namespace"] = namespace
        both.append(delegate)
    known = known_delegates(both, root, whole=True)
    seen = {}
    for path in ("/own", "/same", "/theirs", "/unknown"):
        found = explain(root, Request(path=path), known)
        assert found.place is not None
        seen[path] = [share.destination.subset for share in found.shares] or found.place.route["delegate"]["namespace"]
    assert seen == {"/own": ["a"], "/same": ["a"], "/theirs": ["b"], "/unknown": "team-c"}


def shop(*http: Object, **spec: Any) -> Object:
    whole = {"hosts": ["shop.example"], "gateways": ["front"], **spec, "http": list(http)}
    return {"metadata": {"name": "shop", "namespace": "team-a"}, "spec": whole}


@pytest.mark.parametrize(
    ("obj", "authority", "words"),
    [
        (
            shop(to("a")),
            "other.example",
            "other.example is not a host of VirtualService 'shop', which has shop.example",
        ),
        (shop(to("a"), hosts=["*.shop.example"]), "shop.example", "which has *.shop.example"),
        (shop(to("a"), hosts=["shop"], gateways=["mesh"]), "shop.team-b", "which has shop.team-a.svc.cluster.local"),
        (shop(), None, "VirtualService 'shop' has no http routes"),
        (shop(tcp=[{}], tls=[{}]), None, "no http routes, but tls and tcp, which carry no HTTP requests"),
        ({"metadata": {"name": "shop"}}, None, "VirtualService 'shop' has no http routes"),
    ],
)
def test_who_is_asked_for_nothing_says_why(obj: Object, authority: str | None, words: str) -> None:
    found = explain(obj, Request(authority=authority))
    assert (found.place, found.shares, found.above, found.perhaps) == (None, (), (), ())
    assert words in found.nobody


@pytest.mark.parametrize(
    ("spec", "authority"),
    [
        ({}, "SHOP.example:8080"),
        ({"hosts": ["*.example"]}, "shop.example"),
        ({"hosts": ["shop"], "gateways": ["mesh"]}, "shop.team-a:80"),
        ({}, "127.0.0.1:18080"),
    ],
)
def test_a_host_of_its_own_is_answered_in_any_spelling_and_by_the_address(spec: dict[str, Any], authority: str) -> None:
    found = explain(shop(to("a"), **spec), Request(authority=authority), address="127.0.0.1:18080")
    assert (found.place is not None, found.nobody) == (True, "")


def test_where_no_destination_has_weight_nobody_answers() -> None:
    both = [{"destination": {"host": "m", "subset": name}, "weight": 0} for name in ("a", "b")]
    found = explain(shop({"name": "main", "route": both}), Request())
    assert found.place is not None
    assert (found.place.name, found.shares) == ("main", ())
    assert found.nobody == "none of its destinations has any weight"
    unsaid = [
        {"destination": {"host": "m", "subset": name}, "weight": weight} for name, weight in (("a", None), ("b", 1))
    ]
    shares = explain(shop({"name": "main", "route": unsaid}), Request()).shares
    assert [(share.destination.subset, share.percent) for share in shares] == [("b", 100.0)]


@pytest.mark.parametrize("route", [{}, {"route": []}, {"route": None}])
def test_a_route_that_does_nothing_is_answered_by_nobody(route: Object) -> None:
    found = explain(shop({"name": "main", **route}), Request())
    assert found.place is not None
    assert (found.place.name, found.shares, found.nobody) == ("main", (), "it has no destination")


@pytest.mark.parametrize("action", [{"redirect": {"uri": "/x"}}, {"directResponse": {"status": 503}}])
def test_a_route_that_answers_by_itself_needs_no_destination(action: Object) -> None:
    assert explain(shop({"name": "main", **action}), Request()).nobody == ""


@pytest.mark.parametrize("weights", [(10, -10), (110, -10), (1, 10**400), (1, 2**31), (1, -(10**5000))])
def test_a_weight_that_istio_refuses_is_named_by_its_path(weights: tuple[int, int]) -> None:
    both = [{"destination": {"host": "m"}, "weight": weight} for weight in weights]
    with pytest.raises(InvalidInput) as error:
        explain(shop(to("a", {"uri": {"exact": "/other"}}), {"name": "main", "route": both}), Request())
    assert error.value.message == (
        "VirtualService 'shop': spec.http[1].route[1].weight must be a whole number from 0 to 2147483647"
    )


@pytest.mark.parametrize(
    ("said", "percent"),
    [
        ({}, 100.0),
        ({"mirrorPercent": 7}, 7.0),
        ({"mirrorPercent": 0}, None),
        ({"mirrorPercentage": {"value": 2.5}, "mirrorPercent": 7}, 2.5),
        ({"mirrorPercentage": {}, "mirrorPercent": 7}, None),
        ({"mirrorPercentage": None, "mirrorPercent": None}, 100.0),
    ],
)
def test_a_mirror_gets_what_its_percentage_says_or_the_older_field(said: Object, percent: float | None) -> None:
    found = explain(shop(to("a", mirror={"host": "copies"}, **said)), Request())
    assert [mirror.percent for mirror in found.mirrors] == ([] if percent is None else [percent])


def test_a_gateway_is_known_where_there_is_one() -> None:
    routes_ = [
        to("a", {"gateways": ["mesh"]}),
        to("b", {"gateways": ["front.team-a"], "sourceLabels": {"app": "x"}}),
        to("c"),
    ]
    found = explain(shop(*routes_), Request())
    assert (found.place and found.place.name, found.perhaps) == ("b", ())
    assert said(found) == [("a", ["gateways is 'team-a/front', wanted: mesh"])]
    unsure = explain(shop(*routes_, gateways=["front", "mesh"]), Request())
    assert [passed.place.name for passed in unsure.perhaps] == ["a", "b"]


def test_a_delegate_that_proxies_do_not_find_is_named_among_the_routes_above() -> None:
    root = shop({"name": "gone", "delegate": {"name": "chat"}}, {"name": "seen", "delegate": {"name": "far"}}, to("c"))
    far = {"metadata": {"name": "far", "namespace": "team-a"}, "spec": {"http": [to("x")], "exportTo": ["team-b"]}}
    found = explain(root, Request(), known_delegates([far], root, whole=True))
    assert (found.place and found.place.name) == "c"
    assert said(found) == [
        ("gone", ["delegate is not there, wanted: VirtualService 'chat'"]),
        ("seen", ["delegate is not there, wanted: VirtualService 'far'"]),
    ]
