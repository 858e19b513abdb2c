"""Settings, routes of their own and faults, by real requests: through plugin options, Python and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from mlflow.deployments.cli import commands as mlflow_deployments
from mlflow.exceptions import MlflowException

from mlflow_istio.cli import main as mlflow_istio
from tests.scenarios.place import VERSION, Place, inside_bounds
from tests.testbed.client import wait_for

Setter = Callable[[Place, dict[str, Any]], None]


@pytest.fixture
def plain(settled: Place) -> Iterator[Place]:
    """The settled place, without settings, routes and faults before and after."""
    _clear(settled)
    yield settled
    _clear(settled)


def _clear(place: Place) -> None:
    if place.client.get_endpoint("m")["release"]:
        place.do(action="abort")
    found = place.client.get_endpoint("m")["policy"]
    if found.get("fault"):
        place.client.fault("m", end=True)
    for rule in found.get("rules", ()):
        place.client.route("m", remove=rule["name"])
    names = {**found.get("route", {}), **found.get("destination", {})}
    if names:
        place.client.policy("m", **dict.fromkeys(names, "none"))
    for subset in {**found.get("headers", {}), **found.get("subsets", {})}:
        settings = ("headers", "connection_pool", "outlier_detection", "load_balancer", "tls")
        place.client.policy("m", subset=subset, **dict.fromkeys(settings, "none"))


def faults_due(endpoint: dict[str, Any]) -> list[Any]:
    """Deadlines of faults; an A/B release before may have left that of its cookie, which is days away."""
    return [deadline for deadline in endpoint["deadlines"] if deadline["kind"] == "fault"]


def _ok(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def by_options(place: Place, settings: dict[str, Any]) -> None:
    texts = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]
    pairs = [part for text in texts for part in ("-C", text)]
    _ok(CliRunner().invoke(mlflow_deployments, ["update-endpoint", "--endpoint", "m", "-t", place.target, *pairs]))


def by_command(place: Place, settings: dict[str, Any]) -> None:
    words = [f"--{k.replace('_', '-')}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items()]
    _ok(CliRunner().invoke(mlflow_istio, ["policy", "m", "-t", place.target, *words]))


def by_python(place: Place, settings: dict[str, Any]) -> None:
    place.client.policy("m", **settings)


WAYS = [by_options, by_command, by_python]


def call(place: Place, path: str = "/ping", method: str = "GET", **kwargs: Any) -> requests.Response:
    url, own = place.url()
    headers = {**own, **kwargs.pop("headers", {})}
    return requests.request(method, url + path, headers=headers, timeout=60, allow_redirects=False, **kwargs)


@pytest.mark.parametrize("setting", WAYS)
def test_headers_are_set_added_and_removed_and_taken_away_again(plain: Place, setting: Setter) -> None:
    rules = {"response": {"set": {"x-team": "risk"}, "add": {"x-more": "1"}, "remove": ["x-mlflow-nothing"[2:]]}}
    setting(plain, {"headers": rules})
    answer = call(plain)
    assert (answer.headers["x-team"], answer.headers["x-more"], answer.headers[VERSION]) == ("risk", "1", "m/1")
    assert call(plain, headers={"x-mlflow-deployment": "m-v2"}).headers["x-team"] == "risk", "pins inherit"
    setting(plain, {"headers": "none"})
    assert "x-team" not in call(plain).headers
    actions = [change["action"] for change in plain.client.history("m")]
    assert actions[-2:] == ["policy", "policy"]


@pytest.mark.parametrize("setting", WAYS)
def test_a_deployments_headers_are_on_its_answers_alone(plain: Place, setting: Setter) -> None:
    setting(plain, {"headers": {"response": {"set": {"x-arm": "b"}}}, "subset": "m-v2"})
    plain.do(strategy="canary", candidate="m-v2", weight=50)
    seen = {(answer.headers[VERSION], answer.headers.get("x-arm")) for answer in (call(plain) for _ in range(60))}
    assert seen == {("m/1", None), ("m/2", "b")}


@pytest.mark.parametrize("setting", WAYS)
def test_a_path_is_rewritten_and_pinned_access_is_proved_all_the_same(plain: Place, setting: Setter) -> None:
    assert call(plain, "/api/ping").status_code == 404
    setting(plain, {"rewrite": {"uriRegexRewrite": {"match": "/api/(.*)", "rewrite": "/\\1"}}})
    answer = call(plain, "/api/ping")
    assert (answer.status_code, answer.headers[VERSION]) == (200, "m/1")
    plain.do(strategy="canary", candidate="m-v2", weight=100)
    assert call(plain, "/api/ping").headers[VERSION] == "m/2"


@pytest.mark.parametrize("setting", WAYS)
def test_callers_are_redirected_and_pinned_requests_still_served(plain: Place, setting: Setter) -> None:
    setting(plain, {"redirect": {"uri": "/moved", "redirectCode": 307}})
    answer = call(plain)
    assert (answer.status_code, answer.headers["location"].rpartition("/")[2]) == (307, "moved")
    assert call(plain, headers={"x-mlflow-deployment": "m-v2"}).headers[VERSION] == "m/2"
    setting(plain, {"redirect": "none"})
    assert call(plain).headers[VERSION] == "m/1"


@pytest.mark.parametrize("setting", WAYS)
def test_maintenance_answers_instead_of_the_models(plain: Place, setting: Setter) -> None:
    setting(plain, {"maintenance": {"status": 503, "body": "back at noon"}})
    answer = call(plain)
    assert (answer.status_code, answer.text) == (503, "back at noon")
    assert call(plain, headers={"x-mlflow-deployment": "m-v2"}).status_code == 200
    setting(plain, {"maintenance": "none"})
    assert not plain.send(50).failures


def test_a_route_of_its_own_takes_matching_requests_in_and_out_of_releases(plain: Place) -> None:
    match = [{"headers": {"x-user": {"prefix": "staff-"}}, "method": "GET"}, {"queryParams": {"debug": "1"}}]
    words = ["route", "m", "-t", plain.target, "--to", "m-v2", "--name", "staff", "--match", json.dumps(match)]
    _ok(CliRunner().invoke(mlflow_istio, words))
    for headers, path, version in (
        ({"x-user": "staff-1"}, "/ping", "m/2"),
        ({"x-user": "guest"}, "/ping", "m/1"),
        ({}, "/ping?debug=1", "m/2"),
        ({}, "/ping?debug=2", "m/1"),
        ({"x-user": "staff-1", "x-mlflow-deployment": "m-v3"}, "/ping", "m/3"),
    ):
        assert call(plain, path, headers=headers).headers[VERSION] == version
    plain.client.policy("m", route="staff", headers={"response": {"set": {"x-route": "staff"}}})
    assert call(plain, headers={"x-user": "staff-1"}).headers["x-route"] == "staff"
    with pytest.raises(MlflowException, match="where route 'staff' leads: remove it first"):
        plain.client.delete_deployment("m-v2")
    plain.do(strategy="canary", candidate="m-v3", weight=100)
    assert call(plain, headers={"x-user": "staff-1"}).headers[VERSION] == "m/2"
    plain.do(action="abort")
    plain.do(strategy="canary", candidate="m-v2", weight=0)
    plain.do(action="abort")
    assert call(plain, headers={"x-user": "staff-1"}).headers[VERSION] == "m/1", "the abort took it from the candidate"
    plain.do(add_route={"to": "m-v3", "match": {"cookie": {"plan": "gold"}}})
    assert call(plain, headers={"cookie": "a=b; plan=gold"}).headers[VERSION] == "m/3"
    plain.do(remove_route="m-v3")
    assert call(plain, headers={"cookie": "plan=gold"}).headers[VERSION] == "m/1"


def test_a_canary_by_match_gets_exactly_the_matching_requests(plain: Place) -> None:
    plain.do(strategy="canary", candidate="m-v2", match={"headers": {"x-user": "staff"}})
    assert plain.send(200, {"x-user": "staff"}).versions == {"m/2": 200}
    assert plain.send(200).versions == {"m/1": 200}
    plain.do(weight=30)
    assert inside_bounds(plain.send(1000).versions["m/2"], 1000, 0.3)
    assert plain.send(100, {"x-user": "staff"}).versions == {"m/2": 100}
    assert plain.do(action="abort")["arms"] == []
    assert plain.send(100, {"x-user": "staff"}).versions == {"m/1": 100}


def test_arms_by_match_are_reached_by_their_requests(plain: Place) -> None:
    arms = {"m-v1": {"queryParams": {"arm": "a"}}, "m-v2": {"queryParams": {"arm": "b"}}}
    plain.do(strategy="ab", candidate="m-v2", arms=arms, weight=0)
    assert [call(plain, f"/ping?arm={arm}").headers[VERSION] for arm in "abab"] == ["m/1", "m/2", "m/1", "m/2"]
    assert plain.send(100).versions == {"m/1": 100}


def test_a_fault_hits_its_share_and_its_match_and_never_a_pinned_request(plain: Place) -> None:
    plain.client.fault("m", abort=418, percentage=30, ttl="10m")
    failed = sum(failure.startswith("418") for failure in plain.send(1000).failures)
    assert inside_bounds(failed, 1000, 0.3)
    assert not plain.send(50, {"x-mlflow-deployment": "m-v1"}).failures
    plain.client.fault("m", abort=503, ttl="10m", match={"headers": {"x-user": "staff"}})
    assert not plain.send(50).failures
    assert len(plain.send(50, {"x-user": "staff"}).failures) == 50
    _ok(CliRunner().invoke(mlflow_istio, ["fault", "m", "-t", plain.target, "--end"]))
    assert not plain.send(50, {"x-user": "staff"}).failures
    assert [c["action"] for c in plain.client.history("m")][-3:] == ["fault", "fault", "fault-end"]


def test_a_delay_holds_answers_back(plain: Place) -> None:
    plain.do(fault={"delay": "700ms", "ttl": "10m"})
    started = time.monotonic()
    assert call(plain).status_code == 200
    # Envoy counts from when its loop last looked at the clock, on a busy machine some milliseconds before the request came.
    assert time.monotonic() - started >= 0.6
    plain.do(fault="none")
    assert not faults_due(plain.client.get_endpoint("m"))


def test_a_fault_ends_by_its_time_with_any_verb_and_the_ledger_says_so(plain: Place) -> None:
    plain.client.fault("m", abort=503, ttl="1s")

    def over() -> bool:
        return "fault" not in plain.client.get_endpoint("m")["policy"]

    wait_for("a fault that has ended", over, 60)
    assert not plain.send(50).failures
    last = plain.client.history("m")[-1]
    assert (last["action"], last["reason"]) == ("fault-end", "its time is over")


def test_a_release_takes_the_fault_with_it(plain: Place) -> None:
    plain.do(strategy="canary", candidate="m-v2", weight=50)
    plain.client.fault("m", abort=503, ttl="10m")
    assert len(plain.send(50).failures) == 50
    found = plain.do(action="abort")
    assert (found["policy"], faults_due(found)) == ({}, [])
    assert not plain.send(50).failures


def test_stale_cookies_are_expired_after_the_release(plain: Place) -> None:
    plain.do(strategy="ab", candidate="m-v2", cookie="arm", weight=50)
    (name, _, value) = call(plain).headers["set-cookie"].partition(";")[0].partition("=")
    plain.do(action="promote")
    stale = call(plain, headers={"cookie": f"a=1; {name}={value}"})
    assert stale.headers["set-cookie"] == "arm=; Path=/; Max-Age=0; SameSite=Lax"
    assert stale.headers[VERSION] == "m/2"
    assert "set-cookie" not in call(plain).headers
    assert [one["kind"] for one in plain.client.get_endpoint("m")["deadlines"]] == ["cookie"]


def test_everything_acts_together_on_one_endpoint(plain: Place) -> None:
    """Stickiness, a mirror's worth of copies aside, a fault by match, header rules and a route: none overwrites another."""
    plain.client.policy("m", headers={"response": {"set": {"x-team": "risk"}}}, timeout="10s")
    plain.do(strategy="ab", candidate="m-v2", cookie="arm", weight=50)
    plain.client.route("m", to="m-v3", match={"headers": {"x-user": "staff"}}, name="staff")
    plain.client.fault("m", abort=503, ttl="10m", match={"headers": {"x-break": "yes"}})
    answer = call(plain)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    arm = answer.headers[VERSION]
    assert {call(plain, headers={"cookie": cookie}).headers[VERSION] for _ in range(20)} == {arm}
    assert call(plain, headers={"x-user": "staff"}).headers[VERSION] == "m/3"
    for headers in ({}, {"cookie": cookie}, {"x-user": "staff"}):
        assert call(plain, headers={**headers, "x-break": "yes"}).status_code == 503
        assert call(plain, headers=headers).headers["x-team"] == "risk"


