"""Policies of every shape, for the tests of the core."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.policy.settings import (
    CustomRoute,
    DestinationPolicy,
    Fault,
    Policy,
    PolicyRequest,
    RoutePolicy,
    StaleCookie,
)
from tests.support.endpoint_values import TIME

SETTINGS: dict[str, tuple[Any, ...]] = {
    "timeout": ("2s", "1m30s", None),
    "retries": ({"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"}, {"attempts": 0}, None),
    "headers": (
        {"request": {"set": {"x-tenant": "a"}, "remove": ["x-debug"]}, "response": {"add": {"x-old": "2"}}},
        {"request": {"set": {"x-tenant": "b"}}},
        {"response": {"remove": ["server", "x-old"]}},
        None,
    ),
    "rewrite": ("/v2", {"authority": "other"}, {"uriRegexRewrite": {"match": "/a/(.*)", "rewrite": "/\\1"}}, None),
    "redirect": ({"uri": "/moved", "redirectCode": 307}, None),
    "maintenance": ({"status": 503, "body": "back at noon"}, None),
    "connection_pool": ({"tcp": {"maxConnections": 10}}, {"http": {"http1MaxPendingRequests": 1}}, None),
    "outlier_detection": ({"consecutive5xxErrors": 3, "baseEjectionTime": "5s"}, None),
    "load_balancer": (
        "round-robin",
        {"consistentHash": {"httpHeaderName": "x-user"}},
        {"warmup": "60s"},
        {"simple": "ROUND_ROBIN", "warmup": {"duration": "1m", "minimumPercent": 5, "aggression": 2.5}},
        None,
    ),
    "tls": ("DISABLE", None),
}
ROUTE = ("timeout", "retries", "headers", "rewrite", "redirect", "maintenance")
"""Names of settings with values that a user may write."""

MATCHES: tuple[Object, ...] = (
    {"headers": {"x-user": {"exact": "staff"}}},
    {"headers": {"x-user": {}}, "scheme": {"exact": "http"}},
    {"queryParams": {"debug": {"exact": "1"}}},
    {"withoutHeaders": {"x-bot": {"regex": ".+"}}},
)


@st.composite
def wishes(draw: st.DrawFn, subsets: tuple[str, ...]) -> PolicyRequest:
    """Any request; some are refused."""
    names = draw(st.lists(st.sampled_from(sorted(SETTINGS)), min_size=1, max_size=3, unique=True))
    subset = draw(st.none() | st.none() | st.sampled_from(subsets))
    return PolicyRequest(
        changes={name: draw(st.sampled_from(SETTINGS[name])) for name in names},
        subset=subset,
        replace=draw(st.booleans()),
    )


@st.composite
def policies(draw: st.DrawFn, deployments: tuple[str, ...], *, answers: bool = True) -> Policy:
    """Any policy that can be, of parts in Istio's form."""
    retries = draw(st.none() | st.just({"attempts": 2, "perTryTimeout": "500ms"}))
    headers = draw(st.none() | st.sampled_from([value for value in SETTINGS["headers"] if value]))
    answer = draw(st.sampled_from(("", "", "redirect", "maintenance"))) if answers else ""
    fault = draw(
        st.none()
        | st.builds(
            Fault,
            delay=st.just("1s"),
            abort=st.none() | st.just(503),
            percentage=st.floats(0.1, 100),
            match=st.sampled_from(((), ({"headers": {"x-fault": {}}},))),
            until=st.just(TIME),
        )
    )
    rules = draw(st.lists(st.sampled_from(MATCHES), max_size=2, unique_by=str))
    destination = st.builds(
        DestinationPolicy,
        connection_pool=st.none() | st.just({"tcp": {"maxConnections": 1}}),
        tls=st.none() | st.just({"mode": "DISABLE"}),
    )
    return Policy(
        route=RoutePolicy(
            timeout=draw(st.none() | st.just("3s")),
            retries=retries,
            headers=headers,
            rewrite=draw(st.none() | st.just({"uri": "/v2"})) if answer != "redirect" else None,
            redirect={"uri": "/moved"} if answer == "redirect" else None,
            maintenance={"status": 503} if answer == "maintenance" else None,
        ),
        headers=draw(st.dictionaries(st.sampled_from(deployments), st.just({"response": {"set": {"x-by": "us"}}}))),
        destination=draw(destination),
        subsets=draw(st.dictionaries(st.sampled_from(deployments), destination.filter(lambda one: one.set_fields))),
        rules=tuple(
            CustomRoute(name=f"r{index}", deployment=draw(st.sampled_from(deployments)), match=(match,))
            for index, match in enumerate(rules)
        ),
        fault=None if answer else fault,
        stale=draw(st.sampled_from(((), (StaleCookie(cookie="arm", release="r0"),)))),
    )


def a_fault(**changes: Any) -> Fault:
    """A delay of a second for everybody, five minutes long."""
    return Fault(**{"delay": "1s", "until": TIME + timedelta(minutes=5), **changes})
