"""Every option that a verb accepts makes a difference that can be seen, or is refused with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from mlflow_istio.options import analysis, base, kpi, release, release_plan, routes
from tests.support.option_effects import OPTIONS, Options, Try, seen

ALL = [(verb, name, one) for verb, options in OPTIONS.items() for name, one in options.all_tries().items()]


def test_every_model_of_options_is_tried() -> None:
    models = {
        model
        for module in (analysis, base, routes, release)
        for name, model in vars(module).items()
        if name.endswith("Options") and not name.startswith("_") and issubclass(model, BaseModel)
    }
    shared = {base.ConnectionOptions, base.ChangeOptions, release.SourceOptions}
    assert models - {options.model for options in OPTIONS.values()} == shared


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_of_a_verb_is_tried(options: Options) -> None:
    assert set(options.all_tries()) == set(options.model.model_fields)


@pytest.mark.parametrize(("verb", "name", "one"), ALL, ids=[f"{verb}-{name}" for verb, name, _ in ALL])
def test_an_option_has_an_effect_or_says_what_has(verb: str, name: str, one: Try) -> None:
    options = OPTIONS[verb]
    make, call = one.world or options.world, one.call or options.call
    without, _ = seen(make, call, one.given)
    with_it, refused = seen(make, call, {**one.given, name: one.value})
    assert with_it != without
    assert one.refused in refused if one.refused else not refused


QUERIES = {"n": 'a{v="$deployment"}', "events": 'b{v="$deployment"}'}
MORE = {"n": 'a{v="$deployment"}', "sum": 'b{v="$deployment"}', "sum_squares": 'c{v="$deployment"}'}
HOOK = {"url": "http://127.0.0.1:9/gate"}


def called(deployment: str) -> tuple[float, ...]:
    return (10, 3)


KEYS: Mapping[str, tuple[str, Any, Any]] = {
    "kpi.queries": ("kpi", {"sold": {"queries": QUERIES}}, {"sold": {"queries": MORE}}),
    "kpi.call": ("kpi", {"sold": {"queries": MORE}}, {"sold": {"call": called}}),
    "kpi.better": ("kpi", {"sold": {"queries": QUERIES}}, {"sold": {"queries": QUERIES, "better": "lower"}}),
    "kpi.delta": ("kpi", {"sold": {"queries": QUERIES}}, {"sold": {"queries": QUERIES, "delta": 1.2}}),
    "kpi.margin": ("kpi", {"sold": {"queries": QUERIES}}, {"sold": {"queries": QUERIES, "margin": 1.2}}),
    "analysis.guard": ("analysis", [{"guard": "errors"}], [{"guard": "latency"}]),
    "analysis.name": ("analysis", [{"guard": "errors"}], [{"guard": "errors", "name": "own"}]),
    "analysis.margin": ("analysis", [{"guard": "errors"}], [{"guard": "errors", "margin": 1.3}]),
    "analysis.weight": ("analysis", [{"guard": "errors"}], [{"guard": "errors", "weight": 2.0}]),
    "analysis.allowed": ("analysis", [{"guard": "errors"}], [{"guard": "errors", "allowed": 1.2}]),
    "analysis.worse": ("analysis", [{"guard": "rate"}], [{"guard": "rate", "worse": "lower"}]),
    "analysis.limit": (
        "analysis",
        [{"guard": "objective", "limit": 0.1}],
        [{"guard": "objective", "limit": 0.2}],
    ),
    "analysis.slower_than": (
        "analysis",
        [{"guard": "objective", "limit": 0.1}],
        [{"guard": "objective", "limit": 0.1, "slower_than": 50.0}],
    ),
    "analysis.edges": ("analysis", [{"guard": "latency"}], [{"guard": "latency", "edges": [5, 50]}]),
    "allowed.odds_ratio": ("allowed", {"odds_ratio": 1.1}, {"odds_ratio": 1.2}),
    "allowed.rate_difference": ("allowed", {"rate_difference": 0.1}, {"rate_difference": 0.2}),
    "approval.before": ("approval", "promotion", {"before": "25"}),
    "approval.tag": ("approval", {"before": "25"}, {"before": "25", "tag": "ok"}),
    "webhooks.url": ("webhooks", [HOOK], [{"url": "http://127.0.0.1:9/other"}]),
    "webhooks.events": ("webhooks", [HOOK], [{**HOOK, "events": ["start"]}]),
    "webhooks.timeout": ("webhooks", [HOOK], [{**HOOK, "timeout": 3}]),
}


def test_every_key_of_a_kpi_and_of_a_guard_is_tried() -> None:
    tried = {tuple(name.split(".")) for name in KEYS}
    # Counts that were taken elsewhere (kpi._COUNTED) are for analyse and declare: tests/unit/kfp_components/test_needs.py.
    assert {key for option, key in tried if option == "kpi"} == set(kpi._KEYS)
    assert {key for option, key in tried if option == "analysis"} == set(release_plan._GUARD_KEYS)


@pytest.mark.parametrize(("option", "without", "with_it"), KEYS.values(), ids=KEYS)
def test_a_key_of_a_release_s_option_is_in_its_plan(option: str, without: Any, with_it: Any) -> None:
    """What the plan holds is what the engine reads: its own tests show that."""
    options = OPTIONS["release"]
    before, _ = seen(options.world, options.call, {"release_id": "r", option: without})
    after, refused = seen(options.world, options.call, {"release_id": "r", option: with_it})
    assert not refused
    assert before != after


@pytest.mark.parametrize(
    ("guard", "problem"),
    [
        ({"guard": "errors", "worse": "lower"}, "'worse' has no effect on guard 'errors'"),
        ({"guard": "errors", "slower_than": 5}, "'slower_than' has no effect on guard 'errors'"),
        ({"guard": "errors", "edges": [5]}, "'edges' has no effect on guard 'errors'"),
        ({"guard": "objective", "limit": 0.1, "margin": 2}, "'margin' has no effect on guard 'objective'"),
    ],
)
def test_a_key_that_a_guard_does_not_read_is_refused(guard: Mapping[str, Any], problem: str) -> None:
    options = OPTIONS["release"]
    assert problem in seen(options.world, options.call, {"analysis": [guard]})[1]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"answers": "classes", "absolute": 0.1},
            "'absolute' has no effect with answers=classes: it goes with numbers",
        ),
        (
            {"answers": "numbers", "similarity": 0.5},
            "'similarity' has no effect with answers=numbers: it goes with text",
        ),
        ({"answers": "numbers", "scorer": "edit"}, "'scorer' has no effect with answers=numbers: it goes with text"),
    ],
)
def test_an_option_of_another_kind_of_answers_is_refused(given: Mapping[str, Any], problem: str) -> None:
    options = OPTIONS["compare"]
    assert problem in seen(options.world, options.call, given)[1]
    release_of = OPTIONS["release"]
    assert problem in seen(release_of.world, release_of.call, {"strategy": "shadow", "compare": given})[1]


@pytest.mark.parametrize("verb", OPTIONS)
def test_what_a_verb_shows_is_the_same_each_time(verb: str) -> None:
    """Else a difference would say nothing of an option."""
    options = OPTIONS[verb]
    assert seen(options.world, options.call, {}) == seen(options.world, options.call, {})
