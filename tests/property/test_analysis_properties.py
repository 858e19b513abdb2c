"""Laws that hold for every input: exact martingales, order, symmetry, monotonicity, state."""

import json
import math
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import binom, hypergeom

from mlflow_istio.core.analysis.answers import AnswerRule
from mlflow_istio.core.analysis.arms import Comparison, judge_arms
from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import CounterState
from mlflow_istio.core.analysis.decision import decide
from mlflow_istio.core.analysis.guards import Guard, combine
from mlflow_istio.core.analysis.hypergeometric import log_normaliser
from mlflow_istio.core.analysis.interval import Interval
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference, Moments
from mlflow_istio.core.analysis.promotion import PromotionBound
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.analysis.shadow import ShadowRecord, ShadowTally, join_records
from mlflow_istio.core.basics.stored import from_json, to_json

settings.register_profile("analysis", deadline=None, max_examples=60)
exactly = settings.get_profile("analysis")


@st.composite
def interval_counts(draw, most=60):
    candidate_total = draw(st.integers(0, most))
    stable_total = draw(st.integers(0, most))
    return draw(st.integers(0, candidate_total)), candidate_total, draw(st.integers(0, stable_total)), stable_total


histories = st.lists(interval_counts(), max_size=6)
options = st.fixed_dictionaries(
    {"margin": st.sampled_from([0.5, 1.0, 1.25, 3.0]), "late": st.sampled_from([0.0, 0.1, 0.6])}
)
alphas = st.sampled_from([0.001, 0.05, 0.3])


def played(history, **chosen):
    return reduce(lambda test, counts: test.update(*counts), history, RateTest(**chosen))


def candidates_events(candidate_total, stable_total, events, odds):
    """Chance of each number of candidate's events, given all events: Fisher's noncentral law by its definition.

    In whole binomials, as scipy's compiled sampler for it can abort the process.
    """
    possible = range(max(0, events - stable_total), min(candidate_total, events) + 1)
    mass = {
        x: math.comb(candidate_total, x) * math.comb(stable_total, events - x) * odds ** (x - possible[0])
        for x in possible
    }
    whole = math.fsum(mass.values())
    return {x: part / whole for x, part in mass.items()}


def same(left, right):
    return left == pytest.approx(right, rel=1e-6, abs=1e-9)


# Martingales: the expectation over everything that can happen next, computed exactly.


@exactly
@given(histories, options, st.integers(1, 40), st.integers(1, 40), st.data())
def test_at_the_margin_the_expected_next_e_value_is_the_present_one(
    history, chosen, candidate_total, stable_total, data
):
    events = data.draw(st.integers(0, candidate_total + stable_total))
    now = played(history, **chosen)
    law = candidates_events(candidate_total, stable_total, events, chosen["margin"])
    expected = sum(
        chance * now.update(x, candidate_total, events - x, stable_total).e_value for x, chance in law.items()
    )
    assert expected == pytest.approx(now.e_value, rel=1e-7)


@exactly
@given(histories, options, st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1.0), st.data())
def test_below_the_margin_the_expected_next_e_value_is_no_larger(
    history, chosen, candidate_total, stable_total, factor, data
):
    events = data.draw(st.integers(0, candidate_total + stable_total))
    now = played(history, **chosen)
    law = candidates_events(candidate_total, stable_total, events, chosen["margin"] * factor)
    expected = sum(
        chance * now.update(x, candidate_total, events - x, stable_total).e_value for x, chance in law.items()
    )
    assert expected <= now.e_value * (1 + 1e-7)


@exactly
@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.01, 0.95), st.integers(1, 30), st.floats(1e-6, 1.0))
def test_up_to_the_limit_the_expected_next_objective_e_value_is_no_larger(events, others, limit, total, factor):
    now = ObjectiveTest(limit=limit).update(events, events + others)
    rate = limit * factor
    expected = sum(binom.pmf(x, total, rate) * now.update(x, total).e_value for x in range(total + 1))
    assert expected <= now.e_value * (1 + 1e-6) + 1e-12


