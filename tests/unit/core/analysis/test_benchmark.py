"""The decision benchmark in the lab runs the shipped rule and reads its peers as documented."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from benchmarks import decisions_lab
from benchmarks.decisions_lab import LOOK, LOOKS, OURS, RULES, SCENARIOS, Figure, Traffic, simulate
from mlflow_istio.core.analysis.rate_test import RateTest


def traffic_of(events, total=20):
    """One run whose candidate had these events at the first looks and none later."""
    counts = np.zeros((1, LOOKS), dtype=np.int64)
    counts[0, : len(events)] = events
    totals = np.full((1, LOOKS), total)
    return Traffic(
        scenario=SCENARIOS[0],
        candidate_total=totals,
        candidate_events=counts,
        stable_total=LOOK - totals,
        stable_events=np.zeros_like(counts),
    )


@pytest.mark.parametrize("number", range(len(SCENARIOS)))
def test_our_row_is_the_shipped_rate_test(number):
    traffic = simulate(SCENARIOS[number], 3, np.random.default_rng(number))
    alarms = decisions_lab.our_rule(traffic)
    for run in range(3):
        test, expected = RateTest(), []
        for look in range(LOOKS):
            test = test.update(
                int(traffic.candidate_events[run, look]),
                int(traffic.candidate_total[run, look]),
                int(traffic.stable_events[run, look]),
                int(traffic.stable_total[run, look]),
            )
            expected.append(test.log_e_value >= np.log(20))
        assert alarms[run].tolist() == expected


def test_flagger_rolls_back_at_the_fifth_failed_check_of_any():
    alarms = decisions_lab.flagger(traffic_of([1, 0, 1, 1, 0, 1, 1]), success=0.99, check_every=LOOK)
    assert alarms[0].argmax() == 6
    assert not decisions_lab.flagger(traffic_of([1, 0, 1, 1, 0, 1, 0]), success=0.99, check_every=LOOK).any()


def test_flagger_passes_a_check_at_exactly_its_minimum():
    assert not decisions_lab.flagger(traffic_of([1] * 20, total=100), success=0.99, check_every=LOOK).any()


def test_flagger_looks_only_when_its_check_is_due():
    alarms = decisions_lab.flagger(traffic_of([20] * LOOKS), success=0.97, check_every=10 * LOOK)
    assert alarms[0].argmax() == 49


def test_kayenta_is_the_shifted_mann_whitney_test():
    rng = np.random.default_rng(0)
    candidate = rng.binomial(100, [[0.02], [0.08], [0.015]], size=(3, 12)) / 100
    stable = rng.binomial(900, 0.015, size=(3, 12)) / 900
    verdicts = []
    for ours, theirs in zip(candidate, stable, strict=True):
        shift = 0.25 * abs(np.median(np.subtract.outer(ours, theirs)))
        p_value = mannwhitneyu(ours - shift, theirs, alternative="greater", method="asymptotic").pvalue
        verdicts.append(p_value <= 0.01 and ours.mean() >= theirs.mean())
    assert decisions_lab.judged_high(candidate, stable).tolist() == verdicts
    assert len(set(verdicts)) == 2


def test_runs_that_alarmed_before_the_candidate_turned_bad_are_left_out():
    late = next(scenario for scenario in SCENARIOS if scenario.bad_from)
    traffic = replace(simulate(late, 4, np.random.default_rng(1)), candidate_total=np.full((4, LOOKS), 20))
    alarms = np.zeros((4, LOOKS), dtype=np.bool_)
    alarms[0, 3] = True
    alarms[1:, late.bad_from + 4] = True
    assert decisions_lab.measure(alarms, traffic).median == 100
    alarms[:, 3] = True
    assert np.isnan(decisions_lab.measure(alarms, traffic).median)


@pytest.mark.parametrize(
    ("figure", "text", "ratio"),
    [
        (Figure(rolled_back=1.0, rolled_back_error=0.0, median=300.0, median_error=4.0), "300 ±4", "1.50"),
        (Figure(rolled_back=0.6, rolled_back_error=0.0, median=300.0, median_error=4.0), "300 ±4 (60%)", "1.50"),
        (Figure(rolled_back=0.3, rolled_back_error=0.0, median=np.inf, median_error=np.inf), "never (30%)", "never"),
        (
            Figure(rolled_back=np.nan, rolled_back_error=np.nan, median=np.nan, median_error=np.nan),
            "false alarm first",
            "-",
        ),
    ],
)
def test_cells_say_never_where_half_the_runs_never_rolled_back(figure, text, ratio):
    bad = next(scenario for scenario in SCENARIOS if scenario.bad_from == 0)
    ours = Figure(rolled_back=1.0, rolled_back_error=0.0, median=200.0, median_error=1.0)
    assert decisions_lab.cell(bad, figure) == text
    assert decisions_lab.ratio(figure, ours) == ratio


def test_the_report_has_every_rule_and_column_with_errors():
    printed = decisions_lab.report(20, 3)
    assert printed.startswith("20 runs, seed 3")
    for name in (*RULES, *(scenario.name for scenario in SCENARIOS)):
        assert name in printed
    ours = next(line for line in printed.splitlines() if line.startswith(f"| {OURS}"))
    assert len(re.findall(r"±", ours)) == len(SCENARIOS)
