"""Gross failure: when the rule fires, and what does not make it fire."""

from __future__ import annotations

import math

import pytest

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.gross import GrossFailure, gross_edge
from mlflow_istio.core.basics.stored import from_json, to_json

SOUND = (2, 200)


def after(*looks: tuple[tuple[int, int], tuple[int, int]], edge: float | None = None) -> GrossFailure:
    rule = GrossFailure(edge=edge)
    for candidate, stable in looks:
        rule = rule.update((candidate, stable))
    return rule


def test_two_looks_in_a_row_fire() -> None:
    one = after(((30, 40), SOUND))
    assert (one.fired, one.log_e_value) == ("", 0.0)
    two = one.update(((12, 40), SOUND))
    assert two.log_e_value == math.inf
    assert two.fired.startswith("failed: 30% of 40 requests on the candidate against 1% of 200 requests on the stable")
    assert two.update(((0, 40), SOUND)).fired == two.fired
    assert from_json(GrossFailure, to_json(two)) == two


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param((((30, 40), SOUND), ((11, 40), SOUND)), id="below thirty percent"),
        pytest.param((((30, 40), SOUND), ((0, 40), SOUND), ((30, 40), SOUND)), id="not in a row"),
        pytest.param((((19, 19), SOUND), ((19, 19), SOUND)), id="too few requests for two"),
        pytest.param((((30, 40), (30, 200)), ((30, 40), (30, 200))), id="the stable fails, too"),
    ],
)
def test_it_does_not_fire(looks: tuple[tuple[tuple[int, int], tuple[int, int]], ...]) -> None:
    assert not after(*looks).fired


def test_a_candidate_that_has_all_the_traffic_is_judged_by_itself() -> None:
    """Blue-green: a version that fails all of its users shall not wait for blocks of time."""
    assert after(((30, 40), (0, 0)), ((30, 40), (0, 0))).fired


def test_looks_with_too_few_requests_are_joined() -> None:
    """5% of 30 requests a second are 15 in a look of 10 s: the first step of a default release."""
    few = ((14, 15), (1, 285))
    assert not after(few, few, few).fired
    assert after(few, few, few, few).fired
    assert after(((30, 40), SOUND), ((0, 3), SOUND), ((30, 37), SOUND)).fired


def test_slow_answers_fire_at_their_edge() -> None:
    rule = GrossFailure(edge=500.0)
    for _ in range(2):
        rule = rule.update(((0, 40), SOUND), ((21, 40), (3, 200)))
    assert rule.fired.startswith("slower than 500 ms: 52.5% of 40 requests")
    half = GrossFailure(edge=500.0)
    for _ in range(3):
        half = half.update(((0, 40), SOUND), ((20, 40), (3, 200)))
    assert not half.fired


EDGES = (5.0, 10.0, 50.0, 100.0, 500.0, math.inf)


@pytest.mark.parametrize(
    ("counts", "edge"),
    [
        ((0, 60, 90, 100, 100, 100), 100.0),
        ((0, 0, 60, 90, 100, 100), 500.0),
        ((90, 95, 96, 97, 100, 100), 50.0),
        ((0, 0, 0, 0, 60, 100), 500.0),
        ((0, 0, 0, 0, 10, 100), None),
        ((0, 0, 0, 0, 0, 0), None),
    ],
)
def test_the_edge_is_the_nearest_to_ten_times_the_median(counts: tuple[int, ...], edge: float | None) -> None:
    assert gross_edge(Buckets(edges=EDGES, counts=counts)) == edge
