"""A plan does what it says in whichever environment it is applied; what the environment said when it was made is a part of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mlflow_istio.options.base import ConnectionOptions, DeleteEndpointOptions, UpdateEndpointOptions, parse_options
from mlflow_istio.options.routes import FaultOptions, PolicyOptions, RouteOptions
from tests.support.in_memory import World, a_world, with_canary
from tests.support.in_memory_verbs import InMemoryVerbs

CANARY = {"strategy": "canary", "candidate": "churn-v2"}
STAFF = {"headers": {"x-user": "staff"}}


def idle() -> World:
    return a_world("churn-v1", "churn-v2")


def lost() -> World:
    """churn-v2 was promoted, and churn-v1, to which a rollback goes back, was deleted."""
    world = with_canary()
    InMemoryVerbs(world).update_endpoint("churn", {"action": "promote"})
    InMemoryVerbs(world).delete("churn-v1", "churn", {})
    return world


OTHERS = {
    "weight": "50",
    "keep_old": "1h",
    "timeout": "7s",
    "ttl": "1m",
    "delay": "3s",
    "subset": "churn-v2",
    "route": "main",
    "name": "other",
    "replicas": "4",
    "image": "other:2",
    "force": "true",
    "scope": "elsewhere",
}
"""What another environment says."""

PLANS: Mapping[str, tuple[Callable[[], World], Mapping[str, Any]]] = {
    "start": (idle, {"config": CANARY}),
    "promote": (with_canary, {"config": {"action": "promote"}}),
    "abort": (with_canary, {"config": {"action": "abort"}}),
    "create": (lambda: a_world("churn-v1"), {"name": "churn-v2", "model_uri": "models:/churn/2"}),
    "policy": (idle, {"verb": "policy", "config": {"load_balancer": "random"}}),
    "setting": (idle, {"config": {"load_balancer": "random"}}),
    "fault": (idle, {"config": {"fault": {"abort": 503}}}),
    "route": (idle, {"config": {"add_route": {"to": "churn-v2", "match": STAFF}}}),
    "back": (lost, {"config": {"action": "rollback", "to": 1}}),
    "delete-endpoint": (idle, {"verb": "delete-endpoint"}),
}


def environment(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"MLFLOW_ISTIO_{name.upper()}", value)


@pytest.mark.parametrize("name", PLANS)
def test_another_environment_changes_nothing_of_what_a_plan_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, arguments = PLANS[name]
    here = make()
    made = InMemoryVerbs(here).plan("churn", **arguments)
    there = copy.deepcopy(here)
    InMemoryVerbs(here).apply_plan(made)
    environment(monkeypatch, OTHERS)
    InMemoryVerbs(there).apply_plan(made)
    assert there.text() == here.text()


ENVIRONMENTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "a weight": ("start", {"weight": "50"}),
    "what an abort passes over": ("abort", {"weight": "50", "keep_old": "1h", "timeout": "2s", "replace": "true"}),
    "what a promotion heeds": ("promote", {"keep_old": "1h", "strategy": "canary"}),
    "another setting": ("policy", {"timeout": "2s"}),
    "a traffic option beside a setting": ("setting", {"weight": "50"}),
    "how long a fault lasts": ("fault", {"ttl": "1m"}),
    "a route's name": ("route", {"name": "staff"}),
    "settings of what is deployed": ("create", {"timeout": "2s", "image": "other:2"}),
    "how what comes back is deployed": ("back", {"env": '{"LEVEL": "debug"}'}),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_plan_holds_what_its_command_heeds_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, values = ENVIRONMENTS[name]
    make, arguments = PLANS[plan]
    world = make()
    direct = copy.deepcopy(world)
    environment(monkeypatch, values)
    made = InMemoryVerbs(world).plan("churn", **arguments)
    given = dict(arguments.get("config", {}))
    if plan == "create":
        InMemoryVerbs(direct).create("churn-v2", "models:/churn/2", None, "churn", given)
    elif plan == "policy":
        InMemoryVerbs(direct).policy("churn", given)
    else:
        InMemoryVerbs(direct).update_endpoint("churn", given)
    for key in values:
        monkeypatch.delenv(f"MLFLOW_ISTIO_{key.upper()}")
    InMemoryVerbs(world).apply_plan(made)
    assert world.text() == direct.text()


@pytest.mark.parametrize(
    "model", [UpdateEndpointOptions, DeleteEndpointOptions, PolicyOptions, RouteOptions, FaultOptions]
)
def test_only_how_things_are_reached_stays_the_environments(
    model: type[ConnectionOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = {"tracking_uri": "http://mlflow", "registry_uri": "http://registry", "gateway_url": "http://gateway"}
    environment(monkeypatch, {**OTHERS, **reached})
    options = parse_options(model, {}, cluster="istio", environment=False)
    for other in OTHERS:
        monkeypatch.delenv(f"MLFLOW_ISTIO_{other.upper()}")
    assert options == parse_options(model, {}, cluster="istio")
    assert {name: getattr(options, name) for name in reached} == reached
