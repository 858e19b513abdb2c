"""Facts of the translation that a golden file does not explain: what Istio does with the same object."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.adapters.local.envoy.clusters import clusters
from mlflow_istio.adapters.local.envoy.documents import check_hosts, delicate_parts
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.contract.model_server import destination_rule, service, virtual_service

TO_A = [{"destination": {"host": "churn", "subset": "a"}}]


def routes(*http: Object, ports: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """Envoy's routes for these entries of ``spec.http``."""
    obj = {**virtual_service("churn", "", {}), "spec": {"hosts": ["churn"], "http": list(http)}}
    before = copy.deepcopy(obj)
    result = route_configuration(obj, {"churn": (80,)} if ports is None else ports)
    assert obj == before
    return list(result["virtual_hosts"][0]["routes"])


def action(**http: Any) -> dict[str, Any]:
    """Envoy's action for one route to one destination."""
    (route,) = routes({"route": TO_A, **http})
    return dict(route["route"])


@pytest.mark.parametrize(
    ("destination", "ports", "cluster"),
    [
        ({"host": "churn"}, (80,), "outbound|80||churn"),
        ({"host": "churn", "subset": "v1"}, (8080,), "outbound|8080|v1|churn"),
        ({"host": "churn", "subset": "v1"}, (80, 81), "outbound|80|v1|churn"),
        ({"host": "churn", "subset": "v1"}, (), "outbound|80|v1|churn"),
        ({"host": "churn", "port": {"number": 9000}}, (80,), "outbound|9000||churn"),
    ],
)
def test_the_cluster_is_named_as_istiod_names_it(destination: Object, ports: tuple[int, ...], cluster: str) -> None:
    """One port of the Service wins over 80, and a port of the destination over both."""
    (route,) = routes({"route": [{"destination": destination}]}, ports={"churn": ports})
    assert route["route"]["cluster"] == cluster


def test_each_match_is_a_route_of_its_own_in_order() -> None:
    matches = [{"uri": {"exact": "/a"}}, {"name": "second", "uri": {"exact": "/b"}}]
    found = routes({"name": "one", "match": matches, "route": TO_A}, {"name": "rest", "route": TO_A})
    assert [route["name"] for route in found] == ["one", "one.second", "rest"]
    assert [route["match"].get("path") for route in found] == ["/a", "/b", None]


@pytest.mark.parametrize("weights", [(90, 10), (1, 99), (50, 0, 50), (100, 0), (3, 4)])
def test_destinations_of_weight_0_are_left_out_and_the_others_keep_their_weight(weights: tuple[int, ...]) -> None:
    route = [
        {"destination": {"host": "churn", "subset": f"s{index}"}, "weight": weight}
        for index, weight in enumerate(weights)
    ]
    (result,) = routes({"route": route})
    clusters = result["route"]["weighted_clusters"]["clusters"]
    assert [cluster["weight"] for cluster in clusters] == [weight for weight in weights if weight]


def test_one_destination_gets_all_whatever_its_weight() -> None:
    (result,) = routes({"route": [{**TO_A[0], "weight": 0}]})
    assert result["route"]["cluster"] == "outbound|80|a|churn"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"exact": "1"}, {"string_match": {"exact": "1"}}),
        ({"prefix": "1"}, {"string_match": {"prefix": "1"}}),
        ({"regex": "1+"}, {"string_match": {"safe_regex": {"regex": "1+"}}}),
        ({}, {"present_match": True}),
        ({"exact": ""}, {"string_match": {"exact": ""}}),
    ],
)
def test_conditions_on_headers(condition: Object, expected: Object) -> None:
    (route,) = routes({"match": [{"headers": {"x-a": condition}}], "route": TO_A})
    assert route["match"]["headers"] == [{"name": "x-a", **expected}]


def test_a_request_that_lacks_a_header_is_without_its_value() -> None:
    match = [{"withoutHeaders": {"x-a": {"exact": "1"}, "x-b": {}}}]
    (route,) = routes({"match": match, "route": TO_A})
    assert route["match"]["headers"] == [
        {
            "name": "x-a",
            "string_match": {"exact": "1"},
            "invert_match": True,
            "treat_missing_header_as_empty": True,
        },
        {"name": "x-b", "present_match": True, "invert_match": True},
    ]


def test_there_is_no_timeout_unless_one_is_given() -> None:
    assert action()["timeout"] == "0s"
    assert action(timeout="2s")["timeout"] == "2s"


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        (None, (2, "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", None)),
        ({"attempts": 3}, (3, "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", None)),
        ({"attempts": 1, "retryOn": "5xx"}, (1, "5xx", None)),
        ({"attempts": 1, "retryOn": "503,429"}, (1, "retriable-status-codes", [503, 429])),
        ({"attempts": 1, "retryOn": "retriable-status-codes,503"}, (1, "retriable-status-codes", [503])),
    ],
)
def test_retries(retries: Object | None, expected: tuple[int, str, list[int] | None]) -> None:
    policy = action(**({} if retries is None else {"retries": retries}))["retry_policy"]
    assert (policy["num_retries"], policy["retry_on"], policy.get("retriable_status_codes")) == expected


