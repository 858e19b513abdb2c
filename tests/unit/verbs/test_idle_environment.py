"""What only the environment says is a default: where a verb can do nothing with it, the verb does what it does without it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.in_memory import World, a_world, with_canary, with_shop
from tests.support.in_memory_verbs import InMemoryVerbs

Call = Callable[[InMemoryVerbs, Mapping[str, Any]], Any]

OF_AB: Mapping[str, Any] = {"cookie": "arm", "header": "x-arm", "values": {"churn-v1": "a"}, "mirror": 50}
OF_HOSTS: Mapping[str, Any] = {"path": "/a", "match_header": "a=b", "stable": "web", "virtual_service": "shop"}
OF_ALIASES: Mapping[str, Any] = {"champion_alias": "best", "challenger_alias": "next"}
OF_TRAFFIC: Mapping[str, Any] = {
    "weight": 10,
    "weights": {"churn-v1": 100},
    "match": [{"headers": {"x-a": {"exact": "1"}}}],
}


def create(name: str, **options: Any) -> Call:
    version = name.rpartition("v")[2]
    return lambda verbs, more: verbs.create(name, f"models:/churn/{version}", None, "churn", {**options, **more})


def empty() -> World:
    return World()


def stable_alone() -> World:
    return a_world("churn-v1")


def shadowed() -> World:
    return a_world("churn-v1", "churn-v2", strategy="shadow", traffic_request=TrafficRequest(mirror=100))


CALLS: Mapping[str, tuple[Callable[[], World], Call, Mapping[str, Any]]] = {
    "the first deployment": (
        empty,
        create("churn-v1"),
        {**OF_TRAFFIC, **OF_AB, **OF_HOSTS, "strategy": "shadow", "route": "main"} | {"virtual_service": None},
    ),
    "another": (stable_alone, create("churn-v2"), {**OF_AB, **OF_HOSTS, **OF_ALIASES}),
    "a canary": (stable_alone, create("churn-v2", strategy="canary", weight=5), {**OF_AB, **OF_HOSTS, **OF_ALIASES}),
    "a shadow": (stable_alone, create("churn-v2", strategy="shadow"), {**OF_TRAFFIC, "cookie": "arm"}),
    "an adopted route": (
        with_shop,
        create("churn-v1", virtual_service="shop", route="main", strategy="canary", weight=5),
        {"host": "a.example.com", "export_to": ".", "under": "models", "path": "/a", "cookie": "arm"},
    ),
    "a comparison": (
        shadowed,
        lambda verbs, more: verbs.compare("churn", more),
        {"absolute": 0.1, "relative": 0.1, "similarity": 0.7},
    ),
    "a release": (
        stable_alone,
        lambda verbs, more: verbs.release("churn", "models:/churn/2", {"detach": True, "analysis": "none", **more}),
        {**OF_TRAFFIC, **OF_AB, **OF_HOSTS, "wait": False, "timeout": "2s", "subset": "a", "under": "models"}
        | {"match": None},
    ),
    "a weight": (
        with_canary,
        lambda verbs, more: verbs.update_endpoint("churn", {"weight": 50, **more}),
        {"cookie": "arm"},
    ),
    "a start": (
        lambda: a_world("churn-v1", "churn-v2"),
        lambda verbs, more: verbs.update_endpoint("churn", {"strategy": "canary", "candidate": "churn-v2", **more}),
        OF_AB,
    ),
}
"""A world, a call, and what the environment may say to no effect."""

REFUSED: Mapping[str, tuple[str, ...]] = {
    "the first deployment": ("weight", "cookie", "path", "stable", "route", "strategy"),
    "another": ("path", "stable", "virtual_service", "champion_alias", "mirror"),
    "a canary": ("cookie", "mirror"),
    "a shadow": ("weight",),
    "an adopted route": ("host", "export_to"),
    "a comparison": ("absolute", "similarity"),
    "a release": ("weight", "mirror", "timeout", "under", "wait"),
    "a weight": ("cookie",),
    "a start": ("cookie",),
}
"""What of it is refused where the call says it."""


def cases() -> list[tuple[str, str]]:
    return [
        (call, option)
        for call, (_, _, options) in CALLS.items()
        for option, value in options.items()
        if value is not None
    ]


@pytest.mark.parametrize(("call", "option"), cases())
def test_a_verb_passes_over_what_it_can_do_nothing_with(
    call: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, verb, options = CALLS[call]
    world = make()
    without = copy.deepcopy(world)
    expected = verb(InMemoryVerbs(without, "istio:/models"), {})
    value = options[option]
    monkeypatch.setenv(f"MLFLOW_ISTIO_{option.upper()}", value if isinstance(value, str) else json.dumps(value))
    result = verb(InMemoryVerbs(world, "istio:/models"), {})
    assert world.text() == without.text()
    assert type(result) is type(expected)


@pytest.mark.parametrize(("call", "option"), [(call, option) for call, names in REFUSED.items() for option in names])
def test_the_same_in_the_call_is_refused_by_name(call: str, option: str) -> None:
    make, verb, options = CALLS[call]
    world = make()
    before = world.text()
    with pytest.raises((InvalidInput, StateConflict), match=option if option != "timeout" else "settings of the route"):
        verb(InMemoryVerbs(world, "istio:/models"), {option: options[option]})
    assert world.text() == before
