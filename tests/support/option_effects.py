"""For every verb and each option it takes: where, and with which value, it can be seen (unit/options/test_every_option.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import MlflowIstioError
from mlflow_istio.options import analysis, base, release, routes
from tests.support.in_memory import World, a_world, with_canary, with_shop
from tests.support.in_memory_verbs import CLUSTER, InMemoryVerbs, Surroundings, everything
from tests.support.option_worlds import (
    STAFF,
    canary_that_left,
    counted,
    counted_release,
    differing,
    driven,
    half_alike,
    kept_elsewhere,
    recorded,
    recorded_few,
    recorded_many,
    recorded_texts,
    routed_to,
    ruled,
    shadow_release,
    theirs,
    three,
    two_destinations,
    unready,
)
from tests.unit.verbs.test_every_verb import CASES, asking, idle, overdue, paused, without_rule

Make = Callable[[], "World | Surroundings"]
Call = Callable[[InMemoryVerbs, Mapping[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Try:
    """One option.

    Attributes:
        value: A value that is not the default.
        given: Options beside it.
        world: Where it makes a difference; the verb's own unless given.
        call: How the verb is called, where it is not as usual.
        refused: Words of the refusal, for an option that is accepted only to say what to do instead.
    """

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    world: Make | None = None
    call: Call | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A verb's options.

    Attributes:
        model: What checks them.
        world: Where the verb does its work.
        call: Calls it.
        tries: Option to a value that makes a difference, or to a whole try.
    """

    model: type[base.ConnectionOptions]
    world: Make
    call: Call
    tries: Mapping[str, Any]

    def all_tries(self) -> dict[str, Try]:
        """Every option's try."""
        return {name: one if isinstance(one, Try) else Try(value=one) for name, one in {**SHARED, **self.tries}.items()}


class Noting:
    """A cluster before which it is noted how long somebody would have waited."""

    def __init__(self, cluster: Any, waits: list[Any]) -> None:
        self._cluster, self._waits = cluster, waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    def wait_ready(self, deployment: str, timeout: float) -> None:
        self._waits.append(["ready", deployment, timeout])
        self._cluster.wait_ready(deployment, timeout)

    def wait_routed(self, probe: Any, timeout: float) -> Any:
        self._waits.append(["routed", timeout])
        return self._cluster.wait_routed(probe, timeout)


def seen(make: Make, call: Call, options: Mapping[str, Any]) -> tuple[str, str]:
    """All that a call shows and leaves behind, as one comparable text; and the message it was refused with, or nothing."""
    made = make()
    around = Surroundings(world=made) if isinstance(made, World) else made
    waits: list[Any] = []
    cluster: Any = Noting(around.world.cluster, waits)
    around = replace(around, world=replace(around.world, cluster=cluster))
    verbs = InMemoryVerbs(around, target=CLUSTER)
    refused, result = "", ""
    try:
        result = repr(call(verbs, options))
    except MlflowIstioError as exc:
        refused = exc.message
    texts = around.world.runs.texts
    for page in [key for key in texts if key[1].endswith(".html")]:
        del texts[page]  # it draws by the machine's own time
    parts = [result, refused, repr(waits), repr(around.asked), *verbs.told, *verbs.warned, everything(around.world)]
    return re.sub(r"datetime\.datetime\([^)]*\)", "", "\n".join(parts)), refused