@exactly
@given(st.integers(0, 80), st.integers(0, 80), st.integers(1, 99), st.integers(0, 30))
def test_at_the_intended_shares_the_expected_next_mismatch_e_value_is_the_present_one(a, b, weight, total):
    now = SampleRatioTest.of({"a": weight, "b": 100 - weight}).update({"a": a, "b": b})
    expected = sum(
        binom.pmf(x, total, weight / 100) * now.update({"a": x, "b": total - x}).e_value for x in range(total + 1)
    )
    assert expected == pytest.approx(now.e_value, rel=1e-7)


# Order, symmetry and monotonicity.


@exactly
@given(histories, st.randoms(use_true_random=False), alphas)
def test_the_order_of_intervals_does_not_matter_for_what_is_summed(history, random, alpha):
    shuffled = list(history)
    random.shuffle(shuffled)
    one, other = played(history, late=0.0), played(shuffled, late=0.0)
    assert same(one.log_e_value, other.log_e_value)
    left, right = one.confidence_sequence(alpha), other.confidence_sequence(alpha)
    assert same((left.lower, left.upper), (right.lower, right.upper))


@exactly
@given(histories, alphas)
def test_swapping_the_arms_inverts_the_odds_ratio(history, alpha):
    forward = played(history).confidence_sequence(alpha)
    backward = played([(y, n_b, x, n_c) for x, n_c, y, n_b in history]).confidence_sequence(alpha)
    inverse = forward.mapped(lambda value: 1 / value if value else math.inf)
    assert same((inverse.lower, inverse.upper), (backward.lower, backward.upper))


@exactly
@given(histories, interval_counts(), options, alphas)
def test_an_event_moved_to_the_candidate_is_more_evidence_against_it(history, counts, chosen, alpha):
    x, n_c, y, n_b = counts
    assume(x < n_c and y > 0)
    less = played([*history, counts], **chosen)
    more = played([*history, (x + 1, n_c, y - 1, n_b)], **chosen)
    assert more.log_e_value > less.log_e_value
    low, high = less.confidence_sequence(alpha), more.confidence_sequence(alpha)
    # Events moved shift the likelihood but the mixture with it, so only the estimate must move.
    assert high.estimate >= low.estimate
    assert high.lower >= low.lower * (1 - 1e-9)


@exactly
@given(histories)
def test_sequences_are_nested_in_alpha_and_hold_their_estimate(history):
    test = played(history)
    strict, usual, loose = (test.confidence_sequence(alpha) for alpha in (0.001, 0.05, 0.3))
    assert strict.lower <= usual.lower <= loose.lower
    assert loose.upper <= usual.upper <= strict.upper
    if usual.estimate is not None:
        assert loose.contains(usual.estimate)


@exactly
@given(histories, interval_counts(), options)
def test_the_p_value_never_rises(history, counts, chosen):
    test = played(history, **chosen)
    assert test.update(*counts).p_value <= test.p_value <= 1.0


@exactly
@given(histories, st.integers(0, 50), st.integers(0, 50), options)
def test_an_interval_without_events_changes_only_the_totals(history, candidate_total, stable_total, chosen):
    test = played(history, **chosen)
    after = test.update(0, candidate_total, 0, stable_total)
    assert after.log_e_value == test.log_e_value
    assert after.confidence_sequence(0.05) == test.confidence_sequence(0.05)
    assert after.candidate_total == test.candidate_total + candidate_total


@exactly
@given(histories.filter(len), st.floats(1.0, 20.0), alphas)
def test_overdispersion_widens_the_sequence(history, phi, alpha):
    plain, wide = (played(history, overdispersion=value).confidence_sequence(alpha) for value in (1.0, phi))
    assert wide.lower <= plain.lower * (1 + 1e-9)
    assert wide.upper >= plain.upper * (1 - 1e-9)


@settings(exactly, max_examples=40)
@given(st.integers(0, 5000), st.integers(0, 5000), st.data())
def test_the_normaliser_is_the_definition_for_any_margins(candidate_total, stable_total, data):
    events = data.draw(st.integers(0, candidate_total + stable_total))
    points = np.array([-6.9, -1.0, 0.0, 0.3, 4.0])
    counts = np.arange(max(0, events - stable_total), min(candidate_total, events) + 1)
    log_central = (
        hypergeom.logpmf(counts, candidate_total + stable_total, candidate_total, events)
        if candidate_total + stable_total
        else np.zeros(1)
    )
    exact = [float(logsumexp(log_central + d * counts)) for d in points]
    assert log_normaliser(candidate_total, stable_total, events, points) == pytest.approx(exact, abs=1e-8, rel=0)


