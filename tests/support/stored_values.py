"""Values of every kind that stands on objects, in runs, in tags or in files, with as many fields set as go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_istio.adapters.local.replicas import Replica
from mlflow_istio.adapters.local.workloads import Readiness
from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.shadow import ShadowRecord, ShadowTally, join_records
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.adopted import Adopted
from mlflow_istio.core.endpoint.deadlines import CONTROL, COOKIE, FAULT, KEEP, Deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import ClosedRelease, EarlierRelease
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Mirror, SessionAffinity, Traffic, WeightedDestination
from mlflow_istio.core.inspection.fingerprint import digest, fingerprint
from mlflow_istio.core.mesh.attached import Attachment
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.core.moves.holdback import watch
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.routes import Written
from mlflow_istio.core.policy.settings import CustomRoute, DestinationPolicy, Fault, Policy, RoutePolicy, StaleCookie
from mlflow_istio.core.release.advance import Observation
from mlflow_istio.core.release.driver import Driver, Question
from mlflow_istio.core.release.experiment import Experiment, ExperimentPlan
from mlflow_istio.core.release.plan import Approval, GuardPlan, NonInferiorityMargin, Webhook, stream_guards
from mlflow_istio.core.release.progress import Progress, first_progress
from mlflow_istio.core.release.watching import begun, watched
from mlflow_istio.verbs.plans import Plan
from tests.support.endpoint_values import (
    LEGACY,
    OTHER,
    TIME,
    a_release,
    a_virtual_service,
    an_endpoint,
    canary,
    moved,
    own,
    split,
    started,
)
from tests.support.release_values import ERRORS, Journey, a_plan, at, counters

HEADERS = {"request": {"set": {"x-tenant": "a"}, "remove": ["x-debug"]}, "response": {"add": {"x-old": "ü"}}}
MATCH = {"headers": {"x-user": {"exact": "staff"}}, "withoutHeaders": {"x-bot": {}}}

POLICIES: Mapping[str, Written] = {
    "route": Written(
        policy=Policy(
            route=RoutePolicy(
                timeout="2s",
                retries={"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"},
                headers=HEADERS,
                rewrite={"uri": "/v2", "authority": "other"},
            )
        )
    ),
    "redirect": Written(policy=Policy(route=RoutePolicy(redirect={"uri": "/moved", "redirectCode": 307}))),
    "maintenance": Written(
        policy=Policy(route=RoutePolicy(maintenance={"status": 503, "body": {"string": "back at noon"}}))
    ),
    "without-retries": Written(policy=Policy(route=RoutePolicy(retries={"attempts": 0}))),
    "empty-parts": Written(policy=Policy(route=RoutePolicy(headers={}), subsets={"v2": DestinationPolicy()})),
    "servers": Written(
        policy=Policy(
            headers={"v2": HEADERS, "v1": {"response": {"set": {"x-by": "us"}}}},
            destination=DestinationPolicy(
                connection_pool={"tcp": {"maxConnections": 10}},
                outlier_detection={"consecutive5xxErrors": 3, "baseEjectionTime": "5s"},
                load_balancer={"consistentHash": {"httpHeaderName": "x-user"}},
                tls={"mode": "DISABLE"},
            ),
            subsets={"v2": DestinationPolicy(load_balancer={"simple": "RANDOM"})},
            replaced=("connection_pool", "timeout"),
        ),
        originals={"": {"timeout": "9s", "headers/request/set/x-tenant": "theirs"}, "v2": {"tls": {"mode": "SIMPLE"}}},
    ),
    "rules": Written(
        policy=Policy(
            rules=(
                CustomRoute(name="staff", deployment="v3", match=(MATCH, {"uri": {"prefix": "/x"}})),
                CustomRoute(
                    name="slow", deployment="v2", match=(MATCH,), policy=RoutePolicy(timeout="9s", headers=HEADERS)
                ),
            ),
            stale=(StaleCookie(cookie="arm", release="r0"), StaleCookie(cookie="arm", release="r1")),
        )
    ),
    "delay": Written(policy=Policy(fault=Fault(delay="1s", until=TIME))),
    "abort": Written(policy=Policy(fault=Fault(abort=503, percentage=12.5, match=(MATCH,), until=at(0.5)))),
    "whole-percent": Written(policy=Policy(fault=Fault(delay="1s", abort=429, percentage=10, until=at(3600)))),
    "only-originals": Written(originals={"": {"timeout": "9s"}}),
    "nothing": Written(),
}
"""Policies, and the owner's values under them."""