KPI = {"sold": {"queries": {"n": 'a{v="$deployment"}', "events": 'b{v="$deployment"}'}}}
SHARED: Mapping[str, Any] = {
    "scope": "elsewhere",
    "tracking_uri": "http://tracking",
    "registry_uri": "http://registry",
    "gateway": "istio-system/other",
    "gateway_url": "http://127.0.0.1:8080",
}
CHANGE: Mapping[str, Any] = {"dry_run": True, "reason": "because"}
SETTINGS: Mapping[str, Any] = {
    "timeout": "2s",
    "retries": {"attempts": 2, "retryOn": "5xx"},
    "headers": {"response": {"set": {"x-team": "risk"}}},
    "rewrite": "/other",
    "redirect": "/other",
    "maintenance": 503,
    "connection_pool": {"http": {"http1MaxPendingRequests": 10}},
    "outlier_detection": {"consecutive5xxErrors": 5},
    "load_balancer": "round-robin",
    "tls": "disable",
}
AIMED: Mapping[str, Any] = {
    "subset": Try(value="churn-v1", given={"connection_pool": SETTINGS["connection_pool"]}),
    "replace": Try(value=True, given={"timeout": "2s"}, world=theirs),
}
WISH: Mapping[str, Any] = {
    "strategy": "canary",
    "weight": Try(value=20, given={"strategy": "canary"}),
    "weights": Try(value={"churn-v1": 60, "churn-v2": 40}, given={"strategy": "canary"}),
    "mirror": Try(value=50, given={"strategy": "shadow"}),
    "header": Try(value="x-arm", given={"strategy": "ab"}),
    "cookie": Try(value="own", given={"strategy": "ab"}),
    "values": Try(value={"churn-v1": "a", "churn-v2": "b"}, given={"strategy": "ab", "header": "x-arm"}),
    "match": Try(value=STAFF, given={"strategy": "canary"}),
    "arms": Try(value={"churn-v2": STAFF}, given={"strategy": "ab"}),
    "release_id": Try(value="r-9", given={"strategy": "canary"}),
    "confirm_timeout": 1,
}
OTHER_SERVER = {"runtime": "container", "image": "theirs"}
PODS: Mapping[str, Any] = {
    "replicas": 3,
    "env": {"A": "b"},
    "env_manager": "uv",
    "max_body": 1024,
    "drain": 60,
    **{"image": "another", "serving_image": "ours"},
    "model_source": "image",
    "model_path": Try(value="/other", given={"model_source": "image"}),
    "resources": {"limits": {"cpu": "1"}},
    "service_account": "sa",
    "node_selector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "annotations": {"team": "risk"},
    "image_pull_secrets": "registry",
    "env_from_secret": {"TOKEN": "secret/key"},
    **{"hardened": False, "service_account_token": True},
    "disk_limit": "1Gi",
    "runtime": Try(value="container", given={"image": "theirs"}),
    "command": Try(value=["serve", "--port", "$PORT"], given=OTHER_SERVER),
    "args": Try(value=["--verbose"], given=OTHER_SERVER),
    "port": Try(value=9000, given=OTHER_SERVER),
    "readiness": Try(value="/ready", given=OTHER_SERVER),
    "scoring": Try(value="/score", given=OTHER_SERVER, refused="is asked at /score, but callers of endpoint"),
    "attach": Try(value="deployment/nobodys", refused="there is no Deployment 'nobodys' to attach"),
    "protocol": Try(value="grpc", given=OTHER_SERVER, refused="would speak grpc: an endpoint never changes"),
    "templates": Try(value="/no/such/folder", refused="templates folder '/no/such/folder' does not exist"),
    "ready_timeout": 9,
}


def creates(name: str, uri: str, endpoint: str = "churn") -> Call:
    return lambda verbs, options: verbs.create(name, uri, None, endpoint, options)


def new_endpoint(**given: Any) -> Any:
    return lambda value: Try(value=value, given=given, world=World, call=creates("churn-v1", "models:/churn/1"))


def by_case(name: str) -> Call:
    return CASES[name].call


def releasing(verbs: InMemoryVerbs, options: Mapping[str, Any]) -> Any:
    named = None if "candidate" in options else "models:/churn/2"
    return verbs.release("churn", named, {"detach": True, **options})


