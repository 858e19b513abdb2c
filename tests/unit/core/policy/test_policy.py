"""Policies: what is refused, in one line each; what renders together; what belongs to the owner stays."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlflow_istio.core.basics.objects import Object, with_annotations
from mlflow_istio.core.endpoint.deadlines import Deadline, due, with_deadline, without_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import SessionAffinity
from mlflow_istio.core.matching.requests import Request, answering_route
from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.mesh.virtual_service import read_endpoint, write_endpoint
from mlflow_istio.core.moves import policies, transitions
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.routes import policy_key
from mlflow_istio.core.policy.settings import NO_POLICY, CustomRoute, PolicyRequest
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict
from tests.support.endpoint_values import (
    TIME,
    a_release,
    a_virtual_service,
    adopted,
    an_endpoint,
    by_header,
    canary,
    carrying,
    moved,
    names,
    route,
)
from tests.support.policy_values import a_fault

MATCHING: tuple[tuple[Any, Request, bool], ...] = (
    ({"headers": {"X-User": "staff"}}, Request(headers={"x-user": "staff"}), True),
    ({"headers": {"x-user": {"prefix": "st"}}}, Request(headers={"x-user": "staff"}), True),
    ({"headers": {"x-user": {"present": True}}}, Request(headers={"x-user": ""}), True),
    ({"headers": {"x-user": {"regex": "st.*"}}, "method": "GET"}, Request(headers={"x-user": "staff"}), False),
    ([{"method": "GET"}, {"uri": "/invocations"}], Request(), True),
    ({"uri": "/INVOCATIONS", "ignoreUriCase": True}, Request(), True),
    ({"uri": {"prefix": "/a"}, "ignoreUriCase": False}, Request(path="/a/b"), True),
    ({"queryParams": {"debug": "1"}}, Request(query={"debug": "1"}), True),
    ({"withoutHeaders": {"x-bot": {"present": True}}}, Request(headers={"x-bot": "1"}), False),
    ({"withoutHeaders": {"X-Bot": {"regex": "*"}}}, Request(headers={"x-bot": ""}), False),
    (
        {"headers": {"X-User": {"regex": "*"}}, "queryParams": {"debug": {"regex": "*"}}},
        Request(query={"debug": ""}),
        False,
    ),
    ({"queryParams": {"debug": {"regex": "*"}}}, Request(query={"debug": ""}), True),
    ({"cookie": {"plan": "gold"}}, Request(headers={"cookie": "a=1; plan=gold; b=2"}), True),
    ({"cookie": {"plan": "gold"}}, Request(headers={"cookie": "xplan=gold"}), False),
    ({"cookie": {"plan": {"prefix": "go"}}}, Request(headers={"cookie": "plan=gold"}), True),
    ({"cookie": {"plan": {"regex": "gold|silver"}}}, Request(headers={"cookie": "plan=golden"}), False),
    ({"cookie": {"plan": {"present": True}}}, Request(headers={"cookie": "plan="}), True),
)


@pytest.mark.parametrize(("match", "request_", "reached"), MATCHING)
def test_a_rule_takes_exactly_the_matching_requests(match: Any, request_: Request, *, reached: bool) -> None:
    rule = CustomRoute(name="inner", deployment="v2", match=read_match(match))
    routes = carrying(policies.set_rule(an_endpoint(), rule))
    found = answering_route(routes, request_)
    assert found is not None
    assert (found["name"] == "mlflow-istio.churn.rule.inner") is reached


def test_conditions_on_where_a_request_comes_from_are_written_as_they_are() -> None:
    places = {"sourceLabels": {"app": "web"}, "sourceNamespace": "shop", "port": 8080, "gateways": ["mesh"]}
    assert read_match({**places, "authority": {"prefix": "a."}}) == ({**places, "authority": {"prefix": "a."}},)


def wished(endpoint: Endpoint | None = None, subset: str | None = None, **changes: Any) -> Endpoint:
    at = subset and changes.pop("route", None)
    policy_request = PolicyRequest(changes=changes, subset=subset, route=at)
    return policies.set_policy(endpoint or an_endpoint(), policy_request)


AIMED: tuple[tuple[PolicyRequest, type[Exception], str], ...] = (
    (PolicyRequest(changes={"timeout": "1s"}, subset="v2"), InvalidInput, "'timeout' is set for the endpoint"),
    (PolicyRequest(changes={"timeout": "1s"}, subset="v9"), StateConflict, "'churn' has no deployment 'v9'"),
    (PolicyRequest(changes={"timeout": "1s"}, route="inner"), InvalidInput, "there is no route 'inner'"),
    (
        PolicyRequest(changes={"tls": "DISABLE"}, route="staff"),
        InvalidInput,
        "'tls' is set for the endpoint or for a deployment",
    ),
    (PolicyRequest(changes={"tls": "DISABLE"}, route="a", subset="v1"), InvalidInput, "not both"),
)


@pytest.mark.parametrize(("policy_request", "kind", "words"), AIMED)
def test_a_setting_that_has_no_place_where_it_is_aimed_is_refused(
    policy_request: PolicyRequest, kind: type[Exception], words: str
) -> None:
    rule = CustomRoute(name="staff", deployment="v2", match=({"uri": {"exact": "/a"}},))
    with pytest.raises(kind, match=words):
        policies.set_policy(policies.set_rule(an_endpoint(), rule), policy_request)


def test_a_split_arms_mirror_cookie_fault_and_headers_render_as_one_value() -> None:
    """The order in which they were set makes no difference, and each acts on every live route."""
    headers = {"request": {"set": {"x-tenant": "a"}}}

    def ab(now: Endpoint) -> Endpoint:
        traffic_request = TrafficRequest(cookie="arm", weight=50)
        return transitions.start(now, a_release("ab", traffic_request=traffic_request), traffic_request)

    def policy(now: Endpoint) -> Endpoint:
        now = wished(now, timeout="2s", headers=headers)
        return wished(now, subset="v2", headers={"response": {"set": {"x-arm": "b"}}})

    def fault(now: Endpoint) -> Endpoint:
        return policies.start_fault(now, a_fault(percentage=10))

    one = carrying(fault(policy(ab(an_endpoint()))))
    other = carrying(ab(fault(policy(an_endpoint()))))
    assert one["spec"] == other["spec"]
    live = ["arm.v1", "arm.v2", "split"]
    expected = ["probe", "pin.v1", "pin.v2", "pin.v3"]
    expected += [part for name in live for part in (f"fault.{name}", name)]
    assert names(one) == [f"mlflow-istio.churn.{name}" for name in expected]
    for name in live:
        faulted, plain = (route(one, f"mlflow-istio.churn.{start}{name}") for start in ("fault.", ""))
        assert faulted.pop("fault") == {"delay": {"fixedDelay": "1s", "percentage": {"value": 10.0}}}
        assert {**faulted, "name": plain["name"]} == plain
        assert plain["timeout"] == "2s"
        assert plain["headers"] == headers
    entries = {e["destination"]["subset"]: e for e in route(one, "mlflow-istio.churn.split")["route"]}
    assert entries["v2"]["headers"]["response"]["set"] == {"x-arm": "b"}
    assert "set-cookie" in entries["v2"]["headers"]["response"]["add"]
    assert "fault" not in route(one, "mlflow-istio.churn.pin.v2")


def test_maintenance_answers_users_and_leaves_pinned_access() -> None:
    state = carrying(wished(maintenance={"status": 503, "body": "back at noon"}))
    answer = answering_route(state, Request())
    assert answer is not None
    assert answer["directResponse"] == {"status": 503, "body": {"string": "back at noon"}}
    pinned = answering_route(state, Request(headers={"x-mlflow-deployment": "v2"}))
    assert pinned is not None
    assert pinned["route"][0]["destination"]["subset"] == "v2"
    assert carrying(wished(wished(maintenance="503"), maintenance=None))["spec"] == carrying(an_endpoint())["spec"]


def test_a_redirect_stands_inside_the_adopted_routes_own_match() -> None:
    state = moved(adopted(), lambda now: wished(now, redirect={"uri": "/moved"}), "c1", "policy")
    answer = route(state, "mlflow-istio.churn.answer")
    assert answer == {
        "name": "mlflow-istio.churn.answer",
        "match": [{"uri": {"prefix": "/api"}}],
        "redirect": {"uri": "/moved"},
    }


FOREIGN: tuple[tuple[str, Any, str], ...] = (
    ("timeout", "9s", "route 'main' has timeout of its own ('3s')"),
    ("retries", {"attempts": 1}, "route 'main' has retries of its own"),
    ("headers", {"response": {"set": {"x-theirs": "2"}}}, "route 'main' has headers.response.set.x-theirs of its own"),
)


@pytest.mark.parametrize(("name", "value", "words"), FOREIGN)
def test_an_owners_field_is_refused_by_name_and_comes_back_after_a_replacement(
    name: str, value: Any, words: str
) -> None:
    theirs = adopted(headers={"response": {"set": {"x-theirs": "1"}}})

    def set_to(value: Any, *, replaced: bool) -> Any:
        return lambda now: policies.set_policy(now, PolicyRequest(changes={name: value}, replace=replaced))

    with pytest.raises(StateConflict) as refused:
        moved(theirs, set_to(value, replaced=False), "c1", "policy")
    assert words in str(refused.value)
    assert "-C replace=true" in str(refused.value)
    said = moved(theirs, set_to(value, replaced=True), "c1", "policy")
    released = moved(said, canary, "c2", "start")
    back = moved(moved(released, transitions.abort, "c3", "abort"), set_to(None, replaced=False), "c4", "policy")
    assert {**route(back, "main"), "route": 0} == {**route(theirs, "main"), "route": 0}


def test_a_field_that_its_owner_edited_later_never_blocks_a_rollback_and_stays() -> None:
    state = moved(
        moved(a_virtual_service(), lambda now: wished(now, timeout="2s"), "c1", "policy"), canary, "c2", "start"
    )
    http = [{**one, "timeout": "7s"} if one["name"].endswith(".split") else one for one in state["spec"]["http"]]
    edited = {**state, "spec": {**state["spec"], "http": http}}
    after = moved(edited, transitions.rollback, "c3", "rollback")
    assert route(after, "mlflow-istio.churn.split")["timeout"] == "7s"
    with pytest.raises(StateConflict, match="timeout of its own"):
        moved(after, lambda now: wished(now, timeout="3s"), "c4", "policy")
    gone = moved(after, lambda now: wished(now, timeout=None), "c4", "policy")
    assert route(gone, "mlflow-istio.churn.split")["timeout"] == "7s"


def test_an_owners_fault_is_not_overwritten() -> None:
    theirs = adopted(fault={"abort": {"httpStatus": 500, "percentage": {"value": 1}}})
    with pytest.raises(StateConflict, match="fault of its own"):
        moved(theirs, lambda now: policies.start_fault(now, a_fault()), "c1", "fault")
    said = moved(theirs, lambda now: policies.start_fault(now, a_fault(), replace_own=True), "c1", "fault")
    assert route(said, "main")["fault"] == route(theirs, "main")["fault"]
    assert moved(said, policies.end_fault, "c2", "fault-end")["spec"]["http"][-2] == said["spec"]["http"][-2]


def test_a_rule_keeps_its_own_settings_beside_what_it_inherits() -> None:
    rule = CustomRoute(name="staff", deployment="v2", match=({"headers": {"x-user": {"exact": "staff"}}},))
    endpoint = policies.set_rule(wished(timeout="2s", headers={"request": {"set": {"a": "1", "b": "1"}}}), rule)
    policy_request = PolicyRequest(
        changes={"rewrite": "/v2", "headers": {"request": {"set": {"b": "2"}}}}, route="staff"
    )
    endpoint = policies.set_policy(endpoint, policy_request)
    found = route(carrying(endpoint), "mlflow-istio.churn.rule.staff")
    assert found["timeout"] == "2s"
    assert found["rewrite"] == {"uri": "/v2"}
    assert found["headers"] == {"request": {"set": {"a": "1", "b": "2"}}}
    away = policies.set_policy(endpoint, PolicyRequest(changes={"redirect": "/x", "rewrite": None}, route="staff"))
    assert route(carrying(away), "mlflow-istio.churn.rule.staff")["redirect"] == {"uri": "/x"}
    moved_on = policies.set_rule(endpoint, replace(rule, deployment="v3"))
    assert moved_on.traffic.policy.rules[0].policy == endpoint.traffic.policy.rules[0].policy


def test_a_rule_counts_as_traffic_and_is_named_when_its_deployment_should_go() -> None:
    rule = CustomRoute(name="staff", deployment="v2", match=({"method": {"exact": "GET"}},))
    endpoint = policies.set_rule(an_endpoint(), rule)
    assert endpoint.traffic.reaches("v2")
    with pytest.raises(StateConflict, match="where route 'staff' leads: remove it first"):
        transitions.unpin(endpoint, "v2")
    with pytest.raises(InvalidInput, match="route 'staff' has a rule of the same match already"):
        policies.set_rule(endpoint, replace(rule, name="other"))
    with pytest.raises(StateConflict, match="no deployment 'v9'"):
        policies.set_rule(endpoint, replace(rule, deployment="v9"))
    with pytest.raises(NotFound, match="no route 'stuff': did you mean 'staff'"):
        policies.remove_rule(endpoint, "stuff")
    assert policies.remove_rule(endpoint, "staff") == an_endpoint()


@pytest.mark.parametrize("end", [transitions.abort, transitions.rollback, transitions.promote])
def test_the_end_of_a_release_ends_its_fault_and_the_routes_to_what_users_leave(end: Any) -> None:
    rules = (
        CustomRoute(name="to-candidate", deployment="v2", match=({"method": {"exact": "GET"}},)),
        CustomRoute(name="to-other", deployment="v3", match=({"method": {"exact": "PUT"}},)),
    )
    endpoint = canary(an_endpoint())
    for rule in rules:
        endpoint = policies.set_rule(endpoint, rule)
    endpoint = end(policies.start_fault(endpoint, a_fault()))
    assert endpoint.traffic.policy.fault is None
    assert endpoint.deadlines == ()
    left = {"to-candidate", "to-other"} if end is transitions.promote else {"to-other"}
    assert {rule.name for rule in endpoint.traffic.policy.rules} == left


def test_an_earlier_changes_traffic_comes_back_without_a_fault_that_has_no_end() -> None:
    endpoint = policies.start_fault(canary(an_endpoint()), a_fault())
    after = policies.settled(endpoint, replace(endpoint, release=None), now=TIME)
    assert (after.traffic.policy.fault, after.deadlines) == (None, ())


def test_a_deleted_deployment_takes_its_own_settings_with_it() -> None:
    endpoint = wished(wished(subset="v3", tls="DISABLE"), subset="v3", headers={"response": {"set": {"a": "1"}}})
    assert transitions.unpin(endpoint, "v3").traffic.policy == NO_POLICY


def test_stickiness_cookies_are_expired_after_the_release_until_browsers_forgot_them() -> None:
    traffic_request = TrafficRequest(cookie="arm", weight=50)
    opened = transitions.start(an_endpoint(), a_release("ab", traffic_request=traffic_request), traffic_request)
    ended = transitions.promote(opened, now=TIME)
    assert ended.deadlines == (Deadline(kind="cookie", at=TIME + timedelta(days=7), what="r1"),)
    state = carrying(ended)
    stale = answering_route(state, Request(headers={"cookie": "x=1; arm=r1.v1"}))
    assert stale is not None
    assert stale["headers"]["response"]["add"]["set-cookie"] == "arm=; Path=/; Max-Age=0; SameSite=Lax"
    assert stale["route"] == route(state, "mlflow-istio.churn.split")["route"]
    fresh = answering_route(state, Request(headers={"cookie": "arm=r2.v1"}))
    assert fresh is not None
    assert fresh["name"].endswith(".split")
    assert (
        carrying(policies.end_cookie(ended, "r1"))["spec"]
        == carrying(replace(ended, traffic=replace(ended.traffic, policy=NO_POLICY)))["spec"]
    )
    again = transitions.start(ended, _second(traffic_request), traffic_request)
    assert again.traffic.policy.stale == (), "the new release sets the same cookie itself"
    assert again.deadlines == ()


def _second(traffic_request: TrafficRequest) -> Any:
    from mlflow_istio.core.moves.strategies import assignment_for

    return replace(
        a_release("ab", "v1", id="r2", traffic_request=traffic_request),
        assignment=assignment_for("r2", ("v2", "v1"), traffic_request),
    )


def test_the_replaced_version_is_kept_until_its_time_and_longer_when_it_is_needed_again() -> None:
    promoted = transitions.promote(canary(an_endpoint()), now=TIME, keep=timedelta(hours=1))
    assert promoted.deadlines == (Deadline(kind="keep", at=TIME + timedelta(hours=1), what="v1"),)
    assert transitions.rollback(promoted, now=TIME).deadlines == ()
    released_again = transitions.start(promoted, a_release("canary", "v1", id="r2"), TrafficRequest(weight=5))
    assert released_again.deadlines == ()


def test_a_canary_by_match_gets_exactly_the_matching_requests() -> None:
    match = read_match({"headers": {"x-user": "staff"}})
    traffic_request = TrafficRequest(match=match)
    endpoint = transitions.start(an_endpoint(), a_release(), traffic_request)
    assert endpoint.traffic.weights == {"v1": 100, "v2": 0}
    found = answering_route(carrying(endpoint), Request(headers={"x-user": "staff"}))
    assert found is not None
    assert found["route"][0]["destination"]["subset"] == "v2"
    wider = transitions.shift(endpoint, TrafficRequest(weight=20))
    assert (wider.traffic.weights, wider.traffic.arms) == ({"v1": 80, "v2": 20}, endpoint.traffic.arms)
    assert transitions.shift(wider, TrafficRequest(match=())).traffic.weights == {"v1": 80, "v2": 20}
    assert transitions.shift(wider, TrafficRequest(match=())).traffic.arms == ()
    assert transitions.promote(wider).traffic.arms == ()


def test_arms_by_match_need_no_header_or_cookie() -> None:
    arms = {"v1": read_match({"queryParams": {"arm": "a"}}), "v2": read_match({"queryParams": {"arm": "b"}})}
    traffic_request = TrafficRequest(arms=arms, weight=0)
    release = replace(a_release("canary"), strategy="ab")
    endpoint = transitions.start(an_endpoint(), release, traffic_request)
    assert {arm.deployment: arm.match for arm in endpoint.traffic.arms} == arms
    assert transitions.shift(endpoint, TrafficRequest(arms=arms)) == endpoint
    for given, words in (
        ({"v9": arms["v1"], "v2": arms["v2"]}, "names 'v9', which is no arm"),
        ({"v1": arms["v1"]}, "'v2' is missing"),
        ({"v1": arms["v1"], "v2": arms["v1"]}, "the same match"),
    ):
        with pytest.raises(InvalidInput, match=words):
            transitions.start(an_endpoint(), release, TrafficRequest(arms=given))
    with pytest.raises(InvalidInput, match="'arms' is fixed when an A/B release starts"):
        transitions.shift(endpoint, TrafficRequest(arms={"v2": arms["v2"]}))


def test_a_fault_whose_match_contradicts_a_route_is_refused() -> None:
    endpoint = policies.start_fault(an_endpoint(), a_fault(match=({"headers": {"x-arm": {"exact": "other"}}},)))
    with pytest.raises(InvalidInput, match="already matches on header 'x-arm'"):
        carrying(by_header(endpoint))


def test_a_fault_and_maintenance_exclude_each_other() -> None:
    with pytest.raises(InvalidInput, match="a fault has no effect while all requests are redirected or answered"):
        policies.start_fault(wished(maintenance="503"), a_fault())


def test_a_damaged_policy_is_named() -> None:
    damaged = with_annotations(a_virtual_service(), {policy_key("churn"): '{"policy": 5}'})
    with pytest.raises(InvalidInput, match=r"annotation mlflow-istio.org/policy.churn is damaged"):
        read_endpoint(damaged, "churn")


UNTIL = "2026-01-01T00:00:00+00:00"
HELD_BACK = {"delay": "2s", "percentage": 100.0, "until": UNTIL}
STORED_DAMAGE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"headers": {"v2": {"response": []}}}, r"policy\.headers\.v2\.response: must be an object, not \[\]"),
    ({"headers": {"v2": {"response": {"set": 0}}}}, r"policy\.headers\.v2\.response\.set: must be an object, not 0"),
    ({"headers": {"v2": {"response": {"remove": "a"}}}}, r"policy\.headers\.v2\.response\.remove: must be a list"),
    ({"headers": {"v2": {"answer": {}}}}, r"policy\.headers\.v2: unknown fields: answer"),
    (
        {"route": {"headers": {"response": float("nan")}}},
        r"policy\.route\.headers\.response: must be an object, not nan",
    ),
    ({"route": {"headers": {"request": {"add": {"x-a": 1}}}}}, r"route\.headers\.request\.add\.x-a: must be a text"),
    (
        {"fault": {**HELD_BACK, "match": [{"headers": -1}]}},
        r"policy\.fault\.match\[0\]\.headers: must be an object, not -1",
    ),
    ({"fault": {**HELD_BACK, "match": {"uri": {}}}}, r"policy\.fault\.match: must be a list"),
    (
        {"rules": [{"name": "a", "deployment": "v2", "match": [{"uri": "/a"}], "policy": {}}]},
        r"policy\.rules\[0\]\.match\[0\]\.uri: must be an object, not '/a'",
    ),
)


@pytest.mark.parametrize(("policy", "words"), STORED_DAMAGE, ids=[str(policy)[:60] for policy, _ in STORED_DAMAGE])
def test_damage_inside_of_a_policy_is_named_by_its_path(policy: dict[str, Any], words: str) -> None:
    damaged = with_annotations(a_virtual_service(), {policy_key("churn"): json.dumps({"policy": policy})})
    with pytest.raises(InvalidInput, match=words) as caught:
        read_endpoint(damaged, "churn")
    assert "\n" not in caught.value.message


def test_a_policy_that_is_too_large_for_an_object_is_refused() -> None:
    endpoint = an_endpoint()
    for number in range(400):
        match: tuple[Object, ...] = ({"headers": {"x-user": {"exact": f"{number:050d}"}}},)
        endpoint = policies.set_rule(endpoint, CustomRoute(name=f"r{number}", deployment="v2", match=match))
    with pytest.raises(InvalidInput, match="is larger than 32768 bytes: take rules or headers away"):
        carrying(endpoint)


def test_nothing_is_set_on_an_endpoint_that_is_being_deleted() -> None:
    gone = transitions.mark_deleting(an_endpoint())
    with pytest.raises(StateConflict, match="is being deleted"):
        wished(gone, timeout="1s")


def test_deadlines_come_due_in_order_and_one_thing_has_one() -> None:
    late, early = Deadline(kind="keep", at=TIME, what="a"), Deadline(kind="fault", at=TIME - timedelta(hours=1))
    assert due((late, early), TIME) == (early, late)
    assert due((late, early), TIME - timedelta(minutes=1)) == (early,)
    assert with_deadline((late,), Deadline(kind="keep", at=TIME, what="a")) == (late,)
    assert without_deadline((late, early), "keep", "b") == (late, early)
    assert policies.drop_deadline(replace(an_endpoint(), deadlines=(late, early)), late).deadlines == (early,)


def test_an_owners_case_write_of_everything_reads_back() -> None:
    endpoint = wished(timeout="2s", retries={"attempts": 0}, rewrite="/v2")
    assert read_endpoint(write_endpoint(a_virtual_service(), endpoint), "churn").traffic == endpoint.traffic


def test_headers_that_we_remove_beside_the_owners_go_alone_when_ours_go() -> None:
    theirs = adopted(headers={"request": {"remove": ["x-theirs"]}})

    def removing(value: Any, *, replaced: bool = False) -> Any:
        return lambda now: policies.set_policy(now, PolicyRequest(changes={"headers": value}, replace=replaced))

    ours = moved(theirs, removing({"request": {"remove": ["x-ours"]}}), "c1", "policy")
    assert route(ours, "main")["headers"] == {"request": {"remove": ["x-theirs", "x-ours"]}}
    with pytest.raises(StateConflict, match=r"headers.request.remove.x-theirs of its own"):
        moved(theirs, removing({"request": {"remove": ["x-theirs"]}}), "c1", "policy")
    assert {**route(moved(ours, removing(None), "c2", "policy"), "main"), "route": 0} == {
        **route(theirs, "main"),
        "route": 0,
    }


THEIR_HEADER: dict[str, Any] = {
    "set": {"X-Tenant": "a"},
    "add": {"X-Tenant": "a"},
    "remove": ["X-Tenant"],
}


@pytest.mark.parametrize("side", ["request", "response"])
@pytest.mark.parametrize("theirs", sorted(THEIR_HEADER))
@pytest.mark.parametrize("ours", ["set", "add", "remove"])
def test_a_header_of_the_owners_is_met_in_any_case_and_by_any_operation(side: str, theirs: str, ours: str) -> None:
    before = adopted(headers={side: {"add": {"x-more": "1"}, theirs: THEIR_HEADER[theirs]}})

    def asked(value: Any, *, replaced: bool = False) -> Any:
        return lambda now: policies.set_policy(now, PolicyRequest(changes={"headers": value}, replace=replaced))

    wanted = {side: {ours: ["x-tenant"] if ours == "remove" else {"x-tenant": "b"}}}
    words = rf"route 'main' has headers\.{side}\.{theirs}\.X-Tenant of its own .*the same header as x-tenant"
    with pytest.raises(StateConflict, match=words):
        moved(before, asked(wanted), "c1", "policy")
    after = moved(before, asked(wanted, replaced=True), "c1", "policy")
    said = {name.lower() for entries in route(after, "main")["headers"][side].values() for name in entries}
    assert "X-Tenant" not in str(route(after, "main")["headers"])
    assert "x-tenant" in said
    other = {side: {"set": {"x-tenant": "c"}}}
    again = moved(moved(after, asked(other), "c2", "policy"), asked(other), "c3", "policy")
    assert route(again, "main")["headers"][side]["set"]["x-tenant"] == "c"
    for state in (after, again):
        back = moved(state, asked(None), "c4", "policy")
        assert {**route(back, "main"), "route": 0} == {**route(before, "main"), "route": 0}


def test_a_header_that_its_owner_wrote_in_another_case_later_blocks_nothing() -> None:
    state = moved(adopted(), lambda now: wished(now, headers={"request": {"set": {"x-tenant": "b"}}}), "c1", "policy")
    http = [
        {**one, "headers": {"request": {"set": {"X-Tenant": "a"}}}} if one.get("name") == "main" else one
        for one in state["spec"]["http"]
    ]
    edited = {**state, "spec": {**state["spec"], "http": http}}
    after = moved(edited, canary, "c2", "start")
    assert route(after, "main")["headers"] == {"request": {"set": {"X-Tenant": "a"}}}


def test_stickiness_meets_a_cookie_of_any_spelling() -> None:
    state = carrying(canary(an_endpoint()))
    for one in state["spec"]["http"]:
        for entry in one["route"] if one["name"].endswith(".split") else ():
            entry["headers"] = {"response": {"add": {"Set-Cookie": "a=b"}}}
    edited = read_endpoint(state, "churn")
    sticky = SessionAffinity(cookie="arm", release="r1", max_age=60)
    with pytest.raises(InvalidInput, match="already adds a 'set-cookie' header"):
        write_endpoint(state, replace(edited, traffic=replace(edited.traffic, sticky=sticky)))
    assert write_endpoint(state, edited)["spec"] == state["spec"]