@exactly
@given(st.integers(0, 400), st.integers(1, 400), alphas, st.floats(1.0, 5.0))
def test_a_proportion_and_its_complement_have_mirrored_sequences(events, others, alpha, phi):
    total = events + others
    hits = Proportion(events=events, total=total, overdispersion=phi).confidence_sequence(alpha)
    misses = Proportion(events=others, total=total, overdispersion=phi).confidence_sequence(alpha)
    assert same((hits.lower, hits.upper), (1 - misses.upper, 1 - misses.lower))
    assert hits.contains(events / total)


def histograms(most=200):
    counts = st.lists(st.integers(0, most), min_size=5, max_size=5)
    edges = (5.0, 10.0, 25.0, 50.0, math.inf)
    return counts.map(lambda steps: Buckets(edges=edges, counts=tuple(np.cumsum(steps).tolist())))


@exactly
@given(histograms(), histograms())
def test_a_candidate_moved_to_slower_buckets_is_more_evidence(candidate, stable):
    slower = replace(candidate, counts=(0, *candidate.counts[:-2], candidate.counts[-1]))
    test = LatencyTest.at([10.0, 25.0])
    assert test.update(slower, stable).log_e_value >= test.update(candidate, stable).log_e_value - 1e-9


@exactly
@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 9.0)), min_size=1, max_size=5, unique_by=lambda item: item[0])
)
def test_combined_evidence_is_the_strongest_share_or_by_the_first_rules_between_weakest_and_strongest(parts):
    guards = [Guard(name=str(index), log_e=log_e, weight=weight) for index, (log_e, weight) in enumerate(parts)]
    strengths = [log_e for log_e, _ in parts]
    averaged = combine(guards, averaged=True).log_e
    assert min(strengths) - 1e-9 <= averaged <= max(strengths) + 1e-9
    # A union bound is never less careful than the average, nor than any guard alone.
    assert combine(guards).log_e <= min(averaged, max(strengths)) + 1e-9
    for way in (True, False):
        assert same(combine(guards, averaged=way).log_e, combine(guards[::-1], averaged=way).log_e)


@exactly
@given(
    st.floats(-20, 20),
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from(["errors", "latency"]), max_size=2),
)
def test_a_promotion_needs_every_bound_data_and_no_evidence_against(log_e, uppers, complete, deadline, missing):
    bounds = [PromotionBound(name="b", measure="odds ratio", upper=upper, allowed=1.25) for upper in uppers]
    verdict = decide(
        [Guard(name="errors", log_e=log_e)],
        promotion=bounds,
        missing=missing,
        step_complete=complete,
        deadline_reached=deadline,
    )
    proven = all(upper < 1.25 for upper in uppers) and complete and not missing
    against = log_e >= math.log(20)
    expected = "rollback" if against else "advance" if proven else "inconclusive" if deadline else "hold"
    assert verdict.word == expected


ends = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted)


@exactly
@given(st.lists(ends, min_size=1, max_size=4), st.floats(0.01, 3))
def test_a_winner_is_never_worse_and_no_difference_never_holds_a_large_one(intervals, delta):
    comparisons = [
        Comparison(
            arm=str(index),
            gain=Interval(lower=lower, upper=upper, estimate=(lower + upper) / 2),
            effect=Interval(lower=lower, upper=upper, estimate=None),
            measure="difference of means",
        )
        for index, (lower, upper) in enumerate(intervals)
    ]
    result = judge_arms(comparisons, control="a", equivalence_margin=delta, sample_ratio=None)
    if result.outcome == "winner" and result.winner != "a":
        assert intervals[int(result.winner)][0] > 0
    if result.winner == "a":
        assert all(upper < 0 for _, upper in intervals)
    if result.outcome == "no difference":
        assert all(upper < 0 or (-delta < lower and upper < delta) for lower, upper in intervals)


# Counters: whatever restarts, nothing is counted twice and only what fell between two polls is lost.