FOREIGN = replace(LEGACY, foreign=True)
EVERYTHING = Traffic(
    split=(
        *split(v1=50),
        WeightedDestination(destination=FOREIGN, weight=20),
        WeightedDestination(destination=Destination(host="other", subset="v1", foreign=True), weight=30),
    ),
    pins=("v1", "v2", "v3"),
    arms=(Arm(deployment="v2", match=(MATCH, {"headers": {"x-arm": {"exact": "b"}}})),),
    mirrors=(Mirror(destination=own("v3"), percentage=12.5), Mirror(destination=FOREIGN, percentage=100)),
    sticky=SessionAffinity(cookie="arm", release="r1", max_age=60),
    policy=replace(POLICIES["rules"].policy, route=RoutePolicy(timeout="2s"), headers={"v1": HEADERS}),
)
"""A traffic with every part."""


def _a_change(**changes: Any) -> RoutingChange:
    values: dict[str, Any] = {
        "id": "c7",
        "sequence": 7,
        "time": TIME,
        "endpoint": "churn",
        "action": "shift",
        "reason": "weil\u2028 {{ 'ü' }} 😀",
        "who": "me",
        "release": "r1",
        "run": "0123",
        "before": Traffic(split=split(v1=100), pins=("v1",)),
        "after": EVERYTHING,
        "versions": {"v2": "churn/2", "v1": "churn/1"},
        "resource_version": "41",
        "evidence": {"p": 0.01, "n": [1, 2], "deep": {"none": None}},
        "stable": own("v1"),
    }
    return RoutingChange(**{**values, **changes})


_MANY = tuple(
    WeightedDestination(destination=Destination(host="h" * 240 + f"{n:03d}", port=65535), weight=1) for n in range(60)
)
CHANGES: Mapping[str, RoutingChange] = {
    "whole": _a_change(),
    "first": _a_change(before=None, release=None, run=None, reason="", who=""),
    "last": _a_change(after=None, stable=None),
    "bare": RoutingChange(id="a", sequence=1, time=TIME, endpoint="e", action="deploy", before=None, after=None),
    "foreign-stable": _a_change(stable=LEGACY),
    "controlled": _a_change(after=Traffic(split=split(v1=80, v2=10, v3=10)), control="v3"),
    "foreign-subset": _a_change(stable=Destination(host="other", subset="v1", foreign=True)),
    "cut-evidence": _a_change(evidence={"samples": ["x" * 100] * 100}),
    "cut-arms": _a_change(
        after=Traffic(split=split(v1=100), arms=tuple(Arm(deployment=f"v{n}", match=(MATCH,)) for n in range(99)))
    ),
    "cut-split": _a_change(after=Traffic(split=(*_MANY, *split(v1=40)))),
}
"""Entries of the ledger; the last ones are too long for a tag."""

