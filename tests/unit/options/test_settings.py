"""What a policy's settings, matches and faults may be, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.basics.durations import check_duration, seconds_of
from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.policy.fields import check_field
from mlflow_istio.core.policy.routes import merged_headers
from mlflow_istio.core.policy.settings import NO_POLICY, Policy, PolicyRequest, RoutePolicy, notes, with_policy_request
from mlflow_istio.errors import InvalidInput
from tests.support.policy_values import a_fault

REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("timeout", "5", "timeout must be a duration with its unit, such as 2s or 250ms, not '5'"),
    ("timeout", "0s", "timeout must be at least 1ms, not '0s'"),
    ("timeout", 5, "duration with its unit"),
    ("retries", {}, "retries must be an object such as"),
    ("retries", {"perTryTimeout": "1s"}, "must say how many attempts"),
    ("retries", {"attempts": -1}, "retries attempts must be a whole number from 0 to 100, not -1"),
    ("retries", {"attempts": True}, "whole number"),
    ("retries", {"attempts": 0, "retryOn": "5xx"}, "0 attempts are off: leave out the rest"),
    ("retries", {"attempts": 1, "perTryTimeout": "1"}, "retries perTryTimeout must be a duration with its unit"),
    ("retries", {"attempts": 1, "retryOn": "5xxx"}, "no condition '5xxx': did you mean '5xx'"),
    ("retries", {"attempts": 1, "retryOn": ""}, "retryOn must be a text"),
    ("retries", {"atempts": 1}, "retries has no part 'atempts': did you mean 'attempts'"),
    ("retries", {"attempts": 1, "retryIgnorePreviousHosts": "no"}, "must be true or false"),
    ("headers", {"request": {"set": {"x a": "1"}}}, "headers request set name 'x a' is not valid.*without spaces"),
    ("headers", {"request": {"set": {"x-mlflow-deployment": "1"}}}, "'x-mlflow-deployment', which is reserved"),
    ("headers", {"request": {"remove": ["X-Request-ID"]}}, "'X-Request-ID', which is reserved"),
    ("headers", {"response": {"add": {"set-cookie": "a=b"}}}, "'set-cookie', which is reserved"),
    ("headers", {"request": {"set": {"Host": "a"}}}, "can't change 'Host': use rewrite with an authority"),
    ("headers", {"request": {"set": {"x-a": 1}}}, "'x-a' must be a text"),
    ("headers", {"request": {"set": {"x-a": "a\nb"}}}, "without control characters"),
    ("headers", {"request": {"set": {"x-a": "50%"}}}, "has a lone '%'"),
    ("headers", {"request": {"set": {"x-a": "1"}, "remove": ["X-A"]}}, "treats 'x-a' twice"),
    ("headers", {"request": {"set": {}}}, "must be an object of names and texts"),
    ("headers", {"request": {"remove": "x-a"}}, "must be a list of names"),
    ("headers", {"request": {"remove": [1]}}, "must name headers as texts"),
    ("headers", {"reply": {}}, "headers has no part 'reply'"),
    ("rewrite", "v2", "rewrite uri must be a path that starts with '/', not 'v2'"),
    ("rewrite", {"uri": "/a", "uriRegexRewrite": {"match": "a", "rewrite": "b"}}, "both uri and uriRegexRewrite"),
    ("rewrite", {"uriRegexRewrite": {"match": "(", "rewrite": "b"}}, "is no regular expression"),
    ("rewrite", {"uriRegexRewrite": {"match": "(?=a)", "rewrite": "b"}}, r"has '\(\?=', which Envoy's expressions"),
    ("rewrite", {"uriRegexRewrite": {"match": "a", "rewrite": "\\1"}}, "uses group 1, but 'a' has 0"),
    ("rewrite", {"uriRegexRewrite": {"match": "a"}}, "must have rewrite"),
    ("rewrite", {"uriRegexRewrite": {"match": "a", "rewrite": 1}}, "must be a text"),
    ("rewrite", {"authority": "a b"}, "must be a host name"),
    ("redirect", {"redirectCode": 302}, "must have a uri, authority, scheme or port"),
    ("redirect", {"uri": "/a", "redirectCode": 304}, "must be 301, 302, 303, 307 or 308, not 304"),
    ("redirect", {"uri": "/a", "scheme": "ftp"}, "must be http or https"),
    ("redirect", {"uri": "/a", "port": 0}, "redirect port must be a whole number"),
    ("redirect", {"authority": "a/b"}, "must be a host name"),
    ("maintenance", {"body": "x"}, "must say which status"),
    ("maintenance", {"status": 99}, "from 200 to 599, not 99"),
    ("maintenance", {"status": 503, "body": "x" * 5000}, "at most 4096 bytes"),
    ("connection_pool", {"tcp": {"maxConnections": -1}}, "connection_pool tcp maxConnections must be a whole number"),
    ("connection_pool", {"tcp": {"connectTimeout": "3"}}, "connectTimeout must be a duration with its unit"),
    ("connection_pool", {"http": {"maxRetry": 1}}, "no part 'maxRetry': did you mean 'maxRetries'"),
    ("outlier_detection", {"maxEjectionPercent": 101}, "from 0 to 100, not 101"),
    ("outlier_detection", {"consecutiveLocalOriginFailures": 1}, "no effect without splitExternalLocalOriginErrors"),
    ("outlier_detection", {"splitExternalLocalOriginErrors": 1}, "must be true or false"),
    ("load_balancer", "fastest", "no kind 'FASTEST'"),
    ("load_balancer", {"simple": "RANDOM", "consistentHash": {}}, "one of simple and consistentHash"),
    ("load_balancer", {"consistentHash": {"httpHeaderName": "a", "useSourceIp": True}}, "exactly one of"),
    ("load_balancer", {"consistentHash": {"httpHeaderName": "a b"}}, "is not valid"),
    ("load_balancer", {"consistentHash": {"httpCookie": {"name": "a"}}}, "must have a ttl"),
    (
        "load_balancer",
        {"consistentHash": {"httpCookie": {"name": "a", "ttl": "1", "path": "/"}}},
        "ttl must be a duration",
    ),
    ("load_balancer", {"consistentHash": {"useSourceIp": False}}, "must be true, or left out"),
    ("load_balancer", {"consistentHash": {"httpQueryParameterName": ""}}, "must be a text"),
    ("load_balancer", {"consistentHash": {"httpHeaderName": "a", "minimumRingSize": 0}}, "minimumRingSize"),
    ("load_balancer", {"warmup": "60"}, "load_balancer warmup duration must be a duration with its unit"),
    ("load_balancer", {"warmup": {"aggression": 1}}, "load_balancer warmup must say its duration"),
    ("load_balancer", {"warmup": {"duration": "60s", "aggression": 0}}, "aggression must be above 0"),
    ("load_balancer", {"warmup": {"duration": "60s", "minimumPercent": 101}}, "a number from 0 to 100, not 101"),
    ("load_balancer", {"warmup": {"duration": "60s", "minimumPercent": True}}, "a number from 0 to 100, not True"),
    ("load_balancer", {"warmup": {"duration": "60s", "speed": 1}}, "no part 'speed'"),
    ("load_balancer", {"simple": "RANDOM", "warmup": "60s"}, "warmup has no effect with simple RANDOM"),
    ("load_balancer", {"consistentHash": {"useSourceIp": True}, "warmup": "60s"}, "no effect with consistentHash"),
    ("tls", "MUTAL", "tls mode can't be 'MUTAL': did you mean 'MUTUAL'"),
    ("tls", "MUTUAL", "MUTUAL needs a credentialName"),
    ("tls", {"mode": "DISABLE", "sni": "a"}, "tls sni has no effect with mode DISABLE"),
)


@pytest.mark.parametrize(
    ("name", "value", "words"), REFUSED, ids=[f"{name}-{value}"[:60] for name, value, _ in REFUSED]
)
def test_a_setting_that_cant_be_right_is_refused_with_its_name(name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_field(name, value)


BAD_MATCHES: tuple[tuple[Any, str], ...] = (
    ([], "a match must be a rule or a list of rules"),
    ([{}], "must be an object with a condition"),
    ({"header": {"a": "b"}}, "unknown condition 'header' in a match: did you mean 'headers'"),
    ({"headers": {"x a": "b"}}, "match headers name 'x a' is not valid"),
    ({"headers": {"x-a": {"regex": "("}}}, "match headers 'x-a' is no regular expression"),
    ({"headers": {"x-a": {"regex": ""}}}, "must be a regular expression"),
    ({"headers": {"x-a": {"suffix": "b"}}}, "unknown kind 'suffix'"),
    ({"headers": {"x-a": {"exact": "b", "prefix": "c"}}}, "exactly one of exact, prefix and regex"),
    ({"headers": {"x-a": {"exact": ""}}}, "must be a text that is not empty"),
    ({"headers": {"x-a": 1}}, "must be a text or such as"),
    ({"headers": {"x-a": "1", "X-A": "2"}}, "names 'x-a' twice"),
    ({"headers": {"x-mlflow-deployment": "v1"}}, "which pins and probes need"),
    ({"headers": {"method": "GET"}}, "which Istio ignores there: use the condition method"),
    ({"headers": {}}, "must be an object of names"),
    ({"headers": {"x-a": "1"}, "withoutHeaders": {"x-a": {}}}, "wants the header 'x-a' and wants it absent"),
    ({"method": "FETCH"}, "match method 'FETCH' is none of HTTP's"),
    ({"ignoreUriCase": True}, "no effect without an exact or prefix uri"),
    ({"uri": "/a", "ignoreUriCase": "yes"}, "must be true or false"),
    ({"cookie": {"a": "1", "b": "2"}}, "must name one cookie"),
    ({"cookie": {"a": "1"}, "headers": {"cookie": "a=1"}}, "both a cookie and the header 'cookie'"),
    ({"port": "80"}, "match port must be a port number"),
    ({"sourceLabels": {"app": 1}}, "sourceLabels must be an object of texts"),
    ({"gateways": "mesh"}, "gateways must be a list"),
    ({"sourceNamespace": ""}, "sourceNamespace must be a text"),
    ([{"uri": "/a"}, {"uri": "/a"}], "twice: leave one out"),
)


@pytest.mark.parametrize(("value", "words"), BAD_MATCHES)
def test_a_match_that_cant_be_right_is_refused_with_the_condition(value: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_match(value)


TOGETHER: tuple[tuple[dict[str, Any], str], ...] = (
    ({"rewrite": "/a", "redirect": "/b"}, "rewrite can't go with redirect"),
    ({"maintenance": "503", "redirect": "/b"}, "redirect and maintenance can't both answer"),
    ({"timeout": "1s", "retries": {"attempts": 1, "perTryTimeout": "2s"}}, "2s is longer than timeout 1s"),
    ({}, "nothing to set: give one of timeout"),
)


@pytest.mark.parametrize(("changes", "words"), TOGETHER)
def test_what_istio_cant_do_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        with_policy_request(NO_POLICY, PolicyRequest(changes=changes))


BAD_FAULTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"delay": None}, "needs a delay or an abort"),
    ({"delay": "2"}, "fault delay must be a duration with its unit"),
    ({"abort": 600}, "from 200 to 599, not 600"),
    ({"percentage": 101}, "over 0 and at most 100, not 101"),
    ({"percentage": 0}, "over 0"),
)


@pytest.mark.parametrize(("changes", "words"), BAD_FAULTS)
def test_a_fault_that_cant_be_right_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        a_fault(**changes)


NOTES: tuple[tuple[Policy, bool, str], ...] = (
    (Policy(route=RoutePolicy(timeout="1s"), fault=a_fault()), False, "timeout don't act on faulted requests"),
    (Policy(fault=a_fault()), True, "requests that the fault aborts are not mirrored"),
    (Policy(route=RoutePolicy(retries={"attempts": 1})), True, "a copy is sent once"),
    (
        Policy(route=RoutePolicy(maintenance={"status": 503}, timeout="1s")),
        False,
        "while maintenance answers all requests",
    ),
    (
        with_policy_request(
            NO_POLICY, PolicyRequest(changes={"load_balancer": {"consistentHash": {"httpHeaderName": "a"}}})
        ),
        False,
        "consistent hash",
    ),
)


@pytest.mark.parametrize(("policy", "mirrors", "words"), NOTES)
def test_what_acts_only_partly_together_is_said(policy: Policy, words: str, *, mirrors: bool) -> None:
    assert any(words in note for note in notes(policy, mirrors=mirrors))
    assert notes(NO_POLICY, mirrors=mirrors) == ()


def test_durations_have_units() -> None:
    assert seconds_of("1m30s") == 90
    assert seconds_of("250ms") == 0.25
    assert check_duration("1ms") == "1ms"
    for text in ("", "5", "s", "5 s", None):
        with pytest.raises(InvalidInput, match="with its unit"):
            seconds_of(text)


def test_header_rules_join_with_the_second_one_counting() -> None:
    first = {"request": {"set": {"a": "1", "b": "1"}, "remove": ["c"]}}
    second = {"request": {"remove": ["A"], "add": {"c": "3"}}, "response": {"set": {"d": "4"}}}
    assert merged_headers(first, second) == {
        "request": {"set": {"b": "1"}, "remove": ["A"], "add": {"c": "3"}},
        "response": {"set": {"d": "4"}},
    }
    assert merged_headers(first, None) == first


TAKEN: tuple[tuple[str, Any, Any], ...] = (
    (
        "retries",
        {"attempts": 2, "retryOn": "5xx, 429", "backoff": "1s"},
        {"attempts": 2, "retryOn": "5xx,429", "backoff": "1s"},
    ),
    ("headers", {"request": {"remove": ["X-B", "x-a"]}}, {"request": {"remove": ["x-a", "x-b"]}}),
    (
        "headers",
        {"response": {"set": {"x-p": "50%% of %REQ(x-a)%"}}},
        {"response": {"set": {"x-p": "50%% of %REQ(x-a)%"}}},
    ),
    ("rewrite", "/v2", {"uri": "/v2"}),
    ("rewrite", {"authority": "a.b:80"}, {"authority": "a.b:80"}),
    (
        "rewrite",
        {"uriRegexRewrite": {"match": "/(a)/(.*)", "rewrite": "/\\2"}},
        {"uriRegexRewrite": {"match": "/(a)/(.*)", "rewrite": "/\\2"}},
    ),
    (
        "redirect",
        {"authority": "a", "scheme": "https", "port": 8443},
        {"authority": "a", "scheme": "https", "port": 8443},
    ),
    ("maintenance", "503", {"status": 503}),
    ("maintenance", {"status": 503, "body": {"string": "x"}}, {"status": 503, "body": {"string": "x"}}),
    (
        "outlier_detection",
        {"splitExternalLocalOriginErrors": True, "consecutiveLocalOriginFailures": 3, "interval": "1s"},
        {"splitExternalLocalOriginErrors": True, "consecutiveLocalOriginFailures": 3, "interval": "1s"},
    ),
    ("connection_pool", {"http": {"idleTimeout": "1s"}}, {"http": {"idleTimeout": "1s"}}),
    ("load_balancer", "least-request", {"simple": "LEAST_REQUEST"}),
    (
        "load_balancer",
        {"consistentHash": {"httpQueryParameterName": "u", "minimumRingSize": 8}},
        {"consistentHash": {"httpQueryParameterName": "u", "minimumRingSize": 8}},
    ),
    ("load_balancer", {"consistentHash": {"useSourceIp": True}}, {"consistentHash": {"useSourceIp": True}}),
    (
        "load_balancer",
        {"consistentHash": {"httpCookie": {"name": "a", "ttl": "0s", "path": "/"}}},
        {"consistentHash": {"httpCookie": {"name": "a", "ttl": "0s", "path": "/"}}},
    ),
    ("tls", "istio-mutual", {"mode": "ISTIO_MUTUAL"}),
    ("tls", {"mode": "MUTUAL", "credentialName": "c"}, {"mode": "MUTUAL", "credentialName": "c"}),
)


@pytest.mark.parametrize(("name", "value", "written"), TAKEN)
def test_a_setting_is_written_in_istios_form_and_checked_again_it_stays(name: str, value: Any, written: Any) -> None:
    assert check_field(name, value) == written
    assert check_field(name, written) == written
