"""What the tests promise over a whole release, simulated under fixed seeds.

Each count of false alarms (or of sequences that ever lost the truth) is held against a binomial bound: a rule whose true
error probability is alpha would pass it in all but one of a million seeds.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference, Moments, mean_sequence
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest

ALPHA = 0.05
RUNS = 200
LOOKS = 60


def most_errors(runs=RUNS, alpha=ALPHA):
    return int(binom.isf(1e-6, runs, alpha))


def traffic(rng, *, share=0.1, stable=0.02, candidate=None, requests=200):
    """Yield (x, n_c, y, n_b) for each look; rates and share are one value or one for each look."""
    shares, stables = np.broadcast_to(share, LOOKS), np.broadcast_to(stable, LOOKS)
    candidates = stables if candidate is None else np.broadcast_to(candidate, LOOKS)
    n_c = rng.binomial(requests, shares)
    n_b = requests - n_c
    return zip(
        rng.binomial(n_c, candidates).tolist(),
        n_c.tolist(),
        rng.binomial(n_b, stables).tolist(),
        n_b.tolist(),
        strict=True,
    )


def ever_alarmed(test, counts):
    for interval in counts:
        test = test.update(*interval)
    return test.p_value <= ALPHA


RAMP = {"share": np.linspace(0.05, 0.5, LOOKS), "stable": np.linspace(0.005, 0.05, LOOKS)}
INCIDENT = {"share": np.repeat([0.05, 0.5], LOOKS // 2), "stable": np.repeat([0.005, 0.3], LOOKS // 2)}


@pytest.mark.parametrize(
    ("scene", "options"),
    [
        pytest.param({}, {}, id="equal"),
        pytest.param({}, {"late": 0.0}, id="equal, all bet at once"),
        pytest.param({"stable": 0.4}, {}, id="frequent events, as in latency"),
        pytest.param({"stable": 0.02, "candidate": 0.01}, {}, id="better"),
        pytest.param({"stable": 0.02, "candidate": 0.0248756}, {"margin": 1.25}, id="worse by just the margin"),
        pytest.param(RAMP, {}, id="both rates climb during a ramp"),
        pytest.param(INCIDENT, {}, id="an incident hits both when the weight rises"),
    ],
)
def test_a_good_candidate_is_rolled_back_at_most_at_alpha(scene, options):
    rng = np.random.default_rng(20_240_601)
    alarms = sum(ever_alarmed(RateTest(**options), traffic(rng, **scene)) for _ in range(RUNS))
    assert alarms <= most_errors()


@pytest.mark.parametrize("scene", [{}, RAMP, INCIDENT], ids=["equal", "ramp", "incident"])
def test_the_same_bound_catches_a_rule_that_peeks(scene):
    """The control: a pooled z-test read at every look breaks the bound, so the test above can fail."""
    rng = np.random.default_rng(20_240_601)
    alarms = 0
    for _ in range(RUNS):
        x, n_c, y, n_b = np.cumsum(list(traffic(rng, **scene)), axis=0).T
        pooled = (x + y) / (n_c + n_b)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = (x / n_c - y / n_b) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_b))
        alarms += bool(np.any(z > norm.ppf(1 - ALPHA)))
    assert alarms > most_errors()


@pytest.mark.parametrize(("candidate", "most_requests"), [(0.2, 150), (0.06, 700)])
def test_a_bad_candidate_is_rolled_back_within_few_of_its_requests(candidate, most_requests):
    rng = np.random.default_rng(7)
    answered = []
    for _ in range(50):
        test, total = RateTest(), 0
        for counts in traffic(rng, candidate=candidate):
            test = test.update(*counts)
            total += counts[1]
            if test.p_value <= ALPHA:
                break
        answered.append(total if test.p_value <= ALPHA else math.inf)
    assert np.median(answered) < most_requests


def test_the_late_stake_catches_a_candidate_that_turns_bad_sooner():
    """1% for 40 looks, then 10%: median looks to the alarm with the late stake against without."""
    rng = np.random.default_rng(8)
    scene = {"stable": 0.01, "candidate": np.repeat([0.01, 0.01, 0.1], LOOKS // 3), "share": 0.3}
    waits = {0.1: [], 0.0: []}
    for _ in range(40):
        counts = list(traffic(rng, **scene))
        for late, found in waits.items():
            test, at = RateTest(late=late), math.inf
            for look, interval in enumerate(counts):
                test = test.update(*interval)
                if test.p_value <= ALPHA:
                    at = look
                    break
            found.append(at - 2 * LOOKS // 3)
    assert np.median(waits[0.1]) < 0.8 * np.median(waits[0.0])


@pytest.mark.parametrize("odds_ratio", [0.5, 1.0, 3.0])
def test_the_odds_ratio_sequence_holds_the_truth_at_every_look(odds_ratio):
    rng = np.random.default_rng(31)
    stable = RAMP["stable"]
    odds = stable / (1 - stable) * odds_ratio
    lost = 0
    for _ in range(RUNS // 2):
        test, inside = RateTest(), True
        for look, counts in enumerate(traffic(rng, share=RAMP["share"], stable=stable, candidate=odds / (1 + odds))):
            test = test.update(*counts)
            inside = inside and (look % 5 != 4 or test.confidence_sequence(ALPHA).contains(odds_ratio))
        lost += not inside
    assert lost <= most_errors(RUNS // 2)


def bursts(rng, size, requests, rate):
    """Errors that come `size` at a time, all on one version."""
    return np.minimum(rng.poisson(requests * rate / size) * size, requests)


def test_overdispersion_needs_phi_and_phi_helps():
    """Bursts of 4: with phi left at 1 the bound is broken, with phi = 4 it holds."""
    rng = np.random.default_rng(12)
    alarms = {1.0: 0, 4.0: 0}
    for _ in range(RUNS // 2):
        n_c = rng.binomial(200, 0.1, size=LOOKS)
        n_b = 200 - n_c
        counts = list(
            zip(
                bursts(rng, 4, n_c, 0.02).tolist(),
                n_c.tolist(),
                bursts(rng, 4, n_b, 0.02).tolist(),
                n_b.tolist(),
                strict=True,
            )
        )
        for phi in alarms:
            alarms[phi] += ever_alarmed(RateTest(overdispersion=phi), counts)
    assert alarms[1.0] > most_errors(RUNS // 2)
    assert alarms[4.0] <= most_errors(RUNS // 2)


EDGES = (5.0, 10.0, 20.0, 40.0, 80.0, math.inf)


def histogram(rng, count, median):
    times = rng.lognormal(math.log(median), 0.6, count)
    return Buckets(edges=EDGES, counts=tuple(int((times <= edge).sum()) for edge in EDGES))


@pytest.mark.parametrize(("slowdown", "rolled_back"), [(1.0, False), (1.2, True)])
def test_latency_lets_the_same_pass_and_catches_a_fifth_slower(slowdown, rolled_back):
    """20% slower at a spread of 0.6 (log) moves the odds of crossing an edge by about 1.6."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(40):
        test = LatencyTest.at((10.0, 20.0, 40.0))
        for _ in range(LOOKS):
            test = test.update(histogram(rng, 200, 12.0 * slowdown), histogram(rng, 800, 12.0))
        alarms += test.p_value <= ALPHA
    assert (alarms > 36) if rolled_back else (alarms <= most_errors(40))


