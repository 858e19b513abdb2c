"""Options of a release: what plan they make, and what is refused in one line that names the option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.core.analysis.promotion import NOTHING_TO_PROVE, NonInferiorityMargin
from mlflow_istio.core.release.plan import Approval, GuardPlan, ReleasePlan, Webhook
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions, ResumeOptions, check_release_options
from mlflow_istio.options.release_plan import plan_of, source_of
from tests.support.endpoint_values import an_endpoint

BOUGHT = {"n": "a{d='$deployment'}", "events": "b{d='$deployment'}"}


def plan(*candidates: str, **given: Any) -> ReleasePlan:
    options = parse_options(ReleaseOptions, given, cluster="istio")
    check_release_options(options)
    return plan_of(options, an_endpoint(), candidates or ("v2",))


def test_without_options_it_is_a_canary_watched_for_errors_and_latency() -> None:
    found = plan()
    assert (found.strategy, found.stable, found.steps) == ("canary", "v1", (5, 25, 50))
    assert [guard.name for guard in found.guards] == ["errors", "latency", "gross"]
    assert (found.phase, found.rules, found.warm_requests) == (None, 2, 300)
    assert (found.hold, found.min_requests, found.warmup, found.settle, found.source) == (60, 100, 30, 0, {})


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"steps": "5, 25%,50,100"}, (5, 25, 50)),
        ({"steps": 30}, (30,)),
        ({"steps": [10, 20]}, (10, 20)),
        ({"strategy": "blue-green"}, (0, 100)),
        ({"strategy": "shadow"}, (100,)),
        ({"strategy": "shadow", "steps": "20,100"}, (20, 100)),
        ({"strategy": "ab", "header": "x-arm"}, (50,)),
    ],
)
def test_steps_are_percents_and_a_last_hundred_is_the_promotion(
    given: dict[str, Any], steps: tuple[float, ...]
) -> None:
    assert plan(**given).steps == steps


def test_arms_share_alike_unless_told_otherwise() -> None:
    assert plan("v2", "v3", strategy="ab", header="x-arm").steps == (33,)


@pytest.mark.parametrize(
    ("allowed", "proof"),
    [
        ("1.3", NonInferiorityMargin(odds_ratio=1.3)),
        (0.02, NonInferiorityMargin(rate_difference=0.02)),
        ('{"odds_ratio": 2, "rate_difference": 0.01}', NonInferiorityMargin(odds_ratio=2, rate_difference=0.01)),
    ],
)
def test_what_is_allowed_is_an_odds_ratio_a_difference_or_both(allowed: Any, proof: NonInferiorityMargin) -> None:
    assert [guard.allowed for guard in plan(allowed=allowed).guards] == [proof, proof, NOTHING_TO_PROVE]


def test_guards_come_from_json_or_a_file_with_the_usual_values_where_nothing_is_said(tmp_path: Path) -> None:
    listed = [
        {"guard": "errors", "allowed": 0.03, "weight": 2},
        {"guard": "latency", "edges": [100]},
        {"guard": "objective", "name": "slo", "limit": 0.01, "slower_than": 300},
    ]
    found = plan(analysis=json.dumps(listed)).guards
    assert found[0] == GuardPlan(
        name="errors", kind="errors", weight=2, allowed=NonInferiorityMargin(rate_difference=0.03)
    )
    assert (found[1].edges, found[1].margin) == ((100.0,), 1.25)
    assert (found[2].kind, found[2].name, found[2].slower_than) == ("objective", "slo", 300)
    (tmp_path / "guards.json").write_text(json.dumps(listed))
    assert plan(analysis=str(tmp_path / "guards.json")).guards == found
    assert plan(analysis="none").guards == ()


def test_every_kpi_is_a_guard_unless_the_analysis_names_it() -> None:
    kpis = {
        "bought": {"queries": {"n": "a{x='$deployment'}", "events": "b{x='$deployment'}"}, "delta": 1.2, "margin": 1.1},
        "spend": {
            "queries": {part: f"{part}{{x='$deployment'}}" for part in ("n", "sum", "sum_squares")},
            "better": "lower",
        },
    }
    guards = {guard.name: guard for guard in plan(kpi=json.dumps(kpis)).guards}
    assert (guards["bought"].kind, guards["bought"].worse, guards["bought"].margin) == ("rate", "lower", 1.1)
    assert guards["bought"].allowed == NonInferiorityMargin(odds_ratio=1.2)
    assert (guards["spend"].kind, guards["spend"].worse, guards["spend"].margin) == ("mean", "higher", 0.0)
    named = plan(
        kpi=json.dumps(kpis), analysis=json.dumps([{"guard": "rate", "name": "bought", "worse": "lower", "margin": 2}])
    )
    assert [(guard.name, guard.margin) for guard in named.guards] == [("bought", 2), ("gross", 1.0), ("spend", 0.0)]


def test_resume_needs_to_be_told_nothing_again_but_secrets_and_callables() -> None:
    url = "https://ann:secret@prom.example/x"
    found = plan(
        prometheus_url=url,
        errors="4xx+5xx",
        kpi={"bought": {"queries": BOUGHT}},
    )
    assert found.source["prometheus_url"] == "https://prom.example/x"
    assert "secret" not in json.dumps(found.source)
    assert found.settle == 60
    again = parse_options(ResumeOptions, dict(found.source), cluster="istio")
    assert (again.errors, again.kpi) == ("4xx+5xx", found.source["kpi"])
    called = parse_options(ReleaseOptions, {"kpi": {"bought": lambda _name: (1, 1)}}, cluster="istio-local")
    assert source_of(called) == {}


@pytest.mark.parametrize(
    ("given", "approval"),
    [
        ({"approval": "promotion"}, Approval(before=("promotion",))),
        ({"approval": 25}, Approval(before=("25",))),
        ({"approval": "25, promotion", "approval_timeout": 60}, Approval(before=("25", "promotion"), timeout=60)),
        ({"approval": '{"before": [25]}', "approval_default": "approve"}, Approval(before=("25",), default="approve")),
        ({"approval": {"tag": "ok"}}, Approval(before=("promotion",), tag="ok")),
    ],
)
def test_approval_is_a_gate_several_or_json(given: dict[str, Any], approval: Approval) -> None:
    assert plan(**given).approval == approval


@pytest.mark.parametrize(
    ("given", "hooks"),
    [
        ("http://a,https://b", (Webhook(url="http://a"), Webhook(url="https://b"))),
        (
            '{"url": "http://a", "events": ["start"], "timeout": 3}',
            (Webhook(url="http://a", events=("start",), timeout=3.0),),
        ),
        (["http://a", {"url": "http://b"}], (Webhook(url="http://a"), Webhook(url="http://b"))),
        *(
            (url, (Webhook(url=url),))
            for url in (
                "env:GATE",
                "https://ci.example/release-gates/team-17/approve",
                "http://a:9/0123456789abcde",
                "http://[::1]/x",
            )
        ),
    ],
)
def test_webhooks_are_addresses_or_json(given: Any, hooks: tuple[Webhook, ...]) -> None:
    assert plan(webhooks=given).webhooks == hooks
    assert repr(plan(webhooks=given).webhooks) == repr(hooks), "digests tell 3 from 3.0"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": "a,b"}, "option 'steps' can't be 'a,b': it must be percents, such as 5,25,50"),
        ({"steps": True}, "steps go from 1 to 99|rise|percents"),
        ({"steps": "50,10"}, "steps must rise"),
        ({"weight": 10}, "option 'weight' has no effect on 'release'.*use 'steps'"),
        ({"mirror": 10}, "option 'mirror' has no effect on 'release'"),
        ({"wait": "false"}, "option 'wait' can't be false"),
        ({"candidate": "v2,v3"}, "strategy=canary takes one candidate"),
        ({"candidate": "v2,v3", "strategy": "ab", "analysis": "[]", "header": "x"}, "no guards with several arms"),
        ({"analysis": "atuo"}, "neither auto nor none, and no file"),
        ({"analysis": "[1]"}, "a guard is an object"),
        ({"analysis": "[{"}, "it is not JSON"),
        ({"analysis": '[{"guard": "errors", "marign": 2}]'}, "unknown key 'marign'.*margin"),
        ({"analysis": '[{"guard": "erors"}]'}, "unknown kind"),
        (
            {"analysis": '[{"guard": "errors", "weight": "much"}]'},
            "weight of guard 'errors' must be a number, not 'much'",
        ),
        ({"analysis": '[{"guard": "errors", "margin": null}]'}, "margin of guard 'errors' must be a number, not None"),
        ({"analysis": [{"guard": "errors", "weight": True}]}, "weight of guard 'errors' must be a number, not True"),
        ({"analysis": [{"guard": "errors", "weight": 10**400}]}, "weight of guard 'errors' must be a number, not 1000"),
        ({"analysis": [{"guard": "errors", "name": ["a"]}]}, "name of guard 'errors' must be a text, not"),
        ({"analysis": [{"guard": "errors", "name": ""}]}, "name of guard 'errors' must be a text, not ''"),
        ({"analysis": [{"guard": "rate", "worse": "up"}]}, "worse of guard 'rate' is 'higher' or 'lower', not 'up'"),
        ({"analysis": [{"guard": "latency", "edges": 100}]}, "edges of guard 'latency' must be a list, not 100"),
        ({"analysis": [{"guard": "latency", "edges": "100"}]}, "edges of guard 'latency' must be a list, not '100'"),
        ({"analysis": [{"guard": "latency", "edges": ["x"]}]}, "edges of guard 'latency' must be a number, not 'x'"),
        ({"analysis": [{"guard": "ttft", "edges": [float("nan")]}]}, "edges of guard 'ttft' must be a number, not nan"),
        ({"analysis": [{"guard": "latency", "edges": [0, 100]}]}, "edges of guard 'latency' must be above 0, got 0"),
        ({"analysis": [{"guard": "objective", "limit": "x"}]}, "limit of guard 'objective' must be a number, not 'x'"),
        (
            {"analysis": [{"guard": "objective", "limit": 0.1, "slower_than": "1s"}]},
            "slower_than of guard 'objective' must be a number, not '1s'",
        ),
        ({"analysis": [{"guard": "errors", 7: 1}]}, "option 'analysis': unknown key 7: known: "),
        ({"allowed": {"odds_ratio": "much"}}, "option 'allowed': odds_ratio must be a number, not 'much'"),
        ({"allowed": {"odds_ratio": None}}, "option 'allowed': odds_ratio must be a number, not None"),
        ({"allowed": float("inf")}, "option 'allowed' must be a number or JSON, not inf"),
        (
            {"webhooks": [{"url": "http://hook.example", "events": 1}]},
            "option 'webhooks': events of http://hook.example must be a list, not 1",
        ),
        (
            {"webhooks": [{"url": "http://hook.example", "events": [None]}]},
            "option 'webhooks': events of http://hook.example must be a text, not None",
        ),
        (
            {"webhooks": [{"url": "http://hook.example", "timeout": "soon"}]},
            "option 'webhooks': timeout of http://hook.example must be a number, not 'soon'",
        ),
        ({"analysis": '{"guard": "errors"}'}, "must be auto, none or a list of guards"),
        ({"allowed": "much"}, "option 'allowed' must be a number or JSON"),
        ({"allowed": '{"odds": 2}'}, "unknown key 'odds'.*odds_ratio"),
        ({"allowed": []}, "option 'allowed' must be a number or JSON"),
        ({"approval": "20"}, "there is no such step; there are 5, 25, 50, promotion"),
        ({"approval": {"befor": 1}}, "unknown key 'befor'.*before"),
        ({"webhooks": "ftp://x"}, "needs a 'url'"),
        ({"webhooks": [3]}, "needs a 'url'"),
        ({"webhooks": "https://ada@a/x"}, "at https://a has a user, which may be a secret.*'env:NAME'$"),
        ({"webhooks": "https://a/x?key=1"}, "at https://a has a query"),
        (
            {"webhooks": "https://hooks.slack.com/services/T0/B0/x"},
            "at https://hooks.slack.com has a path that is the key",
        ),
        ({"webhooks": "https://a:9/gate/0123456789abcdef"}, "at https://a:9 has what looks like a token in its path"),
        ({"kpi": "[]"}, "option 'kpi' must be JSON of names"),
        (
            {"analysis": [{"guard": "errors", "name": "gross"}]},
            "option 'analysis': the name 'gross' belongs to the rule for gross failure",
        ),
        ({"interval": 0}, "option 'interval' can't be 0"),
        ({"stesp": "5"}, "unknown option 'stesp'.*steps"),
    ],
)
def test_what_can_not_be_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        plan(**given)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "guards.json").write_text("[")
    with pytest.raises(InvalidInput, match="guards.json' \\(option 'analysis'\\) is not JSON"):
        plan(analysis=str(tmp_path / "guards.json"))


def test_settings_of_the_route_are_refused() -> None:
    with pytest.raises(InvalidInput, match="settings of the route have no effect on 'release'"):
        plan(timeout="3s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "blue-green"}, "option 'control' can't be fresh with strategy=blue-green"),
        ({"strategy": "shadow"}, "option 'control' can't be fresh with strategy=shadow"),
        ({"strategy": "ab", "header": "x-arm"}, "option 'control' can't be fresh with strategy=ab"),
        ({"analysis": "none"}, "option 'control' can't be fresh with analysis=none"),
    ],
)
def test_a_control_is_refused_where_nothing_is_compared_with_it(options: dict[str, Any], words: str) -> None:
    given = {"control": "fresh", **options}
    with pytest.raises(InvalidInput, match=words):
        check_release_options(parse_options(ReleaseOptions, given, cluster="istio", environment=False), given)