ENDPOINTS: Mapping[str, Endpoint] = {
    "plain": an_endpoint(),
    "everything": an_endpoint(
        traffic=EVERYTHING,
        stable=FOREIGN,
        route="main",
        sequence=8,
        change="c8",
        release=a_release(
            "ab",
            traffic_request=TrafficRequest(header="x-arm", values={"v1": "a", "v2": '"{{ b }}"'}),
            state="paused",
            run=None,
        ),
        last=ClosedRelease(
            id="r0", strategy="ab", outcome="promoted", candidates=("v1",), run="x", previous=FOREIGN, sequence=6
        ),
        settings={"stable_alias": "prod", "root": "shop"},
        outbox=(CHANGES["whole"], CHANGES["bare"], CHANGES["last"]),
        progress='{"as":"text"}',
        pending_notification="text, too",
        deleting=True,
        adopted=Adopted(
            virtual_service="shop",
            stable=FOREIGN,
            route=({"destination": to_json(LEGACY), "weight": 70, "more": [1, None]}, {"destination": {"host": "o"}}),
        ),
        deadlines=(
            Deadline(kind=FAULT, at=TIME),
            Deadline(kind=KEEP, at=at(60), what="v1"),
            Deadline(kind=COOKIE, at=at(61.5), what="r0"),
            Deadline(kind="approval", at=at(62), what="r1"),  # of a version before: nobody sets it any more
        ),
    ),
    "known-plans": an_endpoint(
        release=a_release(versions={"v2": "churn/2"}, options="0123abcd"),
        last=ClosedRelease(
            id="r0", strategy="canary", outcome="promoted", versions={"v2": "churn/2"}, options="0123", sequence=6
        ),
        earlier=(EarlierRelease(id="r-2", outcome="aborted"), EarlierRelease(id="r-1", outcome="promoted", sequence=4)),
    ),
    "controlled": an_endpoint(
        release=a_release(control="v3"),
        last=ClosedRelease(id="r0", strategy="canary", outcome="aborted", sequence=6, cleared=1),
        deadlines=(Deadline(kind=CONTROL, at=at(60), what="v3"),),
    ),
    "rolled-back": an_endpoint(last=ClosedRelease(id="r0", strategy="shadow", outcome="aborted")),
    "following": an_endpoint(
        release=replace(a_release(), replicas={"v1": 5, "v2": 1}),
        last=ClosedRelease(id="r0", strategy="canary", outcome="promoted", replicas={"v1": 5, "v0": 5}),
    ),
    "canary": started("canary", traffic_request=TrafficRequest(weight=10)),
    "ab-cookie": started("ab", "v2", "v3", traffic_request=TrafficRequest(cookie="arm")),
    "shadow": started("shadow"),
    "watched": watch(
        started(traffic_request=TrafficRequest(weight=10)), "v2", holdback=5, until=at(7300), now=TIME, keep=86400.0
    ),
    "attached": an_endpoint(
        {"v2": 100}, stable=Destination(host="v1-attached", subset="v1"), attached=("v1",), sequence=2, change="c2"
    ),
    "known-services": an_endpoint(
        route="main",
        adopted=Adopted(
            virtual_service="shop",
            stable=OTHER,
            route=({"destination": {"host": "other"}},),
            services=("other", "web.prod.svc.cluster.local"),
        ),
    ),
}
"""Endpoints as their annotations tell them."""

ATTACHMENTS: Mapping[str, Attachment] = {
    "service": Attachment(
        reference="inferenceservice/churn",
        kind="Service",
        name="churn-predictor",
        selector={"app": "isvc.churn-predictor"},
        port="http",
        workloads=("churn-predictor",),
        template="0123456789abcdef",
        images=("mlserver:1.7.1",),
    ),
    "address": Attachment(reference="http://127.0.0.1:5001", port="5001"),
}
"""What Deployments that stand for others say of those."""

RULE_POLICIES: Mapping[str, Policy] = {
    "replaced": replace(POLICIES["servers"].policy, headers={}, replaced=("tls",)),
    "subset": Policy(subsets={"v1": DestinationPolicy(tls={"mode": "SIMPLE"})}),
}
"""What a DestinationRule says, whose owner has ``tls`` of its own."""

WEBHOOKS = (Webhook(url="http://gate", timeout=2.5), Webhook(url="http://other", events=("rollback",)))
NOTES: Mapping[str, Mapping[str, Any]] = {
    "rollback": {"endpoint": "churn", "verdict": {"word": "rollback", "reason": "ü"}, "figures": [0.1, None]},
    "empty": {},
}
"""What webhooks are told of rollbacks."""

GUARDS = (
    replace(ERRORS, margin=1.25, weight=2, allowed=NonInferiorityMargin(odds_ratio=1.5, rate_difference=0.01)),
    GuardPlan(name="latency", kind="latency", margin=1.2, edges=(100.0, 250.0)),
    GuardPlan(name="slow", kind="objective", limit=0.02, slower_than=100.0),
    GuardPlan(name="failed", kind="objective", limit=0.05),
    GuardPlan(name="clicks", kind="rate", worse="lower"),
    GuardPlan(name="basket", kind="mean", margin=0.5, worse="lower", allowed=NonInferiorityMargin(difference=1.5)),
)
FULL_PLAN = a_plan(
    guards=GUARDS,
    warmup=5.0,
    settle=2,
    alpha=0.01,
    overdispersion=1.5,
    alone_limit=0.1,
    no_data="rollback",
    undecided="hold",
    promote=False,
    approval=Approval(before=("10", "promotion"), tag="approved", timeout=60.0, default="approve"),
    webhooks=WEBHOOKS,
    source={"metrics": "prometheus", "address": None, "kpis": ["clicks"]},
)


