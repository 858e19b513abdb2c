"""What each strategy makes of each request, and which it refuses because they would have no effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Arm, Mirror, SessionAffinity, Traffic, WeightedDestination
from mlflow_istio.core.mesh.virtual_service import cookie_match, header_match
from mlflow_istio.core.moves import strategies
from mlflow_istio.core.moves.strategies import (
    TrafficRequest,
    assignment_for,
    check_strategy,
    check_traffic_request,
    no_release,
    settle,
)
from mlflow_istio.errors import InvalidInput, StateConflict
from tests.support.endpoint_values import LEGACY, OTHER, a_release, an_endpoint, own, split, started

WITH_OTHER = Traffic(split=(*split(v1=80), WeightedDestination(destination=OTHER, weight=20)), pins=("v1", "v2", "v3"))


def begun(strategy: str, traffic_request: TrafficRequest, *candidates: str, **changes: Any) -> Traffic:
    return strategies.start(
        an_endpoint(**changes), a_release(strategy, *candidates, traffic_request=traffic_request), traffic_request
    )


STARTS = [
    ("canary", TrafficRequest(), split(v1=100, v2=0)),
    ("canary", TrafficRequest(weight=10), split(v1=90, v2=10)),
    ("canary", TrafficRequest(weight=100), split(v1=0, v2=100)),
    ("canary", TrafficRequest(weights={"v1": 70, "v2": 30}), split(v1=70, v2=30)),
    ("canary", TrafficRequest(weights={"v2": 30, "v1": 70}), split(v1=70, v2=30)),
    ("blue-green", TrafficRequest(), split(v1=100, v2=0)),
    ("blue-green", TrafficRequest(weight=100), split(v1=0, v2=100)),
    ("blue-green", TrafficRequest(weights={"v1": 0, "v2": 100}), split(v1=0, v2=100)),
    ("ab", TrafficRequest(header="x-arm", weight=50), split(v1=50, v2=50)),
    ("ab", TrafficRequest(cookie="arm", weights={"v1": 60, "v2": 40}), split(v1=60, v2=40)),
    ("shadow", TrafficRequest(), split(v1=100)),
    ("shadow", TrafficRequest(mirror=5), split(v1=100)),
]


@pytest.mark.parametrize(("strategy", "traffic_request", "expected"), STARTS)
def test_each_strategy_splits_the_live_traffic_as_wished(
    strategy: str, traffic_request: TrafficRequest, expected: tuple[WeightedDestination, ...]
) -> None:
    assert begun(strategy, traffic_request).split == expected


@pytest.mark.parametrize(("traffic_request", "percentage"), [(TrafficRequest(), 100.0), (TrafficRequest(mirror=5), 5)])
def test_a_shadow_gets_copies_and_no_live_traffic(traffic_request: TrafficRequest, percentage: float) -> None:
    traffic = begun("shadow", traffic_request)
    assert traffic.mirrors == (Mirror(destination=own("v2"), percentage=percentage),)
    assert traffic.weights == {"v1": 100}


def test_a_shadow_stands_beside_mirrors_of_others() -> None:
    theirs = Mirror(destination=OTHER, percentage=50)
    endpoint = an_endpoint(traffic=Traffic(split=split(v1=100), pins=("v1", "v2"), mirrors=(theirs,)))
    release = a_release("shadow")
    first = replace(endpoint, release=release, traffic=strategies.start(endpoint, release, TrafficRequest(mirror=5)))
    again = strategies.shift(first, TrafficRequest(mirror=10))
    assert again.mirrors == (theirs, Mirror(destination=own("v2"), percentage=10))


def test_ab_by_header_gives_every_arm_a_value_stable_included() -> None:
    traffic = begun("ab", TrafficRequest(header="X-Arm", weights={"v1": 40, "v2": 30, "v3": 30}), "v2", "v3")
    assert traffic.arms == tuple(
        Arm(deployment=name, match=(header_match("X-Arm", f"r1.{name}"),)) for name in ("v1", "v2", "v3")
    )
    assert traffic.sticky is None


def test_ab_by_header_takes_the_callers_own_values() -> None:
    traffic = begun("ab", TrafficRequest(header="plan", values={"v2": "pro"}))
    assert traffic.arms == (Arm(deployment="v2", match=({"headers": {"plan": {"exact": "pro"}}},)),)


def test_ab_by_cookie_sticks_all_arms_and_carries_the_release() -> None:
    traffic = begun("ab", TrafficRequest(cookie="arm", weight=50))
    assert traffic.sticky == SessionAffinity(cookie="arm", release="r1")
    assert [arm.match for arm in traffic.arms] == [
        (cookie_match("arm", "r1.v1"),),
        (cookie_match("arm", "r1.v2"),),
    ]


REFUSED_AT_START = [
    (
        "canary",
        TrafficRequest(mirror=5),
        "option 'mirror' has no effect with strategy=canary: copies are what strategy=shadow",
    ),
    (
        "canary",
        TrafficRequest(header="x"),
        "option 'header' has no effect with strategy=canary: it takes: match, weight, weights",
    ),
    ("canary", TrafficRequest(cookie="x"), "option 'cookie' has no effect"),
    ("canary", TrafficRequest(values={"v2": "x"}), "option 'values' has no effect"),
    ("blue-green", TrafficRequest(mirror=5), "option 'mirror' has no effect with strategy=blue-green"),
    ("shadow", TrafficRequest(weight=10), "option 'weight' has no effect with strategy=shadow: .*use 'mirror'"),
    ("shadow", TrafficRequest(weights={"v1": 100}), "option 'weights' has no effect with strategy=shadow"),
    ("shadow", TrafficRequest(header="x"), "it takes: mirror"),
    ("ab", TrafficRequest(header="x", mirror=5), "option 'mirror' has no effect with strategy=ab"),
    ("canary", TrafficRequest(weight=10, weights={"v1": 90, "v2": 10}), "either 'weight' .* or 'weights' .*, not both"),
]


@pytest.mark.parametrize(("strategy", "traffic_request", "words"), REFUSED_AT_START)
def test_an_option_that_would_have_no_effect_is_refused_with_what_to_use(
    strategy: str, traffic_request: TrafficRequest, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_traffic_request(strategy, traffic_request, starting=True)


WRONG_WEIGHTS = [
    ("canary", TrafficRequest(weights={"v1": 60, "v2": 50}), "must sum to 100, not 110"),
    ("canary", TrafficRequest(weights={"v2": 100}), "must name every destination: 'v1' is missing"),
    (
        "canary",
        TrafficRequest(weights={"v1": 90, "v2": 5, "v9": 5}),
        "'weights' names 'v9', which is no part of release 'r1'",
    ),
    ("canary", TrafficRequest(weights={"v1": 90.5, "v2": 9.5}), "weight of 'v1' must be a whole number"),  # type: ignore[dict-item]
    ("canary", TrafficRequest(weight=101), "weight of 'v2' must be from 0 to 100, not 101"),
    ("blue-green", TrafficRequest(weight=10), "weight 10 of 'v2' has no place in strategy=blue-green"),
    ("blue-green", TrafficRequest(weights={"v1": 50, "v2": 50}), "weight 50 of 'v1' has no place"),
    ("shadow", TrafficRequest(mirror=0), "a shadow gets more than 0 and at most 100 percent, not 0: abort it"),
    ("shadow", TrafficRequest(mirror=101), "from 0 to 100, not 101"),
]


@pytest.mark.parametrize(("strategy", "traffic_request", "words"), WRONG_WEIGHTS)
def test_weights_that_can_not_be_are_refused_by_name(
    strategy: str, traffic_request: TrafficRequest, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        begun(strategy, traffic_request)
    with pytest.raises(InvalidInput, match=words):
        strategies.shift(started(strategy), traffic_request)


def test_one_weight_for_several_candidates_is_refused_with_the_form_to_use() -> None:
    with pytest.raises(InvalidInput, match='has 2 candidates: give \'weights\' .*{"v1": 20, "v2": 20, "v3": 20}'):
        begun("ab", TrafficRequest(header="x", weight=10), "v2", "v3")


@pytest.mark.parametrize(
    ("traffic_request", "words"),
    [
        (TrafficRequest(), "needs exactly one of 'header' and 'cookie'"),
        (TrafficRequest(header="a", cookie="b"), "needs exactly one of"),
        (TrafficRequest(cookie="a", values={"v2": "x"}), "option 'values' goes with 'header'"),
        (TrafficRequest(header="a", values={"v9": "x"}), "'values' names 'v9', which is no arm"),
        (TrafficRequest(header="a", values={"v1": "x", "v2": "x"}), "gives two arms the same value"),
        (TrafficRequest(header="a", values={"v1": ""}), "holds '', which no header carries"),
        (TrafficRequest(header="a", values={"v1": " x"}), "holds ' x'"),
        (TrafficRequest(header="a", values={"v1": "ü"}), "holds 'ü'"),
        (TrafficRequest(header="a", values={"v1": "a\nb"}), "visible ASCII"),
    ],
)
def test_arms_that_a_caller_could_not_name_are_refused(traffic_request: TrafficRequest, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        assignment_for("r1", ("v1", "v2"), traffic_request)


@pytest.mark.parametrize("header", ["uri", "Method", "authority", "scheme", "host", "Cookie", "x-mlflow-deployment"])
def test_a_header_that_istio_ignores_or_we_use_can_not_name_the_arm(header: str) -> None:
    with pytest.raises(InvalidInput, match=f"header '{header}' can't name the arm"):
        assignment_for("r1", ("v1", "v2"), TrafficRequest(header=header))


def test_ab_without_an_assignment_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs 'header' or 'cookie'"):
        strategies.start(an_endpoint(), replace(a_release("ab"), assignment=None), TrafficRequest())


SHIFTS = [
    ("canary", TrafficRequest(weight=25), split(v1=75, v2=25)),
    ("canary", TrafficRequest(weights={"v1": 10, "v2": 90}), split(v1=10, v2=90)),
    ("blue-green", TrafficRequest(weight=100), split(v1=0, v2=100)),
    ("ab", TrafficRequest(weight=25), split(v1=75, v2=25)),
    ("ab", TrafficRequest(weight=25, header="x-arm"), split(v1=75, v2=25)),
    ("ab", TrafficRequest(header="x-arm"), split(v1=100, v2=0)),
    ("ab", TrafficRequest(values={"v1": "r1.v1", "v2": "r1.v2"}), split(v1=100, v2=0)),
    ("shadow", TrafficRequest(mirror=50), split(v1=100)),
]


@pytest.mark.parametrize(("strategy", "traffic_request", "expected"), SHIFTS)
def test_a_shift_changes_the_split_and_nothing_else(
    strategy: str, traffic_request: TrafficRequest, expected: tuple[WeightedDestination, ...]
) -> None:
    before = started(strategy)
    after = strategies.shift(before, traffic_request)
    assert after.split == expected
    assert (after.pins, after.arms, after.sticky) == (before.traffic.pins, before.traffic.arms, before.traffic.sticky)
    if strategy == "shadow":
        assert after.mirrors == (Mirror(destination=own("v2"), percentage=50),)


@pytest.mark.parametrize(
    ("strategy", "traffic_request", "words"),
    [
        ("canary", TrafficRequest(), "nothing to change: give 'weight', 'weights', 'mirror' or 'action'"),
        ("canary", TrafficRequest(mirror=5), "'mirror' has no effect with strategy=canary"),
        ("shadow", TrafficRequest(weight=5), "'weight' has no effect with strategy=shadow"),
        ("ab", TrafficRequest(header="x-other"), "option 'header' is fixed when an A/B release starts"),
        ("ab", TrafficRequest(cookie="c", weight=5), "option 'cookie' is fixed"),
        ("ab", TrafficRequest(values={"v1": "a", "v2": "b"}), "option 'values' is fixed"),
    ],
)
def test_a_shift_that_the_release_can_not_make_is_refused(
    strategy: str, traffic_request: TrafficRequest, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        strategies.shift(started(strategy), traffic_request)


def test_a_shift_without_a_release_is_refused() -> None:
    with pytest.raises(StateConflict, match="has no open release"):
        strategies.shift(an_endpoint(), TrafficRequest(weight=5))


def test_a_destination_that_takes_no_part_keeps_its_weight() -> None:
    traffic = begun("canary", TrafficRequest(weight=10), traffic=WITH_OTHER)
    assert traffic.weights == {"v1": 70, "v2": 10, "other": 20}


def test_weights_may_also_move_a_destination_of_others() -> None:
    traffic = begun("canary", TrafficRequest(weights={"v1": 50, "v2": 50, "other": 0}), traffic=WITH_OTHER)
    assert traffic.weights == {"v1": 50, "v2": 50, "other": 0}


def test_more_weight_than_others_leave_is_refused() -> None:
    with pytest.raises(InvalidInput, match="over 100 together: v2=90, other=20"):
        begun("canary", TrafficRequest(weight=90), traffic=WITH_OTHER)


SETTLED = [
    (started("canary", traffic_request=TrafficRequest(weight=40)), "v1", {"v1": 100}),
    (started("canary", traffic_request=TrafficRequest(weight=40)), "v2", {"v2": 100}),
    (started("canary", traffic_request=TrafficRequest(weight=40), traffic=WITH_OTHER), "v2", {"v2": 80, "other": 20}),
    (started("canary", traffic_request=TrafficRequest(weight=40), traffic=WITH_OTHER), "v1", {"v1": 80, "other": 20}),
    (started("ab", traffic_request=TrafficRequest(cookie="arm", weight=40)), "v2", {"v2": 100}),
    (started("shadow"), "v1", {"v1": 100}),
]


@pytest.mark.parametrize(("endpoint", "stable", "weights"), SETTLED)
def test_settling_gives_one_destination_all_and_leaves_nothing_of_the_release(
    endpoint: Endpoint, stable: str, weights: dict[str, int]
) -> None:
    traffic = settle(endpoint, own(stable))
    assert traffic.weights == weights
    assert (traffic.arms, traffic.mirrors, traffic.sticky) == ((), (), None)
    assert traffic.pins == endpoint.traffic.pins


def test_a_foreign_stable_stays_in_the_split_at_0_when_ours_takes_over_and_gets_all_back() -> None:
    foreign = an_endpoint(traffic=Traffic(split=split(legacy=100), pins=("v1", "v2")), stable=LEGACY)
    promoted = replace(foreign, traffic=settle(foreign, own("v1")), stable=own("v1"))
    assert promoted.traffic.split == split(v1=100, legacy=0)
    assert settle(promoted, LEGACY).split == split(legacy=100)


def test_a_foreign_stable_that_left_the_split_comes_back_as_itself() -> None:
    assert settle(an_endpoint(), LEGACY).split == split(legacy=100)


def test_settling_keeps_mirrors_of_others() -> None:
    theirs = Mirror(destination=OTHER, percentage=50)
    endpoint = started("shadow", traffic=Traffic(split=split(v1=100), pins=("v1", "v2"), mirrors=(theirs,)))
    assert settle(endpoint, own("v1")).mirrors == (theirs,)


def test_an_unknown_strategy_is_refused_with_the_nearest() -> None:
    assert check_strategy("ab") == "ab"
    with pytest.raises(InvalidInput, match="unknown strategy 'cannary': did you mean 'canary'"):
        check_strategy("cannary")


@pytest.mark.parametrize(
    ("pins", "words"),
    [(("v1", "v2"), "start one with -C strategy=canary -C candidate=v2"), (("v1",), "deploy a candidate first")],
)
def test_without_a_release_the_message_says_how_to_get_one(pins: tuple[str, ...], words: str) -> None:
    endpoint = an_endpoint(traffic=Traffic(split=split(v1=100), pins=pins))
    assert no_release(endpoint) == f"endpoint 'churn' has no open release, so there is no candidate: {words}"