@exactly
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans(), st.booleans()), max_size=12))
def test_counts_are_what_the_process_did_since_the_last_poll_or_restart(steps):
    """`ok` and `err` grow; a restart resets both; a poll may be missed. A restart shows when a counter is below its last."""
    state = CounterState().advanced({"p": {"ok": 0.0, "err": 0.0}})[0]
    now, polled = [0, 0], [0, 0]
    for ok, err, restarts, polls in steps:
        now = [ok, err] if restarts else [now[0] + ok, now[1] + err]
        if polls:
            state, grown = state.advanced({"p": {"ok": float(now[0]), "err": float(now[1])}})
            fell = now[0] < polled[0] or now[1] < polled[1]
            base = [0, 0] if fell else polled
            assert grown == {"ok": now[0] - base[0], "err": now[1] - base[1]}
            polled = list(now)


# State: what is stored is what was.

numbers = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8).map(Moments.of)


@exactly
@given(histories, options, st.floats(1.0, 8.0))
def test_rate_state_survives_json(history, chosen, phi):
    test = played(history, overdispersion=phi, **chosen)
    assert from_json(RateTest, json.loads(json.dumps(to_json(test), allow_nan=False))) == test


@exactly
@given(st.lists(st.tuples(numbers, numbers), max_size=4), st.sampled_from(["higher", "lower"]))
def test_mean_state_survives_json(pairs, worse):
    test = reduce(lambda value, pair: value.update(*pair), pairs, MeanDifference(worse=worse))
    assert from_json(MeanDifference, json.loads(json.dumps(to_json(test), allow_nan=False))) == test


@exactly
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4))
def test_swapping_the_arms_turns_the_difference_of_means_around(pairs):
    forward = reduce(lambda value, pair: value.update(*pair), pairs, MeanDifference())
    backward = reduce(lambda value, pair: value.update(*pair[::-1]), pairs, MeanDifference(worse="lower"))
    mirrored = backward.confidence_sequence(0.05).mapped(lambda value: -value)
    interval = forward.confidence_sequence(0.05)
    assert same((interval.lower, interval.upper), (mirrored.lower, mirrored.upper))
    assert same(forward.log_e_value, backward.log_e_value)


@exactly
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=4), st.integers(1, 99))
def test_share_state_survives_json(counts, weight):
    test = SampleRatioTest.of({"a": weight, "b": 100 - weight})
    for a, b in counts:
        test = test.update({"a": a, "b": b}).reweighted({"a": 1, "b": 1})
    assert from_json(SampleRatioTest, json.loads(json.dumps(to_json(test), allow_nan=False))) == test


outputs = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=3)
recorded = st.tuples(st.sampled_from([200, 200, 200, 500]), st.floats(0.0, 1e3), outputs)


@exactly
@given(st.lists(st.tuples(recorded, recorded), max_size=30), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_tally_in_batches_of_any_order_is_the_tally_of_all(pairs, size, random):
    def joined(numbered):
        sides = (
            [
                ShadowRecord(request_id=str(at), deployment=str(side), status=s, milliseconds=ms, output=output)
                for at, s, ms, output in ((at, *pair[side]) for at, pair in numbered)
            ]
            for side in (0, 1)
        )
        return join_records(*sides)

    numbered = list(enumerate(pairs))
    whole = ShadowTally(rule=AnswerRule(kind="numbers", absolute=1.0)).update(joined(numbered))
    random.shuffle(numbered)
    batches = [numbered[start : start + size] for start in range(0, len(numbered), size)]
    split = reduce(lambda tally, batch: tally.update(joined(batch)), batches, ShadowTally(rule=whole.rule))
    assert split.most_different == whole.most_different
    for name in ("differences", "log_slowdown"):
        ours, theirs = getattr(split, name), getattr(whole, name)
        assert (ours.count, ours.total, ours.squares) == pytest.approx((theirs.count, theirs.total, theirs.squares))
    blank = {"differences": Moments(), "log_slowdown": Moments()}
    assert replace(split, **blank) == replace(whole, **blank)
    assert from_json(ShadowTally, json.loads(json.dumps(to_json(whole), allow_nan=False))) == whole