def _watched() -> Progress:
    """A canary after a few looks at everything that can be watched."""
    journey = Journey(replace(FULL_PLAN, approval=None, webhooks=(), warmup=0.0, settle=0.0))
    for look in range(1, 6):
        series = {
            **{"le_100": 80 * look, "le_250": 95 * look, "le_+Inf": 100 * look},
            **{"kpi_clicks_n": 100 * look, "kpi_clicks_events": 30 * look},
            **{"kpi_basket_n": 50 * look, "kpi_basket_sum": 175.5 * look, "kpi_basket_sum_squares": 900.25 * look},
        }
        readings = {name: counters(100 * look, look, **series) for name in ("v1", "v2")}
        journey.look(readings=readings)
    return journey.progress


def _streamed() -> Progress:
    """A canary of what streams, after a few looks."""
    tokens = GuardPlan(name="long", kind="tokens", edges=(100.0,))
    journey = Journey(replace(FULL_PLAN, approval=None, webhooks=(), warmup=0.0, guards=(*stream_guards(), tokens)))
    for look in range(1, 6):
        series = {
            **{"ttft_100": 30 * look, "ttft_inf": 50 * look, "tokens_100": 40 * look, "tokens_inf": 50 * look},
            **{"streams_n": 50 * look, "streams_unfinished": look},
        }
        journey.look(readings={name: counters(100 * look, look, **series) for name in ("v1", "v2")})
    return journey.progress


def _asking() -> Progress:
    progress = replace(
        first_progress(FULL_PLAN, TIME),
        step=0,
        traffic_since=at(20),
        looks=3,
        revision=4,
        missing_since=at(3),
        paused_since=at(4.25),
        passed=("10",),
        question=Question(gate="promotion", asked=at(30), answer="approve", who="ann"),
        stopped=True,
        driver=Driver(id="d1", who="me@here", lease_expires=at(65)),
        verdict={"word": "hold", "reason": "Too few requests.", "evidence": {"n": 3}},
    )
    evidence = replace(progress.evidence, stable_failed=True, step_requests=7, requests={"v2": 7, "v1": 9})
    return replace(progress, evidence=evidence)


def _promoted() -> Progress:
    """The same, promoted, in the second window of the watch."""
    found = _watched()
    plan = replace(found.plan, promote=True, watch=7200.0, holdback=10, keep_old=86400.0)
    progress = begun(replace(found, plan=plan), at(60))
    seen = Observation(readings={name: counters(900, 9) for name in ("v1", "v2")}, weights={"v1": 10, "v2": 90})
    for second in (70, 1000):
        progress, _ = watched(progress, seen, at(second))
    return progress


PROGRESSES: Mapping[str, Callable[[], Progress]] = {
    "first": lambda: first_progress(a_plan(), TIME),
    "controlled": lambda: first_progress(a_plan(control="fresh"), TIME, control="v3"),
    "asking": _asking,
    "gone": lambda: replace(_asking(), evidence=replace(_asking().evidence, gone={"v1": ("old pod",)})),
    "streamed": _streamed,
    "watched": _watched,
    "promoted": _promoted,
    "ab": lambda: first_progress(a_plan(strategy="ab", candidates=("v2", "v3"), guards=()), TIME),
    "blue-green": lambda: first_progress(a_plan(strategy="blue-green", steps=(0.0, 100.0)), TIME),
    "shadow": lambda: first_progress(a_plan(strategy="shadow", steps=(25.5,), guards=()), TIME),
}
"""Where releases stand; floats in them are computed, so another machine's last bits may differ."""


