"""Which route answers a request, as Istio would choose: first match, AND inside a match, OR between matches."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.matching.requests import Request, answering_route, described
from mlflow_istio.errors import Unsupported

PLAIN = Request()
GET = Request(method="GET", path="/Api/v1", headers={"x-a": "1", "cookie": "a=1; b=2"}, query={"q": "1"})
AT_FRONT = Request(gateway="infra/front")

CASES: list[tuple[Any, Request, bool]] = [
    (None, PLAIN, True),
    ([], PLAIN, True),
    ([{}], PLAIN, True),
    ([{"name": "only a name"}], PLAIN, True),
    ([{"uri": {"exact": "/invocations"}}], PLAIN, True),
    ([{"uri": {"exact": "/Api"}}], GET, False),
    ([{"uri": {"prefix": "/Api"}}], GET, True),
    ([{"uri": {"prefix": "/api"}}], GET, False),
    ([{"uri": {"prefix": "/api"}, "ignoreUriCase": True}], GET, True),
    ([{"uri": {"exact": "/API/V1"}, "ignoreUriCase": True}], GET, True),
    ([{"uri": {"regex": "/api/.*"}, "ignoreUriCase": True}], GET, False),
    ([{"uri": {"regex": "/Api"}}], GET, False),
    ([{"uri": {"regex": "/Api/v[0-9]"}}], GET, True),
    ([{"method": {"exact": "GET"}}], GET, True),
    ([{"method": {"exact": "GET"}}], PLAIN, False),
    ([{"headers": {"X-A": {"exact": "1"}}}], GET, True),
    ([{"headers": {"x-a": {}}}], GET, True),
    ([{"headers": {"x-b": {}}}], GET, False),
    ([{"headers": {"x-a": {"exact": "1"}, "x-b": {"exact": "2"}}}], GET, False),
    ([{"headers": {"x-b": {"exact": "2"}}}, {"headers": {"x-a": {"prefix": ""}}}], GET, True),
    ([{"withoutHeaders": {"x-a": {}}}], GET, False),
    ([{"withoutHeaders": {"x-a": {"exact": "2"}}}], GET, True),
    ([{"withoutHeaders": {"x-b": {}}}], GET, True),
    ([{"queryParams": {"q": {"exact": "1"}}}], GET, True),
    ([{"queryParams": {"q": {"exact": "2"}}}], GET, False),
    ([{"queryParams": {"r": {}}}], GET, False),
    ([{"uri": {"prefix": "/Api"}, "method": {"exact": "POST"}}], GET, False),
    ([{"uri": {}, "method": {}, "scheme": {}, "authority": {}}], GET, True),
    ([{"headers": {"x-a": {"regex": "*"}}}], GET, True),
    ([{"headers": {"x-b": {"regex": "*"}}}], GET, False),
    ([{"withoutHeaders": {"x-a": {"regex": "*"}}}], GET, False),
    ([{"withoutHeaders": {"x-b": {"regex": "*"}}}], GET, True),
    ([{"withoutHeaders": {"X-B": None}}], GET, True),
    ([{"queryParams": {"q": {"regex": "*"}}}], GET, True),
    ([{"queryParams": {"r": {"regex": "*"}}}], GET, False),
    ([{"method": {"regex": "*"}}], GET, True),
    ([{"scheme": {"regex": "*"}, "authority": {"regex": "*"}}], GET, True),
    ([{"port": 0, "sourceNamespace": "", "sourceLabels": {}, "gateways": []}], GET, True),
    ([{"gateways": ["infra/front"]}], AT_FRONT, True),
    ([{"gateways": ["mesh", "infra/other"]}], AT_FRONT, False),
    ([{"gateways": ["infra/front"], "sourceLabels": {"app": "web"}, "sourceNamespace": "web"}], AT_FRONT, True),
    ([{"gateways": ["mesh"], "sourceLabels": {"app": "web"}}], AT_FRONT, False),
    ([{"sourceLabels": {"app": "web"}, "method": {"exact": "PUT"}}], AT_FRONT, False),
]


@pytest.mark.parametrize(("match", "request_", "matches"), CASES)
def test_a_match_means_what_istio_means_by_it(match: Any, request_: Request, matches: bool) -> None:
    virtual_service = {"spec": {"http": [{"name": "a", "match": match}]}}
    assert (answering_route(virtual_service, request_) is not None) is matches


def test_the_first_route_that_matches_answers() -> None:
    routes = [{"name": "a", "match": [{"headers": {"x": {}}}]}, {"name": "b"}, {"name": "c"}]
    assert answering_route({"spec": {"http": routes}}, PLAIN) == {"name": "b"}
    assert answering_route({"spec": {}}, PLAIN) is None
    assert answering_route({}, PLAIN) is None


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (
            {"sourceLabels": {"app": "x"}},
            "match field sourceLabels .* can't be evaluated offline: it depends on the labels",
        ),
        ({"uri": {"suffix": "x"}}, "only exact, prefix and regex can"),
        ({"uri": {"regex": "*"}}, "its regular expression can't be read"),
        ({"gateways": ["infra/front"]}, "it depends on the proxy"),
        ({"authority": {"exact": "a"}}, "say which host"),
    ],
)
def test_what_can_not_be_evaluated_is_named_never_guessed(match: Any, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        answering_route({"spec": {"http": [{"match": [match]}]}}, PLAIN)


def test_what_a_match_asks_for_is_said_as_one_writes_it() -> None:
    match = {
        "name": "all",
        "uri": {"prefix": "/a"},
        "method": {},
        "headers": {"x-a": {"regex": "*"}},
        "withoutHeaders": {"x-b": {"exact": "1"}},
        "gateways": ["mesh"],
        "sourceLabels": {"app": "web"},
        "port": 80,
    }
    assert described(match) == (
        "uri prefix '/a' and headers[x-a] any value and withoutHeaders[x-b] exact '1' and gateways ['mesh'] and "
        "sourceLabels {'app': 'web'} and port 80"
    )
    assert described({"name": "all"}) == "no match"
