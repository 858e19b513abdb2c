"""A plan rehearsed on recorded counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.history import History
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.release.plan import RULES, GuardPlan, ReleasePlan
from mlflow_istio.core.release.rehearsal import Blocks, Case, Resampled, more_errors, rehearse
from mlflow_istio.errors import InvalidInput
from tests.support.slow_phases import Phases, history

ERRORS = GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(odds_ratio=1.5))


def a_plan(**changes: Any) -> ReleasePlan:
    values: dict[str, Any] = {
        "strategy": "canary",
        "stable": "v1",
        "candidates": ("v2",),
        "steps": (20.0, 50.0),
        "guards": (ERRORS,),
        "rules": RULES,
    }
    return ReleasePlan(**{**values, **changes})


def recorded(hours: float = 2, *, errors: float = 0.02, step: float = 10.0, rate: float = 60.0, **how: Any) -> History:
    """A server that answers 30% slower than 100 ms and 5% slower than 250 ms."""
    rng = np.random.default_rng(8)
    counts = history(rng, int(hours * 3600), int(step), Phases(rate=rate, usual=0.05, **how)).astype(np.int64)
    requests, slowest = counts[:, 1], counts[:, 0]
    return History(
        step=step,
        known=np.ones(len(counts), dtype=bool),
        requests=requests,
        errors=rng.binomial(requests, errors),
        slower_than={100.0: slowest + rng.binomial(requests - slowest, 0.25), 250.0: slowest},
    )


def test_an_equal_version_goes_up_and_worse_ones_come_back() -> None:
    told: list[tuple[int, int]] = []
    found = rehearse(
        a_plan(phase=0.0), recorded(), runs=12, horizon=7200.0, told=lambda done, all_of: told.append((done, all_of))
    )
    assert (found.phase, found.block, found.horizon) == (0.0, 60.0, 7200.0)
    equal, twice, four_times = found.cases
    assert [case.odds for case in found.cases] == [1, 2, 4]
    assert equal.promoted >= 10
    assert equal.rolled_back <= 1
    assert twice.promoted == 0
    assert twice.rolled_back >= 10
    assert four_times.rolled_back == 12
    assert (four_times.within(0.5) or 0) < (twice.within(0.5) or 0)
    assert told == [(number, 36) for number in range(1, 37)]


def test_the_same_seed_deals_out_the_same_and_another_one_something_else() -> None:
    once, again, other = (
        rehearse(a_plan(phase=0.0), recorded(), runs=3, horizon=3600.0, seed=seed) for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_looks_come_once_a_step_and_a_plan_that_leaves_the_phase_open_takes_the_history_s() -> None:
    slow = recorded(6, seconds=60, every=900)
    found = rehearse(a_plan(phase=None), slow, runs=1, horizon=600.0)
    assert 48 <= (found.phase or 0) <= 120
    assert found.block == 3 * (found.phase or 0)
    assert found.cases[0].promoted == 0  # ten minutes are too few where phases last one


def guarded(kind: str, **terms: Any) -> ReleasePlan:
    return a_plan(phase=0.0, guards=(ERRORS, GuardPlan(name="mine", kind=kind, **terms)))


@pytest.mark.parametrize(
    ("plan", "slow", "words"),
    [
        (
            guarded("ttft"),
            True,
            "guard 'mine' (ttft) judges what a history does not hold: requests, errors and how long",
        ),
        (guarded("unfinished"), True, "guard 'mine' (unfinished) judges what"),
        (guarded("rate"), True, "guard 'mine' (rate) judges what"),
        (guarded("mean"), True, "guard 'mine' (mean) judges what"),
        (guarded("latency"), False, "guard 'mine': the history does not say how long answers took"),
        (guarded("objective", limit=0.1, slower_than=250.0), False, "guard 'mine': the history does not say how long"),
        (guarded("latency", edges=(77.0,)), True, "guard 'mine': the history has no latency edge at 77 ms"),
        (
            guarded("objective", limit=0.1, slower_than=77.0),
            True,
            "guard 'mine': the history has no latency edge at 77 ms",
        ),
    ],
)
def test_a_guard_that_the_history_says_nothing_to_is_refused(plan: ReleasePlan, slow: bool, words: str) -> None:
    """Else nothing would ever be promoted, and nobody would know why."""
    history_ = recorded() if slow else replace(recorded(), slower_than={})
    with pytest.raises(InvalidInput) as refused:
        rehearse(plan, history_, runs=1, horizon=300.0)
    assert refused.value.message.startswith(words)


@pytest.mark.parametrize("plan", [guarded("objective", limit=0.1), guarded("gross"), guarded("ttft", streams=True)])
def test_a_guard_that_needs_nothing_else_is_rehearsed_without_latencies(plan: ReleasePlan) -> None:
    assert rehearse(plan, replace(recorded(), slower_than={}), runs=1, horizon=300.0).cases


def test_few_runs_leave_much_open() -> None:
    def error_of(count: int, runs: int) -> float:
        return Case(odds=1.0, runs=runs, promoted=count, rolled_back=0, inconclusive=0, seconds=()).share(count)[1]

    assert error_of(0, 5) == error_of(5, 5) == pytest.approx(0.139, abs=0.001)
    assert error_of(0, 2000) == pytest.approx(0.0007, abs=0.0001)
    assert error_of(100, 200) == pytest.approx(0.035, abs=0.001)


def test_where_everything_fails_no_version_has_a_multiple_of_the_errors() -> None:
    found = rehearse(a_plan(phase=0.0), recorded(errors=1.0), runs=1, horizon=300.0)
    assert [case.odds for case in found.cases] == [1]


def test_without_errors_no_version_has_a_multiple_of_them() -> None:
    found = rehearse(a_plan(phase=0.0), recorded(errors=0.0), runs=1, horizon=300.0)
    assert [case.odds for case in found.cases] == [1]


@pytest.mark.parametrize(("rate", "odds"), [(0.01, 2), (0.2, 4), (0.0, 2), (0.5, 1)])
def test_so_many_more_errors_have_the_odds(rate: float, odds: float) -> None:
    worse = rate + (1 - rate) * more_errors(rate, odds)
    assert worse / (1 - worse) == pytest.approx(odds * rate / (1 - rate))
    assert more_errors(1.0, 2) == 0


def dealt(history_: History, weight: float, failing: float = 0.0, looks: int = 400) -> dict[str, np.ndarray]:
    """Requests, errors and slow answers of each version, over many looks."""
    traffic = Resampled(Blocks.of(history_, 60), ("v1", "candidate"), np.random.default_rng(3), failing)
    weights = {"v1": 100 - weight, "candidate": weight}
    sums = {name: np.zeros(4) for name in weights}
    for look in range(looks):
        for name, counts in traffic(look, weights).items():
            assert all(counts.requests >= slow for slow in counts.slower_than.values())
            assert counts.slower_than[100.0] >= counts.slower_than[250.0]
            sums[name] += (counts.requests, counts.errors, *counts.slower_than.values())
    return sums


@pytest.mark.parametrize("weight", [5, 50, 95])
def test_what_is_dealt_out_has_the_history_s_rates_and_the_weights(weight: float) -> None:
    past = recorded()
    rates = [past.errors.sum(), *(slow.sum() for slow in past.slower_than.values())]
    rates = [rate / past.requests.sum() for rate in rates]
    for name, share in (("v1", 1 - weight / 100), ("candidate", weight / 100)):
        requests, *events = dealt(past, weight)[name]
        assert requests == pytest.approx(400 * share * past.requests.mean(), rel=0.05)
        for count, rate in zip(events, rates, strict=True):
            assert abs(count - requests * rate) < 5 * np.sqrt(requests * rate)


def test_a_worse_version_fails_more_often_and_is_as_slow() -> None:
    requests, errors, _, slow = dealt(recorded(), 50, failing=0.1)["candidate"]
    assert errors / requests == pytest.approx(0.02 + 0.98 * 0.1, rel=0.1)
    assert slow / requests == pytest.approx(0.05, rel=0.1)


def test_a_quiet_block_of_the_candidate_s_has_no_more_than_the_usual_answers() -> None:
    """Where its block has fewer requests than it must answer, or none, the others are drawn with putting back."""
    past = recorded(0.5, rate=0.2)
    requests, errors, *_ = dealt(past, 95)["candidate"]
    assert requests > 0
    assert errors <= requests


def test_blocks_hold_no_gap_and_two_of_them_never_overlap() -> None:
    past = recorded(1)
    known = past.known.copy()
    known[100:130] = False
    history_ = History(step=10.0, known=known, requests=past.requests * known, errors=past.errors * known)
    blocks = Blocks.of(history_, 200)
    assert blocks.length == 20
    rng = np.random.default_rng(1)
    for _ in range(300):
        first, second = blocks.pair(rng)
        assert abs(first - second) >= 20
        assert known[first : first + 20].all()
        assert known[second : second + 20].all()


def test_two_blocks_lie_in_the_same_hour_where_that_can_be() -> None:
    blocks = Blocks.of(recorded(12), 60)
    pairs = [blocks.pair(np.random.default_rng(seed)) for seed in range(50)]
    assert max(abs(first - second) for first, second in pairs) <= 180


def test_the_only_two_blocks_that_are_apart_are_taken() -> None:
    known = np.zeros(100, dtype=bool)
    known[:9] = known[20:100] = True
    known[29:] = False
    counts = np.full(100, 50) * known
    history_ = History(step=60.0, known=np.tile(known, 4), requests=np.tile(counts, 4), errors=np.zeros(400, dtype=int))
    blocks = Blocks.of(history_, 540)
    for seed in range(20):
        first, second = blocks.pair(np.random.default_rng(seed))
        assert abs(first - second) >= blocks.length


@pytest.mark.parametrize(
    ("history_", "words"),
    [
        (recorded(0.1), "6 min of history are too short for blocks of 180 s: at least 24 min are needed"),
        (
            History(
                step=10.0,
                known=np.tile([True] * 10 + [False] * 50, 100),
                requests=np.ones(6000, dtype=int),
                errors=np.zeros(6000, dtype=int),
            ),
            "the history has 99 gaps of up to 8 min and no two blocks of 180 s without one",
        ),
    ],
)
def test_a_history_that_is_too_short_for_its_blocks_is_named(history_: History, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        rehearse(a_plan(phase=0.0), history_, runs=1, horizon=60.0)
    assert refused.value.message.startswith(words.replace("180 s", "3 min"))


def test_shares_have_their_standard_error_and_quantiles_count_those_that_never_came() -> None:
    case = Case(odds=1, runs=10, promoted=8, rolled_back=1, inconclusive=0, seconds=tuple(range(10, 90, 10)))
    assert case.share(case.promoted) == (0.8, pytest.approx(0.121, abs=0.001))
    assert (case.within(0.5), case.within(0.8), case.within(0.9)) == (50, 80, None)