def test_limits_reach_the_model_servers_and_go_again(plain: Place) -> None:
    """One request at a time and none waiting: of many at once some are refused with 503 and Envoy's reason."""
    limits = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1}}
    plain.client.policy("m", connection_pool=limits, retries={"attempts": 0})

    def refused() -> bool:
        return any(failure.startswith("503") for failure in plain.send(200, workers=20, score=True).failures)

    wait_for("a refused request", refused, 60)
    plain.client.policy("m", connection_pool="none", retries="none")
    wait_for("no refused request", lambda: not plain.send(100, workers=10).failures, 60)


BAD: list[tuple[list[str], str]] = [
    (["-C", "timeout=2"], r"'timeout' can't be '2': timeout must be a duration with its unit"),
    (["-C", 'retries={"attempts": 2, "retryOn": "5xxx"}'], r"no condition '5xxx': did you mean '5xx'"),
    (["-C", 'headers={"request": {"set": {"x y": "1"}}}'], r"name 'x y' is not valid.*without spaces"),
    (["-C", 'headers={"request": {"set": {"x-request-id": "1"}}}'], r"'x-request-id', which is reserved"),
    (["-C", "rewrite=/a", "-C", "redirect=/b"], r"rewrite can't go with redirect"),
    (
        ["-C", 'fault={"abort": 503, "percentage": 101}'],
        r"'percentage' can't be 101: it must be less than or equal to 100",
    ),
    (["-C", 'fault={"delay": "2"}'], r"fault delay must be a duration with its unit"),
    (["-C", 'fault={"abort": 503, "ttl": "48h"}'], r"is too long: a fault lasts at most 24h"),
    (["-C", 'add_route={"to": "m-v2", "match": {"headers": {"x-a": {"regex": "("}}}}'], r"is no regular expression"),
    (["-C", 'add_route={"to": "m-v9", "match": {"uri": "/a"}}'], r"no deployment 'm-v9'"),
    (["-C", 'add_route={"to": "m-v2"}'], r"'match' is missing"),
    (["-C", "timeout=2s", "-C", "weight=10"], r"'timeout' and 'weight' are changes of two kinds"),
    (["-C", "subset=m-v2"], r"'subset' goes with a setting"),
    (["-C", "subset=m-v2", "-C", "timeout=2s"], r"'timeout' is set for the endpoint or a route of its own"),
    (["-C", "remove_route=x"], r"'m' has no route 'x'"),
    (["-C", "keep_old=1h", "-C", "weight=10"], r"'keep_old' has no effect without action=promote"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=[" ".join(case[0])[:60] for case in BAD])
def test_a_bad_setting_is_one_clear_line_and_changes_nothing(plain: Place, args: list[str], message: str) -> None:
    import re

    before = plain.client.get_endpoint("m")
    result = CliRunner().invoke(mlflow_deployments, ["update-endpoint", "--endpoint", "m", "-t", plain.target, *args])
    assert result.exit_code == 1
    (line,) = [line for line in result.output.strip().splitlines() if line.startswith("Error")]
    assert re.search(message, line), line
    assert plain.client.get_endpoint("m") == before