NO_SETTING = "settings of the route have no effect on 'release'"
BY_STEPS = "has no effect on 'release', which moves traffic by itself: use 'steps'"
STANDS = "has no effect on 'release', whose endpoint is there already"
OTHER_GATEWAY = Try(value="istio-system/other", refused="'gateway' has no effect on the gateways of")

OPTIONS: Mapping[str, Options] = {
    "history": Options(model=base.ReadOptions, world=with_canary, call=by_case("history"), tries={}),
    "create": Options(
        model=base.CreateOptions,
        world=lambda: a_world("churn-v1"),
        call=creates("churn-v2", "models:/churn/2"),
        tries={
            "gateway": new_endpoint()("istio-system/other"),
            **CHANGE,
            **SETTINGS,
            **AIMED,
            **WISH,
            **PODS,
            "scope": new_endpoint()("elsewhere"),
            "reason": Try(value="because", given={"strategy": "canary"}),
            "supersede": Try(
                value=True,
                given={"strategy": "canary"},
                world=lambda: a_world(
                    "churn-v1", "churn-v3", strategy="canary", traffic_request=TrafficRequest(weight=5)
                ),
            ),
            "host": new_endpoint()("a.example"),
            "foreign_host": new_endpoint(host="shop.web.svc.cluster.local")(True),
            "export_to": new_endpoint()("."),
            "under": new_endpoint(path="/x")("models"),
            "path": new_endpoint(under="models", match_header="x-a=b")("/x"),
            "match_header": new_endpoint(under="models", path="/x")("x-a=b"),
            "virtual_service": Try(value="shop", given={"route": "main"}, world=with_shop),
            "route": Try(value="main", given={"virtual_service": "shop"}, world=with_shop),
            "stable": Try(value="web", given={"virtual_service": "shop", "route": "main"}, world=two_destinations),
            "champion_alias": new_endpoint()("best"),
            "challenger_alias": new_endpoint()("next"),
            "take_over": Try(value=True, world=lambda: kept_elsewhere(World())),
            "pins": new_endpoint()("open"),
            "wait": Try(value=False, world=lambda: unready(a_world("churn-v1"), "churn-v2")),
        },
    ),
    "update": Options(
        model=base.UpdateOptions,
        world=idle,
        call=lambda verbs, options: verbs.update("churn-v2", None, None, {"replicas": 2, **options}),
        tries={
            "dry_run": True,
            "replicas": 3,
            "env": {"A": "b"},
            "image": "another",
            "ready_timeout": 9,
            "wait": False,
        },
    ),
    "update_endpoint": Options(
        model=base.UpdateEndpointOptions,
        world=idle,
        call=lambda verbs, options: verbs.update_endpoint("churn", options),
        tries={
            **SETTINGS,
            **AIMED,
            **WISH,
            **{name: Try(value=value, given={"strategy": "canary"}) for name, value in {**SHARED, **CHANGE}.items()},
            "confirm_timeout": Try(value=1, given={"strategy": "canary"}),
            "supersede": Try(value=True, given={"strategy": "canary", "candidate": "churn-v3"}, world=with_canary),
            "action": Try(value="promote", world=with_canary),
            "candidate": Try(value="churn-v3", given={"strategy": "canary"}, world=three),
            "force": Try(value=True, given={"action": "promote"}, world=lambda: unready(with_canary(), "churn-v2")),
            "keep_old": Try(value="1h", given={"action": "promote"}, world=with_canary),
            "route": Try(value="staff", given={"timeout": "2s"}, world=ruled),
            "add_route": {"to": "churn-v2", "match": STAFF},
            "remove_route": Try(value="staff", world=ruled),
            "fault": {"abort": 503},
            "to": Try(value=4, given={"action": "rollback"}, world=with_canary),
            "redeploy": Try(value={"replicas": 3}, given={"action": "rollback", "to": 4}, world=canary_that_left),
        },
    ),
    "delete": Options(
        model=base.DeleteOptions,
        world=idle,
        call=by_case("delete"),
        tries={**CHANGE, "confirm_timeout": 1, "force": Try(value=True, world=routed_to)},
    ),
    "delete_endpoint": Options(
        model=base.DeleteEndpointOptions,
        world=idle,
        call=by_case("delete_endpoint"),
        tries={**CHANGE, "confirm_timeout": 1, "force": Try(value=True, world=with_canary)},
    ),
    "adopt": Options(
        model=base.AdoptOptions,
        world=with_shop,
        call=lambda verbs, options: verbs.adopt("churn", {"virtual_service": "shop", "route": "main", **options}),
        tries={
            "gateway": OTHER_GATEWAY,
            **CHANGE,
            "virtual_service": Try(value="shelf", refused="there is no VirtualService 'shelf'"),
            "route": "rest",
            "stable": Try(value="web", world=two_destinations),
            "champion_alias": "best",
            "challenger_alias": "next",
            "take_over": Try(value=True, world=lambda: kept_elsewhere(with_shop())),
            "pins": "open",
            "confirm_timeout": 1,
        },
    ),
    "pins": Options(
        model=routes.PinsOptions,
        world=idle,
        call=lambda verbs, options: verbs.pins("churn", {"pins": "guarded", **options}),
        tries={**CHANGE, "confirm_timeout": 1, "pins": "open", "show": True},
    ),
    "policy": Options(
        model=routes.PolicyOptions,
        world=idle,
        call=lambda verbs, options: verbs.policy("churn", {"retries": {"attempts": 1}, **options}),
        tries={
            **CHANGE,
            **SETTINGS,
            "subset": Try(value="churn-v1", given={"retries": None, "connection_pool": SETTINGS["connection_pool"]}),
            "replace": Try(value=True, given={"timeout": "2s"}, world=theirs),
            "confirm_timeout": 1,
            "route": Try(value="staff", world=ruled),
        },
    ),
    "route": Options(
        model=routes.RouteOptions,
        world=ruled,
        call=lambda verbs, options: verbs.route(
            "churn", options if "remove" in options else {"to": "churn-v3", "match": {"uri": "/x"}, **options}
        ),
        tries={
            **CHANGE,
            "confirm_timeout": 1,
            "to": "churn-v2",
            "match": {"uri": "/y"},
            "name": "own",
            "remove": "staff",
        },
    ),
    "fault": Options(
        model=routes.FaultOptions,
        world=idle,
        call=lambda verbs, options: verbs.fault("churn", options if "end" in options else {"abort": 503, **options}),
        tries={
            **CHANGE,
            "confirm_timeout": 1,
            "delay": "1s",
            "abort": 500,
            "percentage": 50,
            "ttl": "1h",
            "match": STAFF,
            "end": Try(value=True, world=overdue),
            "replace": Try(value=True, world=theirs),
        },
    ),
    "chaos": Options(
        model=routes.ChaosOptions,
        world=idle,
        call=lambda verbs, options: verbs.chaos("churn", {"abort": 503, "duration": "1s", **options}),
        tries={
            "dry_run": Try(value=True, refused="'dry_run' has no effect with chaos"),
            "reason": "because",
            "confirm_timeout": 1,
            "delay": "1s",
            "abort": 500,
            "percentage": 50,
            "metrics": "envoy",
            "prometheus_url": "http://prometheus",
            "duration": "2s",
            "match": STAFF,
            "replace": Try(value=True, world=theirs),
        },
    ),
    "sweep": Options(
        model=routes.SweepOptions, world=overdue, call=by_case("sweep"), tries={"dry_run": True, "record": False}
    ),
    "unpause": Options(model=base.DryRunOptions, world=paused, call=by_case("unpause"), tries={"dry_run": True}),
    "approve": Options(
        model=base.DryRunOptions,
        world=asking,
        call=by_case("approve"),
        tries={"dry_run": Try(value=True, refused="'dry_run' has no effect with approve")},
    ),
    "doctor": Options(
        model=base.DryRunOptions,
        world=without_rule,
        call=by_case("doctor"),
        tries={"dry_run": Try(value=True, refused="'dry_run' has no effect with fix")},
    ),
    "release": Options(
        model=release.ReleaseOptions,
        world=lambda: a_world("churn-v1"),
        call=releasing,
        tries={
            "gateway": OTHER_GATEWAY,
            **CHANGE,
            **{name: Try(value=value, refused=NO_SETTING) for name, value in SETTINGS.items()},
            **{
                name: Try(value=True if name == "replace" else "churn-v1", refused="goes with a setting")
                for name in AIMED
            },
            **{name: Try(value=value, refused=BY_STEPS) for name, value in (("weight", 5), ("mirror", 5))},
            "weights": Try(value={"churn-v1": 50, "churn-v2": 50}, refused=BY_STEPS),
            **PODS,
            "scope": Try(value="elsewhere", refused="belongs to prod/churn"),
            **{
                name: Try(value=value, refused=STANDS)
                for name, value in (
                    ("host", "a.example"),
                    ("foreign_host", True),
                    ("export_to", "."),
                    ("pins", "open"),
                    ("under", "models"),
                    ("path", "/x"),
                    ("match_header", "x-a=b"),
                    ("virtual_service", "shop"),
                    ("route", "main"),
                    ("stable", "web"),
                )
            },
            "champion_alias": Try(value="best", refused="has had its aliases"),
            "challenger_alias": Try(value="next", refused="has had its aliases"),
            "take_over": Try(value=True, world=lambda: kept_elsewhere(a_world("churn-v1"))),
            "wait": Try(value=False, refused="'wait' can't be false"),
            "strategy": "blue-green",
            "header": Try(value="x-arm", given={"strategy": "ab"}),
            "cookie": Try(value="own", given={"strategy": "ab"}),
            "values": Try(value={"churn-v1": "a", "churn-v2": "b"}, given={"strategy": "ab", "header": "x-arm"}),
            "match": STAFF,
            "arms": Try(value={"churn-v2": STAFF}, given={"strategy": "ab"}),
            "release_id": "r-9",
            "supersede": Try(
                value=True,
                world=lambda: a_world(
                    "churn-v1", "churn-v3", strategy="canary", traffic_request=TrafficRequest(weight=5)
                ),
            ),
            "confirm_timeout": Try(value=1, given={"detach": False, "deadline": 5, "interval": 1}),
            "metrics": "envoy",
            "prometheus_url": "http://prometheus",
            "kpi": KPI,
            "envoy_url": "http://envoy",
            "errors": "4xx+5xx",
            "compare": Try(value={"agreement": 0.5}, given={"strategy": "shadow"}),
            "delta": Try(value=1.3, given={"strategy": "ab", "cookie": "own"}),
            "randomised": Try(value=False, given={"strategy": "ab", "cookie": "own"}),
            "force": Try(value=True, world=differing),
            "name": "other",
            "candidate": Try(value="churn-v2", world=idle),
            "steps": "10,20",
            "analysis": "none",
            "interval": 3,
            "hold": 7,
            "min_requests": 7,
            "deadline": 777,
            "warmup": 7,
            "settle": 7,
            "alpha": 0.01,
            "margin": 1.5,
            "phi": 1.5,
            "phase": 7,
            "label_delay": 7,
            "warm_requests": 7,
            "control": "fresh",
            "allowed": 1.2,
            "alone_limit": 0.1,
            "no_data": "rollback",
            "undecided": "hold",
            "approval": "promotion",
            "approval_timeout": Try(value=77, given={"approval": "promotion"}),
            "approval_default": Try(value="approve", given={"approval": "promotion"}),
            "webhooks": "http://127.0.0.1:9/gate",
            "promote": False,
            "capacity": "fixed",
            "surge": 3,
            "warm": "none",
            "watch": Try(value="2h", given={"analysis": "auto"}),
            "holdback": Try(value=7, given={"analysis": "auto", "watch": "2h"}),
            "keep_old": "3h",
            "detach": Try(value=False, given={"deadline": 5, "interval": 1}),
        },
    ),
    "rehearse": Options(
        model=release.RehearseOptions,
        world=idle,
        call=by_case("rehearse"),
        tries={
            "metrics": Try(value="none", refused="metrics=none remembers nothing"),
            "prometheus_url": "http://prometheus",
            "errors": "4xx+5xx",
            "strategy": Try(value="blue-green", given={"steps": None}),
            "steps": "10,20",
            "analysis": "none",
            "interval": 20,
            "hold": 7,
            "min_requests": 7,
            "deadline": 77,
            "warmup": 7,
            "settle": 7,
            "warm_requests": 7,
            "alpha": 0.01,
            "margin": 1.5,
            "phi": 1.5,
            "phase": 7,
            "label_delay": 7,
            "allowed": 1.2,
            "alone_limit": 0.1,
            "no_data": "rollback",
            "undecided": "hold",
            "history": 3600,
            "horizon": 600,
            "runs": 2,
            "seed": 1,
        },
    ),
    "resume_release": Options(
        model=release.ResumeOptions,
        world=counted_release(),
        call=by_case("resume_release"),
        tries={
            "dry_run": Try(value=True, refused="'dry_run' has no effect with resume"),
            "metrics": "none",
            "prometheus_url": "http://prometheus",
            "kpi": KPI,
            "envoy_url": "http://envoy",
            "errors": "4xx+5xx",
            "compare": Try(value={"agreement": 0.5}, world=shadow_release),
            "delta": Try(value=1.3, world=counted_release(strategy="ab", cookie="own")),
            "randomised": Try(value=False, world=counted_release(strategy="ab", cookie="own")),
            "confirm_timeout": 1,
            "force": Try(value=True, world=driven),
        },
    ),
    "analyse": Options(
        model=analysis.AnalyseOptions,
        world=counted,
        call=by_case("analyse"),
        tries={
            "metrics": Try(value="none", refused="metrics=none leaves nothing to analyse"),
            "prometheus_url": "http://prometheus",
            "kpi": KPI,
            "errors": "4xx+5xx",
            "delta": 1.3,
            "alpha": 0.01,
            "phi": 1.5,
            "phase": 7,
            "label_delay": 7,
            "randomised": False,
        },
    ),
    "declare": Options(
        model=analysis.DeclareOptions,
        world=counted,
        call=lambda verbs, options: verbs.declare("churn", {"winner": "churn-v2", "force": True, **options}),
        tries={
            **CHANGE,
            "metrics": "none",
            "prometheus_url": "http://prometheus",
            "kpi": KPI,
            "errors": "4xx+5xx",
            "delta": 1.3,
            "alpha": 0.01,
            "phi": 1.5,
            "phase": 7,
            "label_delay": 7,
            "randomised": False,
            "winner": "churn-v1",
            "force": Try(value=False, refused="has no winner to declare"),
            "confirm_timeout": 1,
        },
    ),
    "compare": Options(
        model=analysis.CompareOptions,
        world=recorded,
        call=lambda verbs, options: verbs.compare("churn", {"answers": "numbers", **options}),
        tries={
            "answers": "classes",
            "absolute": 0.1,
            "relative": 0.1,
            "field": "predictions",
            "similarity": Try(value=0.1, given={"answers": "text", "scorer": half_alike}, world=recorded_texts),
            "scorer": Try(value=half_alike, given={"answers": "text"}, world=recorded_texts),
            "agreement": 0.3,
            "slowdown": 1.1,
            "unmatched": Try(value=0.01, world=recorded_many),
            "alpha": 0.5,
            "settle": 900,
            "final": Try(value=True, world=recorded_few),
        },
    ),
}