FRESH = Experiment(
    plan=ExperimentPlan(release="r1", control="m-v1", challengers=("m-v2", "m-v3"), equivalence_margin=1.5)
)
_VALUED = replace(
    FRESH.plan,
    kpi="basket",
    better="higher",
    equivalence_margin=None,
    overdispersion=2,
    randomised=False,
    returning=True,
)
EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = {
    "fresh": lambda: FRESH,
    "missing": lambda: replace(FRESH, looks=1, missing=("m-v2",)),
    "rates": lambda: _looked(FRESH, errors=3.0),
    "means": lambda: _looked(
        Experiment(plan=_VALUED),
        **{"kpi/basket/n": 50, "kpi/basket/sum": 175.5, "kpi/basket/sum_squares": 900.25},
    ),
}
"""A/B/n releases as far as they were looked at; floats in them are computed."""


def _looked(experiment: Experiment, **series: float) -> Experiment:
    weights = {"m-v1": 50, "m-v2": 25, "m-v3": 25}
    for look in range(1, 4):
        grown = {"requests": 100, "errors": 0, **series}
        readings = {arm: {"pod": {name: n * look for name, n in grown.items()}} for arm in weights}
        experiment = experiment.look(readings, weights)
    return experiment


def _tally() -> ShadowTally:
    answers = ((1.0, 1.0), (2.0, 2.5), ([1, 2], [1]), (None, 3.0))
    stable, candidate = (
        [
            ShadowRecord(request_id=str(n), deployment=name, status=200, milliseconds=10.0 * (n + 1), output=pair[side])
            for n, pair in enumerate(answers)
        ]
        for side, name in enumerate(("v1", "v2"))
    )
    rule = AnswerRule(kind="numbers", absolute=0.1, relative=0.01)
    return ShadowTally(rule=rule).update(join_records(stable, candidate))


TALLIES: Mapping[str, Callable[[], ShadowTally]] = {
    "fresh": lambda: ShadowTally(rule=AnswerRule(kind="text", similarity=0.5)),
    "some": _tally,
}
"""What a shadow's answers were beside stable's; floats in them are computed."""


def _plan(**changes: Any) -> Plan:
    before = a_virtual_service()
    after = moved(before, canary, "c1", "start")
    objects = (before, after, moved(after, lambda now: _with_policy(now, POLICIES["rules"].policy), "c2", "policy"))
    rule = {"spec": {"subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "x", "labels": {}}]}}
    states = [fingerprint(None, None, "churn"), *(fingerprint(obj, rule, "churn") for obj in objects)]
    common: dict[str, Any] = {
        "endpoint": "churn",
        "target": "istio-local://dev",
        "scope": "local-dev",
        "states": states,
    }
    common |= {"hash": digest(states[0]), "difference": "--- a\n+++ b\n", "options": {"weight": 10, "release_id": "r1"}}
    return Plan(**{**common, **changes})


def _with_policy(endpoint: Endpoint, policy: Policy) -> Endpoint:
    faulty = replace(policy, fault=POLICIES["abort"].policy.fault)
    return replace(endpoint, traffic=replace(endpoint.traffic, policy=faulty))


PLAN_FILES: Mapping[str, Callable[[], Plan]] = {
    "update-endpoint": lambda: _plan(verb="update-endpoint"),
    "create-deployment": lambda: _plan(
        verb="create", deployment={"name": "v2", "model_uri": "models:/churn/2", "flavor": None}
    ),
}
"""What ``mlflow-istio plan --out`` writes, with the fingerprints of objects."""

REPLICAS: Mapping[str, Replica] = {
    "serving": Replica(
        name="churn-v1-abc-0",
        deployment="churn-v1",
        revision="abc",
        phase="serving",
        port=20000,
        labels={"app": "churn", "version": "v1"},
        command=("python", "-m", "mlflow_istio.serving", "--grüße"),
        environment=(("B", "$(A)-1"), ("A", "a")),
        readiness=Readiness(path="/ready", period=1, failures=5),
        grace=30,
        pause=2.5,
    ),
    "bare": Replica(
        name="x-1",
        deployment="x",
        revision="1",
        phase="draining",
        port=1,
        labels={},
        command=(),
        environment=(),
        readiness=None,
        grace=0,
        pause=None,
    ),
}
"""Processes of the local mesh, as it keeps them in its state directory."""

CLAIMS: Mapping[str, Claim] = {
    "path": Claim(path="/api/v1/chat"),
    "header": Claim(header=("x-model", "chat v1")),
    "both": Claim(path="/api", header=("x-model", "chat")),
}
"""Which requests under a shared host an endpoint takes."""
