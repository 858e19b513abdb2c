"""Raw counters become interval counts, whatever restarts, vanishes or appears."""

import json
import math

import pytest

from mlflow_istio.core.analysis.counters import CounterState, check_totals
from mlflow_istio.errors import InvalidInput, MetricsError


def replay(*readings):
    state, counts = CounterState(), []
    for reading in readings:
        state, grown = state.advanced(reading)
        counts.append(grown)
    return state, counts


@pytest.mark.parametrize(
    ("readings", "last"),
    [
        pytest.param([{"p": {"ok": 5}}], {}, id="the first reading is the base line"),
        pytest.param([{"p": {"ok": 5}}, {"p": {"ok": 9}}], {"ok": 4}, id="growth"),
        pytest.param([{"p": {"ok": 5}}, {"p": {"ok": 5}}], {"ok": 0}, id="no growth"),
        pytest.param([{"p": {"ok": 5}}, {"p": {"ok": 2}}], {"ok": 2}, id="a fall is a restart"),
        pytest.param(
            [{"p": {"ok": 5, "err": 3}}, {"p": {"ok": 8, "err": 1}}],
            {"ok": 8, "err": 1},
            id="one fall restarts the whole source",
        ),
        pytest.param(
            [{"p": {"ok": 5}, "q": {"ok": 7}}, {"p": {"ok": 1}, "q": {"ok": 9}}],
            {"ok": 3},
            id="but not the other sources; series are summed over sources",
        ),
        pytest.param(
            [{"p": {"ok": 5}}, {"p": {"ok": 6, "err": 2}}],
            {"ok": 1, "err": 2},
            id="a series that appears counts in full",
        ),
        pytest.param([{"p": {"ok": 5}}, {"p": {"ok": 6}, "q": {"ok": 4}}], {"ok": 5}, id="so does a new source"),
        pytest.param([{"p": {"ok": 5}}, {}, {"p": {"ok": 9}}], {"ok": 4}, id="a gap loses nothing"),
        pytest.param(
            [{"p": {"ok": 5, "err": 3}}, {"p": {"ok": 6}}, {"p": {"ok": 7, "err": 4}}],
            {"ok": 1, "err": 1},
            id="nor does a gap in one series",
        ),
        pytest.param(
            [{"p": {"ok": 5, "err": 3}}, {"p": {"ok": 1}}, {"p": {"ok": 2, "err": 1}}],
            {"ok": 1, "err": 1},
            id="after a restart the unseen series starts at 0",
        ),
        pytest.param([{}, {"p": {"ok": 3}}], {"ok": 3}, id="an empty base line is one"),
        pytest.param([{"p": {"ok": 1e15}}, {"p": {"ok": 1e15 + 1}}], {"ok": 1}, id="large counters stay exact"),
    ],
)
def test_growth_since_the_last_reading(readings, last):
    assert replay(*readings)[1][-1] == last


def test_state_is_plain_json_and_the_argument_is_not_kept():
    reading = {"p": {"ok": 5.0}}
    state, _ = CounterState().advanced(reading)
    reading["p"]["ok"] = 100.0
    assert state == CounterState(last={"p": {"ok": 5.0}})
    assert CounterState(last=json.loads(json.dumps(state.last))) == state


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_an_impossible_counter_is_refused_by_name(value):
    with pytest.raises(InvalidInput, match="counter ok of p is"):
        CounterState().advanced({"p": {"ok": value}})


def test_sums_of_a_numeric_kpi_keep_their_fractions():
    state, _ = CounterState().advanced(
        {"pod": {"kpi/basket/n": 1.0, "kpi/basket/sum": 0.25, "kpi/basket/sum_squares": 0.0625}}
    )
    _, grown = state.advanced({"pod": {"kpi/basket/n": 3.0, "kpi/basket/sum": 0.9, "kpi/basket/sum_squares": 0.3}})
    assert grown["kpi/basket/n"] == 2
    assert abs(grown["kpi/basket/sum"] - 0.65) < 1e-12
    assert abs(grown["kpi/basket/sum_squares"] - 0.2375) < 1e-12


def reading(source, **counters):
    return {"churn-v2": {source: {f"kpi/sold/{part}": value for part, value in counters.items()}}}


@pytest.mark.parametrize(
    "now", [reading("kpi sold", n=5, events=2), reading("kpi sold", n=9, events=1), reading("kpi sold", n=0, events=0)]
)
def test_a_total_that_falls_is_refused_by_name(now):
    before = {name: CounterState(last=last) for name, last in reading("kpi sold", n=9, events=2).items()}
    with pytest.raises(
        MetricsError, match="^KPI 'sold' of 'churn-v2' had .* counts so far only grow: give what was counted since"
    ):
        check_totals(before, now)


@pytest.mark.parametrize(
    ("last", "now"),
    [
        (reading("kpi sold", n=9), reading("kpi sold", n=9)),
        (reading("kpi sold", n=9), {}),
        (reading("kpi sold", n=9), {"churn-v2": {}}),
        ({}, reading("kpi sold", n=1)),
        (reading("kpi sold shop-1", n=9), reading("kpi sold shop-1", n=1)),
        (reading("pod-1", n=9), reading("pod-1", n=1)),
    ],
)
def test_other_sources_may_restart(last, now):
    check_totals({name: CounterState(last=counters) for name, counters in last.items()}, now)
