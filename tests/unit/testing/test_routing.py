"""The in-memory cluster that users get routes as the real istiod and Envoy did (``tests/corpus``), and names what can't be told."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import NotFound, Unsupported
from mlflow_istio.testing import Answer, Answers, InMemoryCluster, Request
from mlflow_istio.testing.cluster import first_values
from tests.contract.model_server import deployment, destination_rule, service, virtual_service
from tests.corpus import cases
from tests.corpus.answers import recorded

IN_TIME = ("policy", "resilience")
"""Families about what happens in time: timeouts, retries, ejected replicas."""
SLOW = ("delay-longer-than-the-timeout",)
CALLS = "grpc"
"""The in-memory cluster answers with statuses of HTTP; which route takes a call is held in ``test_explanation.py``."""
RECORDED = [
    pytest.param(case, number, id=f"{case.family}-{case.name}-{number}")
    for case in cases.load()
    if case.istiod == "same" and case.local == "same" and case.family not in (*IN_TIME, CALLS) and case.name not in SLOW
    for number, _ in enumerate(case.requests)
    if case.name in recorded(case.family)
]


def answers(case: cases.Case, sent: cases.Request) -> Answers:
    cluster = InMemoryCluster()
    rule = case.destination_rule()
    for obj in (
        *cases.deployments(),
        cases.service(cases.MODEL),
        cases.common_rule(),
        *((cases.service(case.name), rule) if rule else ()),
        *case.delegate_services(),
        case.virtual_service(ready_route=False),
    ):
        cluster.apply(obj)
    path, _, query = sent.path.partition("?")
    headers = {name.lower(): value for name, value in sent.headers.items()}
    authority = headers.pop("host", case.hosts[0])
    request = Request(
        path=path, query=first_values(query), method=sent.method, headers=headers, authority=authority, port=80
    )
    return cluster.answers(case.name, request)


def subsets(answer: Answer) -> set[str]:
    return {name.removeprefix("echo-") for name in answer.deployments}


@pytest.mark.parametrize(("case", "number"), RECORDED)
def test_it_answers_as_the_real_istiod_and_envoy_did(case: cases.Case, number: int) -> None:
    sent = case.requests[number]
    if case.name == "headers-that-a-proxy-writes":
        with pytest.raises(Unsupported, match="a proxy gives every request one of its own"):
            answers(case, sent)
        return
    seen = recorded(case.family)[case.name][number]
    found = answers(case, sent)
    assert sum(answer.percent for answer in found.answers) == pytest.approx(100)
    told = "x-echo" in sent.headers  # the request tells the echo to fail or to sleep
    nameless = sent.path.endswith("/ping")  # the echo's readiness check
    possible = {(answer.status, subset) for answer in found.answers for subset in subsets(answer) or {""}}
    for answer in seen["answers"]:
        subset = answer.get("subset", "")
        if not subset and (told or nameless):
            assert told or answer["status"] in {status for status, _ in possible}
            continue
        assert (200 if told and subset else answer["status"], subset) in possible
        if not subset:
            (own,) = [each for each in found.answers if each.status == answer["status"]]
            locations = [line for line in answer.get("headers", ()) if line.startswith("location: ")]
            assert [f"{name}: {value}" for name, value in own.headers.items() if name == "location"] == locations
            if own.destination is None and 200 <= own.status < 300:
                assert own.body == answer.get("body", "")
    if len(found.answers) == 1 and len(possible) == 1 and not told and not nameless:
        assert {(answer["status"], answer.get("subset", "")) for answer in seen["answers"]} == possible
    if sent.shares:
        by_name = {next(iter(subsets(each)), str(each.status)): each.percent for each in found.answers}
        assert by_name == sent.shares
    if sent.copies and sent.times > 1:
        counts = {name: copied["count"] for name, copied in seen["copies"].items()}
        for copy in found.copies:
            expected = counts.get(str(copy.destination.subset), 0)
            assert expected == sent.times or copy.percent < 100 or copy.destination.subset not in ("a", "b", "c")


def test_the_corpus_holds_enough_to_say_so() -> None:
    assert len(RECORDED) > 220


# Endpoints beside what owners write


def an_endpoint(*above: Object, **split: Any) -> InMemoryCluster:
    """m-a has 90% and m-b 10%; routes of the owner stand above."""
    cluster = InMemoryCluster()
    routed = virtual_service("m", "change-1", {"m-a": 90, "m-b": 10}, **split)
    routed["spec"]["http"] = [*above, *routed["spec"]["http"]]
    for obj in (
        service("m"),
        destination_rule("m", "m-a", "m-b"),
        deployment("m", "m-a"),
        deployment("m", "m-b"),
        routed,
    ):
        cluster.apply(obj)
    return cluster


def ask(cluster: InMemoryCluster, **request: Any) -> list[tuple[float, int, str]]:
    found = cluster.answers("m", Request(**request))
    return [
        (answer.percent, answer.status, answer.destination.name if answer.destination else "")
        for answer in found.answers
    ]


def test_a_split_has_its_shares_and_an_unready_version_answers_503() -> None:
    cluster = an_endpoint()
    assert ask(cluster) == [(90, 200, "m-a"), (10, 200, "m-b")]
    cluster.unready.add("m-b")
    assert ask(cluster) == [(90, 200, "m-a"), (10, 503, "m-b")]
    cluster.delete("Service", "m")
    assert ask(cluster) == [(90, 503, "m-a"), (10, 503, "m-b")]


def direct(status: int, **match: Any) -> Object:
    """A direct response without a body."""
    return {"match": [match], "directResponse": {"status": status}}


@pytest.mark.parametrize(
    ("route", "request_of_it", "answer"),
    [
        ({"match": [{"authority": {"exact": "admin"}}], "redirect": {"uri": "/x"}}, {"authority": "m"}, None),
        (direct(204, uri={"exact": "/Health"}, ignoreUriCase=True), {"path": "/heaLTH"}, 204),
        (direct(204, uri={"prefix": "/health"}), {"path": "/Health"}, None),
        (direct(503, queryParams={"v": {"exact": "2"}}), {"query": {"v": "2"}}, 503),
        (direct(503, queryParams={"v": {"regex": "*"}}), {}, None),
        (direct(401, withoutHeaders={"X-User": {}}), {}, 401),
        (direct(401, withoutHeaders={"X-User": {}}), {"headers": {"x-user": ""}}, None),
        (direct(401, headers={"X-User": {"exact": "Ada"}}), {"headers": {"x-user": "ada"}}, None),
        ({"redirect": {"uri": "/new", "redirectCode": 307}}, {}, 307),
        ({"delegate": {"name": "nowhere"}}, {}, None),
        ({"delegate": {"name": "nowhere", "namespace": "team-b"}}, {}, None),
    ],
)  # fmt: skip
def test_an_owners_route_above_takes_what_is_its_own(
    route: Object, request_of_it: dict[str, Any], answer: int | None
) -> None:
    found = ask(an_endpoint({"name": "above", **route}), **request_of_it)
    assert found == ([(90, 200, "m-a"), (10, 200, "m-b")] if answer is None else [(100, answer, "")])


def test_what_only_the_callers_pod_decides_is_refused_by_route_and_field() -> None:
    cluster = an_endpoint(
        {"name": "inside", "match": [{"sourceLabels": {"app": "web"}}], "directResponse": {"status": 200}}
    )
    with pytest.raises(Unsupported, match="route 'inside': match field sourceLabels"):
        ask(cluster)
    with pytest.raises(NotFound, match="there is no VirtualService 'other'"):
        cluster.answers("other", Request())


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ({"fault": {"abort": {"grpcStatus": "UNAVAILABLE"}}}, "fault.abort.grpcStatus is not worked out here"),
        ({"fault": {"abort": {"http2Error": "x"}}}, "fault.abort.http2Error is not worked out here"),
        ({"fault": {"abort": {}}}, "fault.abort has no httpStatus"),
        ({"redirect": {"prefixRewrite": "/v2"}}, "redirect.prefixRewrite is not worked out here"),
    ],
)
def test_what_is_not_worked_out_here_is_refused_by_route_and_field(does: Object, words: str) -> None:
    for abort in (does["fault"]["abort"],) if "fault" in does else ():
        abort["percentage"] = {"value": 50}
    route = {"route": [{"destination": {"host": "m"}}]} if "fault" in does else {}
    with pytest.raises(Unsupported, match=f"route 'above': {words}"):
        ask(an_endpoint({"name": "above", **route, **does}))


def test_mirrors_get_copies_and_a_fault_takes_its_share_of_the_answers() -> None:
    mirror = {"destination": {"host": "m", "subset": "m-b"}, "percentage": {"value": 25.0}}
    fault = {"abort": {"httpStatus": 500, "percentage": {"value": 50}}}
    found = an_endpoint(mirrors=[mirror], fault=fault).answers("m", Request())
    assert [(answer.percent, answer.status) for answer in found.answers] == [(50, 500), (45, 200), (5, 200)]
    assert [(copy.destination.name, copy.percent) for copy in found.copies] == [("m/m-b", 25.0)] or [
        (copy.destination.subset, copy.percent) for copy in found.copies
    ] == [("m-b", 25.0)]


def test_a_process_of_the_users_own_answers_and_a_host_that_is_gone_does_not() -> None:
    web = {"name": "main", "route": [{"destination": {"host": "web"}}]}
    cluster = an_endpoint(web)
    assert ask(cluster) == [(100, 503, "web")]
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 8000}]}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    assert ask(cluster) == [(100, 200, "web")]


@pytest.mark.parametrize(
    ("status", "method", "body"), [(200, "GET", "hello"), (204, "GET", ""), (304, "GET", ""), (200, "HEAD", "")]
)
def test_a_direct_response_has_its_body_where_http_has_one(status: int, method: str, body: str) -> None:
    cluster = an_endpoint({"name": "above", "directResponse": {"status": status, "body": {"string": "hello"}}})
    (answer,) = cluster.answers("m", Request(method=method)).answers
    assert (answer.status, answer.body) == (status, body)