def test_no_attempts_are_no_retries() -> None:
    assert "retry_policy" not in action(retries={"attempts": 0})


@pytest.mark.parametrize(
    ("share", "numerator"), [(None, 1_000_000), (25.0, 250_000), (0.1, 1_000), (100, 1_000_000), (33.3333, 333_333)]
)
def test_mirrors_take_their_share_and_the_callers_host(share: float | None, numerator: int) -> None:
    mirror: Object = {"destination": {"host": "churn", "subset": "b"}}
    if share is not None:
        mirror["percentage"] = {"value": share}
    (policy,) = action(mirrors=[mirror])["request_mirror_policies"]
    assert policy["runtime_fraction"]["default_value"] == {"numerator": numerator, "denominator": "MILLION"}
    assert policy["disable_shadow_host_suffix_append"] is True


def test_a_mirror_of_nothing_is_none() -> None:
    mirror = {"destination": {"host": "churn"}, "percentage": {"value": 0}}
    assert "request_mirror_policies" not in action(mirrors=[mirror])


def test_the_host_given_by_the_rewrite_wins_over_the_destinations() -> None:
    destination = {**TO_A[0], "headers": {"request": {"set": {"host": "destination"}}}}
    (route,) = routes({"route": [destination], "rewrite": {"authority": "route"}})
    assert route["route"]["host_rewrite_literal"] == "route"


@pytest.mark.parametrize("text", ["2s", "2000ms", "0h0m2s", "1.5s500ms"])
def test_durations_are_seconds(text: str) -> None:
    assert action(timeout=text)["timeout"] == "2s"


@given(st.integers(min_value=10**6, max_value=10**10))
def test_durations_keep_every_nanosecond(nanoseconds: int) -> None:
    seconds = action(timeout=f"{nanoseconds}ns")["timeout"]
    assert round(float(seconds.removesuffix("s")) * 1e9) == nanoseconds


def test_two_virtual_services_for_one_host_are_refused() -> None:
    other = {**virtual_service("other", "", {"a": 100}), "spec": virtual_service("churn", "", {"a": 100})["spec"]}
    with pytest.raises(StateConflict, match=r"VirtualService other: spec\.hosts\[0\] 'churn' already has .* churn"):
        check_hosts([virtual_service("churn", "", {"a": 100}), other])


def test_two_destination_rules_for_one_host_are_refused() -> None:
    other = {**destination_rule("churn"), "metadata": {"name": "other"}}
    with pytest.raises(StateConflict, match="DestinationRule other: host 'churn' already has"):
        clusters([service("churn")], [destination_rule("churn"), other], [])


def test_a_cluster_says_what_it_holds_so_that_a_change_can_be_awaited() -> None:
    def contents(rule: Object) -> dict[str, str]:
        found = clusters([service("churn")], [rule], [])
        return {one["name"]: one["metadata"]["filter_metadata"]["mlflow-istio"]["content"] for one in found}

    before, after = contents(destination_rule("churn", "a")), contents(destination_rule("churn", "a", "b"))
    assert before.items() < after.items()
    changed = contents(destination_rule("churn", "a", loadBalancer={"simple": "RANDOM"}))
    assert all(changed[name] != content for name, content in before.items())


def test_only_patterns_and_templates_are_for_envoy_to_check() -> None:
    plain = virtual_service("churn", "change", {"a": 90, "b": 10})
    assert delicate_parts(plain) == {}
    arm = {"match": [{"headers": {"cookie": {"regex": "a+"}}}], "route": TO_A}
    header = {"route": TO_A, "headers": {"response": {"add": {"x-time": "%START_TIME%"}}}}
    rewrite = {"route": TO_A, "rewrite": {"uriRegexRewrite": {"match": "^/a", "rewrite": "/b"}}}
    found = delicate_parts(virtual_service("churn", "change", {"a": 1}, arm, header, rewrite))
    assert {part: field.path for part, field in found.items()} == {
        "a+": "spec.http[2].match[0].headers.cookie.regex",
        "%START_TIME%": "spec.http[3].headers.response.add[x-time]",
        '{"match": "^/a", "rewrite": "/b"}': "spec.http[4].rewrite.uriRegexRewrite",
    }


@pytest.mark.parametrize("value", ["50%", "%X", "% %", "%%%"])
def test_a_lone_percent_sign_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.http\[0\]\.headers\.request\.add\[x-a\] has a lone '%'"):
        routes({"route": TO_A, "headers": {"request": {"add": {"x-a": value}}}})
