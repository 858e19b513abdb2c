"""Traffic is whole: integer weights that sum to 100, nothing named twice, and a JSON form that says all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.traffic import (
    Arm,
    Destination,
    Mirror,
    SessionAffinity,
    Traffic,
    WeightedDestination,
    split_between,
)
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import LEGACY, OTHER, own, split

RICH = Traffic(
    split=split(v1=60, v2=30, legacy=10),
    pins=("v1", "v2"),
    arms=(Arm(deployment="v2", match=({"headers": {"x-arm": {"exact": "b"}}},)),),
    mirrors=(Mirror(destination=own("v3"), percentage=12.5),),
    sticky=SessionAffinity(cookie="arm", release="r1", max_age=60),
)


@pytest.mark.parametrize(
    ("destination", "name", "as_json"),
    [
        (own("v1"), "v1", {"host": "churn", "subset": "v1"}),
        (OTHER, "other", {"host": "other"}),
        (LEGACY, "legacy.old.svc.cluster.local:8080", {"host": LEGACY.host, "port": {"number": 8080}}),
        (Destination(host="a", subset="s", port=1), "s", {"host": "a", "subset": "s", "port": {"number": 1}}),
    ],
)
def test_a_destination_is_written_as_istio_has_it_and_read_back(
    destination: Destination, name: str, as_json: dict[str, Any]
) -> None:
    assert destination.name == name
    assert to_json(destination) == as_json
    assert from_json(Destination, as_json) == destination


@pytest.mark.parametrize("weight", [-1, 101, 10.5, "10", True, None])
def test_a_weight_is_a_whole_number_from_0_to_100(weight: Any) -> None:
    with pytest.raises(InvalidInput, match="weight of 'v1' must be"):
        WeightedDestination(destination=own("v1"), weight=weight)


@pytest.mark.parametrize("percentage", [-0.1, 100.1, float("nan"), "5", True, None])
def test_a_mirror_copies_from_0_to_100_percent(percentage: Any) -> None:
    with pytest.raises(InvalidInput, match="mirror percentage must be from 0 to 100"):
        Mirror(destination=own("v1"), percentage=percentage)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"v1": 60, "v2": 50}, "must sum to 100, not 110: v1=60, v2=50"),
        ({"v1": 99}, "must sum to 100, not 99: v1=99"),
        ({}, "must sum to 100, not 0: no destination"),
    ],
)
def test_weights_sum_to_100(weights: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Traffic(split=split(**weights))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"split": (*split(v1=50), *split(v1=50))}, "destination 'v1' is named twice"),
        ({"split": split(v1=100), "pins": ("v1", "v1")}, "pin 'v1' is named twice"),
        ({"split": split(v1=100), "mirrors": RICH.mirrors * 2}, "mirror 'v3' is named twice"),
        ({"split": split(v1=100), "arms": RICH.arms * 2}, "arm 'v2' is named twice"),
    ],
)
def test_nothing_is_named_twice(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Traffic(**parts)


@pytest.mark.parametrize(
    ("name", "reached"),
    [("v1", True), ("v2", True), ("v3", True), ("v4", False), (LEGACY.name, True)],
)
def test_live_requests_and_copies_of_them_reach_but_a_pin_does_not(name: str, reached: bool) -> None:
    assert RICH.reaches(name) is reached
    assert not Traffic(split=split(v1=100, v2=0), pins=("v1", "v2")).reaches("v2")


def test_an_arm_reaches_a_deployment_at_weight_0() -> None:
    assert Traffic(split=split(v1=100, v2=0), arms=RICH.arms).reaches("v2")


def test_pins_come_and_go_once_and_in_order() -> None:
    traffic = Traffic(split=split(v1=100), pins=("v1",))
    assert traffic.with_pin("v3").with_pin("v2").pins == ("v1", "v2", "v3")
    assert traffic.with_pin("v1") is traffic
    assert traffic.with_pin("v2").without_pin("v2").without_pin("v2") == traffic


@pytest.mark.parametrize("traffic", [RICH, Traffic(split=split(v1=100))])
def test_the_json_form_says_all_of_it(traffic: Traffic) -> None:
    assert from_json(Traffic, json.loads(json.dumps(to_json(traffic)))) == traffic


def test_the_json_form_leaves_out_what_is_not_there() -> None:
    assert to_json(Traffic(split=split(v1=100))) == {"split": [{"host": "churn", "subset": "v1", "weight": 100}]}


def test_stable_gets_what_the_others_leave() -> None:
    assert split_between(own("v1"), split(v2=30, legacy=20)) == split(v1=50, v2=30, legacy=20)


def test_candidates_that_want_more_than_there_is_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="over 100 together: v2=60, v3=50"):
        split_between(own("v1"), split(v2=60, v3=50))