def test_an_objective_that_is_just_met_is_refused_at_most_at_alpha():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(RUNS):
        test = ObjectiveTest(limit=0.02)
        for events in rng.binomial(50, 0.02, LOOKS).tolist():
            test = test.update(events, 50)
        alarms += test.p_value <= ALPHA
    assert alarms <= most_errors()


@pytest.mark.parametrize("rate", [0.003, 0.5, 0.97])
def test_a_rates_own_sequence_holds_it_at_every_look(rate):
    rng = np.random.default_rng(3)
    lost = 0
    for _ in range(RUNS):
        proportion, inside = Proportion(), True
        for events in rng.binomial(50, rate, LOOKS).tolist():
            proportion = proportion.update(events, 50)
            inside = inside and proportion.confidence_sequence(ALPHA).contains(rate)
        lost += not inside
    assert lost <= most_errors()


def test_means_hold_the_truth_at_every_look_even_skewed_and_drifting():
    """Exponential values whose level climbs tenfold while the candidate's share goes from 5% to 50%."""
    rng = np.random.default_rng(6)
    lost_mean = lost_difference = alarms = 0
    for _ in range(RUNS):
        test, inside, own, own_inside = MeanDifference(), True, Moments(), True
        for share, level in zip(RAMP["share"], np.linspace(1, 10, LOOKS), strict=True):
            n_c = int(rng.binomial(400, share))
            test = test.update(
                Moments.of(level + rng.exponential(1.0, n_c)), Moments.of(level + rng.exponential(1.0, 400 - n_c))
            )
            inside = inside and test.confidence_sequence(ALPHA).contains(0.0)
            own = own.plus(Moments.of(rng.exponential(1.0, 50)))
            own_inside = own_inside and mean_sequence(own, ALPHA).contains(1.0)
        lost_difference += not inside
        lost_mean += not own_inside
        alarms += test.p_value <= ALPHA
    assert max(lost_mean, lost_difference, alarms) <= most_errors()


def test_shares_as_intended_are_called_a_mismatch_at_most_at_alpha():
    rng = np.random.default_rng(9)
    alarms = 0
    for _ in range(RUNS):
        test = SampleRatioTest.of({"a": 0.95, "b": 0.05})
        for look, count in enumerate(rng.binomial(200, np.repeat([0.05, 0.5], LOOKS // 2)).tolist()):
            if look == LOOKS // 2:
                test = test.reweighted({"a": 1, "b": 1})
            test = test.update({"a": 200 - count, "b": count})
        alarms += test.mismatched()
    assert alarms <= most_errors(alpha=0.01)


@pytest.mark.parametrize("real", [0.45, 0.48])
def test_a_mismatch_that_goes_on_is_hardly_ever_called_over(real):
    """Once in a hundred at the size that was seen; what was seen is an estimate, so a few are smaller than half of it."""
    rng = np.random.default_rng(11)
    over = 0
    for _ in range(RUNS):
        test, called_over = SampleRatioTest.of({"a": 1, "b": 1}), False
        for count in rng.binomial(1000, real, size=LOOKS).tolist():
            was = test.mismatched()
            test = test.update({"a": 1000 - count, "b": count}).watched()
            called_over |= was and not test.mismatched()
        over += called_over
    assert over <= most_errors(alpha=0.05)


def test_the_bound_holds_however_often_one_looks():
    """Merging looks into fewer, larger intervals changes the strata, never the bound: alarms stay within alpha."""
    rng = np.random.default_rng(10)
    for merged in (1, 10):
        alarms = 0
        for _ in range(RUNS):
            counts = np.array(list(traffic(rng))).reshape(-1, merged, 4).sum(axis=1)
            alarms += ever_alarmed(RateTest(), counts.tolist())
        assert alarms <= most_errors()
