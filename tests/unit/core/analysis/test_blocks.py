"""Sums over blocks of time: what is one observation, the t-factor and its bounds against integrals done by brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi, halfnorm

from mlflow_istio.core.analysis.blocks import CAPACITY, EVIDENCE_SPREAD, Blocks, log_t_factor
from mlflow_istio.core.analysis.rate_test import DIFFERENCE, ODDS, RateTest
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput

RATIO = {"a": (1.0, 0.0), "b": (0.0, 1.0)}


def filled(rows: int, *, phase: float = 60.0, seconds: float = 10.0) -> Blocks:
    blocks = Blocks.of(phase, columns=2)
    for number in range(rows):
        blocks = blocks.update((float(number), 1.0), seconds)
    return blocks


def test_a_block_lasts_five_sixths_of_the_longest_phase() -> None:
    blocks = filled(12)
    assert len(blocks.closed) == 2 * 2
    assert blocks.closed == (0.0 + 1 + 2 + 3 + 4, 5.0, 5.0 + 6 + 7 + 8 + 9, 5.0)
    assert (blocks.open, blocks.seconds, blocks.elapsed) == ((21.0, 2.0), 20.0, 120.0)


def test_what_is_not_complete_is_part_of_the_block_before_it() -> None:
    assert filled(12).rows().tolist() == [[10.0, 5.0], [56.0, 7.0]]
    assert filled(3).rows().tolist() == [[3.0, 3.0]]
    assert filled(17).rows(3).tolist() == [[136.0, 17.0]]


def test_an_interval_longer_than_a_block_is_one() -> None:
    assert filled(3, seconds=300.0).rows().tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


def test_looks_longer_than_a_block_are_blocks_of_one_length_after_merging_too() -> None:
    blocks = filled(2 * CAPACITY + 20, seconds=300.0)
    assert (blocks.phase, blocks.span) == (360.0, 4)
    assert set(blocks.closed[1::2]) == {4.0}
    assert blocks.elapsed == 300.0 * (2 * CAPACITY + 20)


def test_without_traffic_on_both_sides_no_time_goes_by() -> None:
    blocks = filled(3)
    assert blocks.update((7.0, 0.0), 1e6) == blocks


def test_neighbours_are_merged_and_nothing_is_lost() -> None:
    blocks = filled(5 * CAPACITY)
    assert (len(blocks.closed) // 2, blocks.span) == (CAPACITY // 2, 2)
    assert blocks.total.tolist() == [sum(range(5 * CAPACITY)), 5.0 * CAPACITY]
    later = filled(5 * CAPACITY * 8)
    assert CAPACITY // 2 <= len(later.closed) // 2 < CAPACITY
    assert later.span == 16


def test_the_state_is_bounded_and_comes_back_equal() -> None:
    blocks = filled(5000)
    text = json.dumps(to_json(blocks))
    assert len(text) < 1600
    assert from_json(Blocks, json.loads(text)) == blocks


def by_brute_force(z: np.ndarray, g: float) -> float:
    """The half-normal mixture of the likelihood ratio of the scale-free statistic, integrated over effect and scale."""
    n, u = z.size, z.sum() / np.sqrt(z @ z)
    spread = np.sqrt(g / n)

    def ratio(effect: float) -> float:
        # With the right-Haar prior, sqrt(Q)/sigma has the law of chi with n degrees of freedom.
        inner = quad(lambda v: chi.pdf(v, n) * np.exp(effect * u * v - n * effect**2 / 2), 0, 30, limit=200)[0]
        return float(inner * halfnorm.pdf(effect, scale=spread))

    return float(np.log(quad(ratio, 0, 12, limit=200)[0]))


@pytest.mark.parametrize("seed", range(4))
def test_the_factor_is_the_t_tests_with_a_half_normal_prior(seed: int) -> None:
    z = np.random.default_rng(seed).normal(0.8 * seed - 0.5, 1.3, 5 + seed)
    g = EVIDENCE_SPREAD * z.size
    assert log_t_factor(z, g) == pytest.approx(by_brute_force(z, g), abs=1e-6)


def test_the_factor_knows_no_scale_and_nothing_of_too_few() -> None:
    z = np.array([1.0, 2.0, 0.5, 1.5])
    assert log_t_factor(1e6 * z, 4.0) == pytest.approx(log_t_factor(z, 4.0))
    assert log_t_factor(z[:1], 1.0) == 0.0
    assert log_t_factor(np.zeros(9), 9.0) == 0.0
    assert log_t_factor(-z, 4.0) < 0 < log_t_factor(z, 4.0)


def test_the_bounds_hold_the_estimate_and_narrow() -> None:
    rng = np.random.default_rng(3)
    widths = []
    blocks = Blocks.of(60.0, columns=2)
    for number in range(1, 601):
        blocks = blocks.update((float(rng.poisson(12)), float(rng.poisson(10))), 10.0)
        if number in (5, 150, 600):
            lower, upper = blocks.bounds(0.05, **RATIO)
            estimate = blocks.total[0] / blocks.total[1]
            assert lower < estimate < upper
            widths.append(upper - lower)
    assert widths[0] == np.inf
    assert widths[2] < widths[1] < 1.0


def test_the_time_that_is_left_is_about_the_time_it_takes() -> None:
    """A forecast at a tenth of the way is within a factor of 3, mostly."""
    good = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        blocks, forecast, taken = Blocks.of(60.0, columns=2), None, None
        for number in range(1, 2001):
            blocks = blocks.update((float(rng.poisson(10)), float(rng.poisson(10))), 10.0)
            if number == 90:
                forecast = blocks.elapsed + (blocks.remaining(1.1, 0.05, **RATIO) or 0.0)
            if number >= 90 and blocks.bounds(0.05, **RATIO)[1] < 1.1:
                taken = blocks.elapsed
                break
        assert forecast is not None
        good += taken is not None and taken / 3 < forecast < taken * 3
    assert good >= 14
    worse = Blocks.of(60.0, columns=2)
    for _ in range(40):
        worse = worse.update((2.0, 1.0), 60.0)
    assert worse.remaining(1.1, 0.05, **RATIO) == np.inf
    assert Blocks.of(60.0, columns=2).remaining(1.1, 0.05, **RATIO) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Blocks.of(0.0, columns=2), "phase"),
        (lambda: Blocks.of(60.0, columns=2).update((1.0,), 10.0), "2 numbers, got 1"),
        (lambda: Blocks.of(60.0, columns=2).update((1.0, 1.0), 0.0), "seconds"),
        (lambda: Blocks(phase=60.0, open=(0.0, 0.0), closed=(1.0,)), "no rows of 2"),
        (lambda: filled(9).bounds(1.5, **RATIO), "alpha"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()  # type: ignore[operator]


def phases(rng: np.random.Generator, looks: int, *, seconds: float, every: float, replicas: int) -> np.ndarray:
    """The share of slow answers at each look of 10 s, of replicas that fall into slow phases each by itself."""
    rates = np.zeros(looks)
    for _ in range(replicas):
        time = -seconds * rng.random() if rng.random() < seconds / every else rng.exponential(every - seconds)
        share = np.zeros(looks)
        while time < 10 * looks:
            edges = 10.0 * np.arange(looks)
            share += np.clip(np.minimum(edges + 10, time + seconds) - np.maximum(edges, time), 0, None) / 10
            time += seconds + rng.exponential(every - seconds)
        rates += 0.05 + 0.3 * np.minimum(share, 1)
    return rates / replicas


@pytest.mark.parametrize(
    ("seconds", "every", "replicas"), [(5.0, 60.0, 1), (20.0, 300.0, 1), (20.0, 300.0, 3), (60.0, 900.0, 3)]
)
def test_slow_phases_of_an_equal_version_are_no_evidence_and_no_false_proof(
    seconds: float, every: float, replicas: int
) -> None:
    """Thirty minutes of EVIDENCE.md's families, 20% of 30 requests a second; the rule of independence alarms in most runs."""
    rng = np.random.default_rng(20_261_129)
    runs, looks = 30, 180
    alarms = {0.0: 0, 60.0: 0}
    false_proofs = 0
    for _ in range(runs):
        candidate = phases(rng, looks, seconds=seconds, every=every, replicas=replicas)
        stable = phases(rng, looks, seconds=seconds, every=every, replicas=replicas)
        tests = {phase: RateTest.of(phase, margin=1.25) for phase in alarms}
        for x, y in zip(rng.binomial(60, candidate).tolist(), rng.binomial(240, stable).tolist(), strict=True):
            tests = {phase: test.update(x, 60, y, 240, seconds=10.0) for phase, test in tests.items()}
        for phase, test in tests.items():
            alarms[phase] += test.max_log_e >= np.log(20)
        false_proofs += not tests[60.0].confidence_sequence(0.025).contains(1.0)
    assert alarms[0.0] > runs / 2
    assert alarms[60.0] <= 2
    assert false_proofs <= 3


