"""Histograms, the latency test over a few edges, and quantiles for the report."""

import json
import math

import numpy as np
import pytest

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.latency import LatencyTest, choose_edges
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput

EDGES = (5.0, 10.0, 25.0, 50.0, 100.0, math.inf)


def buckets(*counts):
    return Buckets(edges=EDGES, counts=counts)


STABLE = buckets(100, 500, 900, 980, 998, 1000)


def test_cumulative_text_edges_are_read_in_order():
    read = Buckets.from_cumulative({"+Inf": 10, "100": 9, "5": 2})
    assert read == Buckets(edges=(5.0, 100.0, math.inf), counts=(2, 9, 10))
    assert (read.total, read.at_most(5.0), read.slower_than(100.0)) == (10, 2, 1)


def test_a_count_below_its_smaller_edge_is_raised_as_prometheus_does():
    assert Buckets.from_cumulative({"5": 3, "10": 2, "+Inf": 4}).counts == (3, 3, 4)


def test_histograms_of_two_intervals_add_up():
    assert STABLE.plus(STABLE).counts == tuple(2 * count for count in STABLE.counts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Buckets(edges=(), counts=()), "last edge"),
        (lambda: Buckets(edges=(1.0, 2.0), counts=(1, 2)), "last edge"),
        (lambda: Buckets(edges=(1.0, math.inf), counts=(1,)), "one count"),
        (lambda: Buckets(edges=(2.0, 1.0, math.inf), counts=(1, 2, 3)), "rise"),
        (lambda: Buckets(edges=(1.0, math.inf), counts=(3, 2)), "not fall"),
        (lambda: Buckets(edges=(1.0, math.inf), counts=(-1, 2)), "not fall"),
        (lambda: Buckets.from_cumulative({"fast": 1, "+Inf": 2}), "isn't a number"),
        (lambda: Buckets.from_cumulative({}), "last edge"),
        (lambda: STABLE.at_most(7.0), "no bucket edge at 7 ms; the edges are 5, 10, 25"),
        (lambda: STABLE.plus(Buckets(edges=(1.0, math.inf), counts=(1, 2))), "different edges"),
        (lambda: LatencyTest.at([]), "edges"),
        (lambda: LatencyTest.at([10.0, 5.0]), "rise"),
        (lambda: LatencyTest(edges=(5.0,), tests=()), "as many tests"),
        (lambda: LatencyTest.at([7.0]).update(STABLE, STABLE), "no bucket edge at 7"),
        (lambda: choose_edges(STABLE, quantiles=[]), "quantiles"),
        (lambda: choose_edges(STABLE, quantiles=[1.0]), "quantiles"),
        (lambda: choose_edges(buckets(0, 0, 0, 0, 0, 0)), "send it traffic"),
        (lambda: from_json(LatencyTest, {}), "missing fields"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_evidence_is_the_average_over_the_edges_of_slower_than_the_edge():
    candidate = buckets(5, 30, 70, 90, 99, 100)
    test = LatencyTest.at([10.0, 50.0], margin=1.25).update(candidate, STABLE)
    by_edge = [
        RateTest(margin=1.25).update(70, 100, 500, 1000),
        RateTest(margin=1.25).update(10, 100, 20, 1000),
    ]
    assert test.e_value == pytest.approx(np.mean([single.e_value for single in by_edge]))
    assert test.p_value == pytest.approx(min(1.0, 1 / test.e_value))
    assert test.confidence_sequence(0.05) == {
        edge: single.confidence_sequence(0.05) for edge, single in zip((10.0, 50.0), by_edge, strict=True)
    }


def test_the_strongest_average_stays_in_the_p_value():
    slow = buckets(0, 10, 60, 90, 99, 100)
    fast = buckets(90, 99, 100, 100, 100, 100)
    early = LatencyTest.at([10.0, 25.0]).update(slow, STABLE)
    late = early
    for _ in range(10):
        late = late.update(fast, STABLE)
    assert late.e_value < 1
    assert late.p_value == early.p_value < 0.01


def test_state_comes_back_equal():
    test = LatencyTest.at([10.0, 25.0], margin=1.5, overdispersion=2.0, late=0.0).update(
        buckets(0, 10, 60, 90, 99, 100), STABLE
    )
    assert from_json(LatencyTest, json.loads(json.dumps(to_json(test)))) == test


@pytest.mark.parametrize(
    ("quantiles", "edges"),
    [((0.5, 0.9, 0.99), (10.0, 25.0, 50.0)), ((0.5,), (10.0,)), ((0.001,), (5.0,)), ((0.49, 0.51), (10.0,))],
)
def test_edges_nearest_to_the_stables_quantiles_are_chosen_once_each(quantiles, edges):
    """0.99 lies between 98.0% at 50 ms and 99.8% at 100 ms; 98% is nearer in log odds (0.70 against 1.62)."""
    assert choose_edges(STABLE, quantiles) == edges
