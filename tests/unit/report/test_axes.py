"""Scales: what is shown stands where its value says, and every axis has a few round marks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.report import axes, charts, words


def _times(value: float) -> str:
    return f"{value:g}x"


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20), st.floats(1e-9, 1e3))
def test_a_linear_axis_holds_every_value_with_a_few_marks(values: list[float], least: float) -> None:
    axis = axes.linear_axis(values, _times, least=least)
    assert axis.low == 0.0
    assert axis.high >= max(values) * (1 - 1e-9)
    assert 2 <= len(axis.ticks) <= 6
    assert [tick.at for tick in axis.ticks] == sorted(tick.at for tick in axis.ticks)


@given(st.lists(st.floats(1e-300, 1e300), max_size=20), st.floats(0.05, 50))
def test_a_logarithmic_axis_holds_its_mark_and_stays_in_bounds(values: list[float], include: float) -> None:
    axis = axes.log_axis(values, _times, low=0.01, high=100.0, include=include)
    assert 0 < axis.at(include) < 1
    assert 0.01 / 5 <= axis.low < axis.high <= 500
    assert 1 <= len(axis.ticks) <= 12


@given(st.floats(0, 4e9), st.floats(0, 1e8))
def test_a_time_axis_has_a_few_marks_within_it(start: float, length: float) -> None:
    axis = axes.time_axis(start, start + length)
    assert axis.high > axis.low
    assert len(axis.ticks) <= 7
    assert all(0 <= tick.at <= 1 for tick in axis.ticks)


@pytest.mark.parametrize(
    ("length", "labels"),
    [
        (60, ["00:00:00", "00:00:15", "00:00:30", "00:00:45", "00:01:00"]),
        (3600, ["00:00", "00:15", "00:30", "00:45", "01:00"]),
        (4 * 86400, ["01 Jan", "02 Jan", "03 Jan", "04 Jan", "05 Jan"]),
    ],
)
def test_times_are_written_as_finely_as_they_differ(length: float, labels: list[str]) -> None:
    assert [tick.text for tick in axes.time_axis(0, length).ticks] == labels


def test_what_lies_outside_stands_at_the_edge() -> None:
    axis = axes.log_axis([1.0], _times, low=0.01, high=100, include=1.0)
    assert (axis.at(0.0), axis.at(1e9)) == (0.0, 1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float]) -> None:
    points = list(enumerate(values))
    kept = charts.thinned([(float(at), value) for at, value in points])
    assert len(kept) <= charts.MOST_POINTS
    assert (kept[0][1], kept[-1][1]) == (values[0], values[-1])
    assert max(value for _, value in kept) == max(values)
    assert min(value for _, value in kept) == min(values)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (0.3, "30%"),
        (0.057, "5.7%"),
        (0.0003, "0.03%"),
        (0.123, "12.3%"),
        (1.0, "100%"),
        (0.00001234, "0.0012%"),
    ],
)
def test_a_share_is_written_with_the_digits_it_deserves(share: float, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("log_e", "text"), [(math.log(20), "20"), (0.0, "1"), (-800.0, "~0"), (800.0, "10^347"), (math.log(163), "163")]
)
def test_an_e_value_of_any_size_can_be_read(log_e: float, text: str) -> None:
    assert words.e_value(log_e) == text
