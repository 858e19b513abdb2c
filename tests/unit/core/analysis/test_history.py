"""Counts by step from readings that a source has kept."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.history import History, history_of
from tests.support.slow_phases import Phases, history


def reading(requests: float, errors: float = 0, pod: str = "a", **latencies: float) -> Reading:
    """Raw counters; ``le_100`` is the series ``le/100``."""
    named = {name.replace("_", "/").replace("inf", "+Inf"): value for name, value in latencies.items()}
    return {pod: {"requests": requests, "errors": errors, **named}}


def test_counters_are_differenced_step_by_step() -> None:
    found = history_of([reading(100, 3), reading(130, 3), reading(170, 8)], 10.0)
    assert found.requests.tolist() == [30, 40]
    assert found.errors.tolist() == [0, 5]
    assert (found.step, found.seconds, found.gaps) == (10.0, 20.0, ())


def test_a_counter_that_fell_has_started_anew() -> None:
    found = history_of([reading(100, 3), reading(7, 1), reading(9, 1)], 10.0)
    assert (found.requests.tolist(), found.errors.tolist()) == ([7, 2], [1, 0])


def test_sources_are_summed_and_one_that_restarts_costs_the_others_nothing() -> None:
    first = {**reading(100), **reading(50, pod="b")}
    second = {**reading(4), **reading(80, pod="b")}
    assert history_of([first, second], 1.0).requests.tolist() == [34]


def test_a_gap_stays_one_and_what_came_in_it_counts_for_nothing() -> None:
    readings = [{}, reading(1), reading(5), {}, {}, reading(90), reading(93), {}]
    found = history_of(readings, 10.0)
    assert found.known.tolist() == [False, True, False, False, False, True, False]
    assert found.requests.tolist() == [0, 4, 0, 0, 0, 3, 0]
    assert (found.seconds, found.gaps) == (20.0, (30.0,))


@pytest.mark.parametrize("readings", [[], [{}], [{}, {}], [reading(5)]])
def test_without_two_readings_there_is_nothing(readings: list[Reading]) -> None:
    found = history_of(readings, 10.0)
    assert (found.seconds, found.gaps, found.requests.sum()) == (0.0, (), 0)
    assert found.phase() is None


def test_edges_are_chosen_from_the_answers_and_slow_ones_counted() -> None:
    base = reading(0, le_10=0, le_100=0, le_1000=0, le_inf=0)
    first = reading(100, le_10=50, le_100=90, le_1000=99, le_inf=100)
    second = reading(200, le_10=90, le_100=180, le_1000=199, le_inf=200)
    found = history_of([base, first, second], 10.0)
    assert {edge: slow.tolist() for edge, slow in found.slower_than.items()} == {
        10: [50, 60],
        100: [10, 10],
        1000: [1, 0],
    }


def test_edges_that_are_wanted_stand_beside_the_chosen_ones_where_the_source_has_them() -> None:
    edges = {"le_10": 50, "le_20": 60, "le_100": 90, "le_1000": 99, "le_inf": 100}
    readings = [reading(0, **dict.fromkeys(edges, 0)), reading(100, **edges)]
    assert set(history_of(readings, 10.0).slower_than) == {10, 100, 1000}
    assert set(history_of(readings, 10.0, edges=(20, 77)).slower_than) == {10, 20, 100, 1000}


def test_a_histogram_that_is_ahead_of_the_requests_counts_no_more_than_there_are() -> None:
    base = reading(0, le_10=0, le_inf=0)
    found = history_of([base, reading(3, errors=5, le_10=1, le_inf=9), reading(20, errors=5, le_10=9, le_inf=20)], 10.0)
    assert found.slower_than[10].tolist() == [3, 3]
    assert found.errors.tolist() == [3, 0]


def test_without_a_histogram_there_are_no_edges_but_phases_of_errors() -> None:
    counts = history(np.random.default_rng(1), 6 * 3600, 10, Phases(seconds=60, every=900)).astype(int)
    totals = np.vstack([[0, 0], np.cumsum(counts, axis=0)])
    found = history_of([reading(float(requests), float(errors)) for errors, requests in totals], 10.0)
    assert isinstance(found, History)
    assert found.slower_than == {}
    assert 48 <= (found.phase() or 0) <= 120