def test_an_odds_ratio_and_a_difference_are_read_from_the_same_sums() -> None:
    test = RateTest.of(60.0)
    for _ in range(200):
        test = test.update(12, 100, 40, 400, seconds=10.0)
    assert test.blocks is not None
    assert test.blocks.total[0] / test.blocks.total[1] == pytest.approx((12 / 88) / (40 / 360))
    lower, upper = test.blocks.bounds(0.05, **DIFFERENCE)
    assert (lower, upper) == (pytest.approx(0.02), pytest.approx(0.02))
    assert test.blocks.bounds(0.05, **ODDS)[0] == pytest.approx((12 / 88) / (40 / 360))


def test_a_phase_that_lies_in_two_neighbours_is_no_twofold_evidence() -> None:
    """Blocks that come in equal pairs: half of them are no news, which threefold blocks know."""
    pairs = np.repeat(np.random.default_rng(4).normal(0.5, 1.0, 20), 2)
    blocks = Blocks.of(60.0, columns=2)
    for value in pairs.tolist():
        blocks = blocks.update((value, 1.0), 60.0)
    plain = log_t_factor(blocks.rows() @ np.array([1.0, 0.0]), EVIDENCE_SPREAD * 40)
    assert 0 < blocks.log_evidence(0.0, **RATIO) < 0.8 * plain
