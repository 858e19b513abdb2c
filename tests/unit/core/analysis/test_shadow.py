"""Shadow comparison: joining, comparing, counting, judging."""

import json
import math
from dataclasses import replace

import pytest

from mlflow_istio.core.analysis.answers import AnswerRule, compare_answers
from mlflow_istio.core.analysis.shadow import MOST_DIFFERENT, ShadowRecord, ShadowTally, join_records
from mlflow_istio.core.analysis.shadow_verdict import (
    ShadowLimits,
    comparison_terms,
    judge_shadow,
    shadow_figures,
    shadow_metrics,
)
from mlflow_istio.core.analysis.text_scores import SCORERS, Scorer
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.errors import InvalidInput

NUMBERS = AnswerRule(kind="numbers", absolute=0.1, relative=0.01)


def record(key, output=1, status=200, milliseconds=10.0, deployment="churn-v1"):
    return ShadowRecord(
        request_id=str(key), deployment=deployment, status=status, milliseconds=milliseconds, output=output
    )


def tally_of(pairs, rule=None):
    stable = [record(number, *pair[0]) for number, pair in enumerate(pairs)]
    candidate = [record(number, *pair[1]) for number, pair in enumerate(pairs)]
    return ShadowTally(rule=rule or AnswerRule()).update(join_records(stable, candidate))


def same_signs(a, b):
    return sum(map(str.__eq__, a, b)) / len(a)


@pytest.mark.parametrize(
    ("stable", "candidate", "rule", "agrees", "difference", "rows"),
    [
        pytest.param(["a", "b"], ["a", "b"], AnswerRule(), True, 0.0, (2, 2), id="equal classes"),
        pytest.param(["a", "b"], ["a", "c"], AnswerRule(), False, 0.5, (2, 1), id="one class of two"),
        pytest.param({"predictions": [1]}, [1], AnswerRule(), True, 0.0, (1, 1), id="MLflow's envelope is taken off"),
        pytest.param(3, 3, AnswerRule(), True, 0.0, (1, 1), id="one value"),
        pytest.param([], [], AnswerRule(), True, 0.0, (0, 0), id="no predictions"),
        pytest.param([1, 2], [1], AnswerRule(), False, math.inf, (2, 0), id="another number of predictions"),
        pytest.param([{"x": 1, "y": 2}], [{"y": 2, "x": 1}], AnswerRule(), True, 0.0, (2, 2), id="order of fields"),
        pytest.param([1.0, 100.0], [1.09, 101.05], NUMBERS, True, 0.0, (2, 2), id="within the tolerance"),
        pytest.param([1.0, 100.0], [1.2, 100.0], NUMBERS, False, 0.2, (2, 1), id="beyond the absolute tolerance"),
        pytest.param([0.0, 100.0], [0.0, 101.2], NUMBERS, False, 1.2, (2, 1), id="beyond both"),
        pytest.param([[0.1, 0.9]], [[0.3, 0.7]], NUMBERS, False, 0.2, (2, 0), id="probabilities, nested"),
        pytest.param([1.0], ["x"], NUMBERS, False, math.inf, (1, 0), id="not a number"),
        pytest.param([math.nan], [math.nan], NUMBERS, True, 0.0, (1, 1), id="both say nan"),
        pytest.param([1.0], [math.nan], NUMBERS, False, math.inf, (1, 0), id="one starts to say nan"),
        pytest.param([math.inf], [math.inf], NUMBERS, True, 0.0, (1, 1), id="both say infinity"),
        pytest.param(["ab"], ["ab"], AnswerRule(kind="text"), True, 0.0, (1, 1), id="equal text without a scorer"),
        pytest.param(
            ["ab", "cd"],
            ["ab", "ce"],
            AnswerRule(kind="text", similarity=0.6, scorer=Scorer(name="same", score=same_signs)),
            False,
            0.5,
            (2, 1),
            id="text by a scorer",
        ),
    ],
)
def test_how_two_answers_differ(stable, candidate, rule, agrees, difference, rows):
    result = compare_answers(stable, candidate, rule)
    assert (result.agrees, result.difference) == (agrees, pytest.approx(difference))
    assert (result.rows, result.rows_agreeing) == rows
    assert bool(result.note) != agrees


def test_numbers_give_a_signed_difference_and_a_note():
    result = compare_answers([1.0, 2.0], [1.5, 2.1], AnswerRule(kind="numbers"))
    assert result.signed == pytest.approx(0.3)
    assert result.note == "prediction 0: 1.0 became 1.5"
    assert compare_answers([1.0], [math.inf], NUMBERS).signed is None


@pytest.mark.parametrize(("stable", "candidate"), [(1e200, 1.0), (-1e308, 1e308)])
def test_absurdly_large_numbers_are_compared_but_not_summed(stable, candidate):
    tally = tally_of([(([stable],), ([candidate],))], NUMBERS)
    assert tally.agreeing == 0
    assert tally.differences.count == 0
    assert tally.most_different[0].difference == abs(candidate - stable)


def test_times_that_differ_beyond_a_double_are_still_compared():
    tally = tally_of([((1, 200, 5e-324), (1, 200, 1e300))])
    assert tally.log_slowdown.total == pytest.approx(math.log(1e300) - math.log(5e-324))


def test_records_join_by_id_and_the_first_of_it_counts():
    stable = [record(1, status=503), record(1), record(2), record(3)]
    candidate = [record(1, "x"), record(3), record(4), record(4)]
    joined = join_records(stable, candidate)
    assert [(a.request_id, a.status, b.output) for a, b in joined.pairs] == [("1", 503, "x"), ("3", 200, 1)]
    assert (joined.stable_only, joined.candidate_only, joined.repeated) == (1, 1, 2)


def test_only_copies_of_one_request_are_a_pair():
    def sent(key, body, pinned=False):
        return replace(record(key), body=body, pinned=pinned)

    stable = [sent(1, "a"), sent(2, "a"), sent(3, "a", pinned=True), sent(3, "b"), sent(4, "a")]
    candidate = [sent(1, "a"), sent(2, "b"), sent(3, "b"), sent(4, "b", pinned=True), sent(4, "a")]
    joined = join_records(stable, candidate)
    assert [pair[0].request_id for pair in joined.pairs] == ["1", "3", "4"]
    assert (joined.other_body, joined.pinned, joined.repeated) == (1, 2, 0)
    assert (joined.stable_only, joined.candidate_only) == (0, 0)


def test_what_was_left_out_is_said():
    tally = replace(many(100, 0), pinned=3, other_body=1, repeated=2)
    said = judge_shadow(tally, ShadowLimits(agreement=0.9)).reason
    assert "left out: 2 under an id that was used already, 3 pinned, 1 with different bodies on the two sides" in said


def test_a_line_of_the_recorder_is_read():
    line = '{"request_id":"r","time":1.5,"deployment":"churn-v2","model_version":"churn/2","status":200,"ms":2.5,"output":[1]}'
    assert ShadowRecord.from_json(json.loads(line)) == record("r", [1], 200, 2.5, "churn-v2")
    assert ShadowRecord.from_json({"request_id": "r", "deployment": "d", "status": 500, "ms": 1}).output is None


@pytest.mark.parametrize("change", [{"status": "bad"}, {"ms": None}])
def test_a_line_that_is_no_record_is_refused(change):
    with pytest.raises(InvalidInput, match="recorder's log"):
        ShadowRecord.from_json({"request_id": "r", "deployment": "d", "status": 200, "ms": 1, **change})
    with pytest.raises(InvalidInput, match="KeyError"):
        ShadowRecord.from_json({})


def test_every_pair_is_counted_once():
    tally = tally_of(
        [
            (([1, 2],), ([1, 3],)),
            (([1],), ([1],)),
            ((None,), (None,)),
            ((1, 500), (1, 500)),
            ((1, 500), (1, 200)),
            ((1, 200), (1, 404)),
            ((1, 302), (1, 200)),
        ]
    )
    assert tally.pairs == 7
    assert (tally.both_succeeded, tally.both_failed, tally.candidate_failed, tally.stable_failed) == (4, 1, 1, 1)
    assert (tally.compared, tally.agreeing) == (3, 2)
    assert (tally.rows, tally.rows_agreeing) == (4, 3)
    assert [item.request_id for item in tally.most_different] == ["0"]


def test_slowdown_is_the_geometric_mean_of_the_paired_times():
    tally = tally_of(
        [((1, 200, 10.0), (1, 200, 20.0)), ((1, 200, 10.0), (1, 200, 5.0)), ((1, 200, 0.0), (1, 200, 5.0))]
    )
    assert tally.log_slowdown.count == 2
    assert shadow_figures(tally).slowdown.estimate == pytest.approx(1.0)


def test_only_the_most_different_are_kept_worst_first():
    pairs = [(([0.0],), ([float(size)],)) for size in range(1, 31)]
    tally = tally_of(pairs, AnswerRule(kind="numbers"))
    tally = tally.update(join_records([record("text", [0.0])], [record("text", ["?"])]))
    assert [item.difference for item in tally.most_different] == [math.inf, *map(float, range(30, 11, -1))]
    assert len(tally.most_different) == MOST_DIFFERENT


def test_unmatched_share_counts_both_sides():
    joined = join_records([record(1), record(2)], [record(2), record(3)])
    assert ShadowTally(rule=AnswerRule()).update(joined).unmatched_share == pytest.approx(2 / 3)
    assert ShadowTally(rule=AnswerRule()).unmatched_share == 0.0


def test_state_comes_back_equal_but_for_the_scorer():
    def score(a, b):
        return float(a == b)

    scorer = Scorer(name="equal", score=score)
    rule = AnswerRule(kind="text", similarity=0.5, scorer=scorer)
    tally = tally_of([((["a"],), (["b"],)), ((["a"],), (["a", "b"],)), ((["a"],), (["a"],))], rule)
    assert from_json(ShadowTally, json.loads(json.dumps(to_json(tally), allow_nan=False)), scorer=scorer) == tally
    assert from_json(ShadowTally, to_json(tally)).rule.scorer is None


def many(agree, differ, *, slowdown=1.0, candidate_failed=0, rule=None):
    pairs = [((1, 200, 10.0 + number % 3), (1, 200, slowdown * (10.0 + number % 2))) for number in range(agree)]
    pairs += [((1,), (2,))] * differ
    pairs += [((1, 200), (1, 500))] * candidate_failed
    return tally_of(pairs, rule)


def written(pairs, score, **rule):
    """A tally of requests with one text each."""
    texts = [(([one],), ([other],)) for one, other in pairs]
    return tally_of(texts, AnswerRule(kind="text", scorer=Scorer(name="m:f", score=score), **rule))


def by_number(_stable, candidate):
    return float(candidate)


def test_the_share_of_texts_that_agree_is_judged_and_their_mean_score_only_told():
    tally = written([("x", "0.9")] * 60 + [("x", "0.1")] * 40, by_number, similarity=0.8)
    assert (tally.compared, tally.agreeing) == (100, 60)
    figures = shadow_metrics(tally)
    assert figures["shadow/similarity"] == pytest.approx(0.58)  # 0.6 * 0.9 + 0.4 * 0.1
    assert 0 <= figures["shadow/similarity_lower"] < 0.58 < figures["shadow/similarity_upper"] <= 1
    assert figures["shadow/agreement"] == pytest.approx(0.6)
    assert judge_shadow(tally, ShadowLimits(agreement=0.9)).word == "rollback"
    assert [item.note for item in tally.most_different][:1] == ["prediction 0: 'x' became '0.1' (similarity 0.1)"]


def test_a_field_that_the_stable_never_has_decides_nothing_and_is_said():
    """A misspelt field is no fault of the candidate."""
    tally = tally_of([(({"a": 1},), ({"a": 1},))] * 300, AnswerRule(fields=("nope",)))
    assert (tally.compared, tally.unscored) == (0, 300)
    verdict = judge_shadow(tally, ShadowLimits(agreement=0.9))
    assert verdict.word == "hold"
    assert (
        "there was nothing to compare with for 300 of 300 pairs: request 0: no field nope in the stable's"
        in verdict.reason
    )
    assert shadow_metrics(tally)["shadow/unscored"] == 300


def test_a_pair_without_a_score_counts_against_either_verdict_and_is_shown():
    fine = [("x", "1")] * 300
    whole, broken = written(fine, by_number), written([*fine, *[("x", "none")] * 3], by_number)
    assert (broken.compared, broken.agreeing, broken.unscored) == (300, 300, 3)
    sure, unsure = (shadow_figures(tally).agreement for tally in (whole, broken))
    # 300 of 303 below, 303 of 303 above: Proportion's own intervals of these counts.
    assert unsure.lower == shadow_figures(tally_of([((1,), (1,))] * 300 + [((1,), (2,))] * 3)).agreement.lower
    assert unsure.upper == shadow_figures(tally_of([((1,), (1,))] * 303)).agreement.upper == 1
    assert unsure.lower < sure.lower
    failure = "no score: ValueError: could not convert string to float: 'none'"
    assert [item.note for item in broken.failures] == [failure] * 3
    said = judge_shadow(broken, ShadowLimits(agreement=0.99)).reason
    assert f"scorer 'm:f' failed for 3 of 303 pairs: request 300: {failure}" in said
    assert shadow_metrics(broken)["shadow/unscored"] == 3


@pytest.mark.parametrize("end", [False, True])
def test_a_scorer_that_always_fails_decides_nothing(end):
    def fail(_stable, _candidate):
        raise SystemExit(3)

    tally = written([("a", "b")] * 500, fail)
    verdict = judge_shadow(tally, ShadowLimits(agreement=0.9), deadline_reached=end)
    assert verdict.word == ("inconclusive" if end else "hold")
    assert "scorer 'm:f' failed for 500 of 500 pairs" in verdict.reason
    assert "SystemExit: 3" in verdict.reason
    assert "nobody called" not in verdict.reason
    assert "shadow/agreement" not in shadow_metrics(tally)


def test_batches_of_texts_in_any_order_make_one_tally():
    pairs = [("a", "0.1"), ("b", "bad"), ("c", "0.9"), ("d", "1.0"), ("e", "worse"), ("f", "0.5")]
    records = [(record(n, [one]), record(n, [other])) for n, (one, other) in enumerate(pairs)]
    empty = ShadowTally(rule=AnswerRule(kind="text", scorer=Scorer(name="m:f", score=by_number), similarity=0.5))
    joined = [join_records([a], [b]) for a, b in records]
    forwards, backwards = empty, empty
    for batch in joined:
        forwards = forwards.update(batch)
    for batch in reversed(joined):
        backwards = backwards.update(batch)
    assert replace(forwards, scores=backwards.scores) == backwards
    assert forwards.scores.total == pytest.approx(backwards.scores.total) == pytest.approx(2.5)
    stored = from_json(ShadowTally, json.loads(json.dumps(to_json(forwards))), scorer=None)
    assert (stored.unscored, stored.scores, stored.failures) == (2, forwards.scores, forwards.failures)


@pytest.mark.parametrize(
    ("answers", "rule", "words"),
    [
        (([1], [1]), AnswerRule(), "Compared as classes, which must be equal; the whole answer."),
        (([1], [1]), NUMBERS, "Compared as numbers, within 0.1 plus 0.01 of the stable's; the whole answer."),
        (
            ({"a": {"b": "x"}}, {"a": {"b": "x"}}),
            AnswerRule(kind="text", similarity=0.7, scorer=SCORERS["tokens"], fields=("a.b",)),
            "Compared as text by scorer 'tokens', from 0.7 on two texts agree; field a.b.",
        ),
        (
            ({"choices": [{"text": "x" * 10_001}]}, {"choices": [{"text": "y" * 10_001}]}),
            AnswerRule(kind="text", similarity=0.8, scorer=SCORERS["edit"]),
            "Compared as text by scorer 'edit', from 0.8 on two texts agree; field choices[].text (recognised; 'field' names "
            "another); 1 pairs by the first 10,000 characters of a text.",
        ),
    ],
)
def test_how_answers_were_compared_is_said(answers, rule, words):
    tally = tally_of([((answers[0],), (answers[1],))], rule)
    assert comparison_terms(tally) == words
    assert judge_shadow(tally, ShadowLimits(agreement=0.9)).evidence["terms"] == words


LIMITS = ShadowLimits(agreement=0.95)


@pytest.mark.parametrize(
    ("tally", "limits", "options", "word", "reason"),
    [
        pytest.param(
            many(1000, 5), LIMITS, {}, "advance", "The shadow answers like the stable: 1,000 of 1,005", id="same"
        ),
        pytest.param(many(500, 100), LIMITS, {}, "rollback", "below 0.95", id="other predictions"),
        pytest.param(many(20, 0), LIMITS, {}, "hold", "not yet proven above 0.95", id="few"),
        pytest.param(many(20, 0), LIMITS, {"deadline_reached": True}, "inconclusive", "deadline", id="few and no time"),
        pytest.param(many(0, 0), LIMITS, {}, "hold", "0 of 0 compared requests agree", id="none"),
        pytest.param(
            many(1000, 0, candidate_failed=30), LIMITS, {}, "rollback", "alone failed 30 times", id="failures"
        ),
        pytest.param(
            many(1000, 0, slowdown=2.0),
            ShadowLimits(agreement=0.95, slowdown=1.2),
            {},
            "rollback",
            "more than 1.2",
            id="slower",
        ),
        pytest.param(
            many(1000, 0, slowdown=1.0), ShadowLimits(agreement=0.95, slowdown=1.2), {}, "advance", "like", id="as fast"
        ),
        pytest.param(
            many(10, 0),
            ShadowLimits(agreement=0.5, slowdown=1.05),
            {},
            "hold",
            "not yet proven within 1.05",
            id="unsure",
        ),
        pytest.param(
            many(0, 0),
            ShadowLimits(agreement=0.5, slowdown=1.05),
            {},
            "hold",
            "an unknown number of times",
            id="no times",
        ),
    ],
)
def test_verdict_of_a_comparison(tally, limits, options, word, reason):
    verdict = judge_shadow(tally, limits, **options)
    assert verdict.word == word
    assert reason in verdict.reason
    json.dumps(to_json(verdict), allow_nan=False)


def test_too_many_unmatched_requests_never_advance():
    tally = many(1000, 0).update(join_records([record(f"lost{number}") for number in range(100)], []))
    verdict = judge_shadow(tally, LIMITS)
    assert verdict.word == "hold"
    assert "9.1% of the requests were recorded on one side only (at most 5.0% allowed)" in verdict.reason


def test_metrics_are_flat_numbers_without_what_is_unknown():
    metrics = shadow_metrics(many(100, 10))
    assert metrics["shadow/pairs"] == 110
    assert metrics["shadow/agreement"] == pytest.approx(100 / 110)
    assert metrics["shadow/agreement_lower"] < 100 / 110 < metrics["shadow/agreement_upper"]
    assert metrics["shadow/prediction_agreement"] == pytest.approx(100 / 110)
    assert "shadow/difference" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert set(shadow_metrics(ShadowTally(rule=AnswerRule()))) == {
        "shadow/pairs",
        "shadow/compared",
        "shadow/unmatched_share",
        "shadow/repeated",
        "shadow/pinned",
        "shadow/other_body",
        "shadow/candidate_failed",
        "shadow/stable_failed",
        "shadow/both_failed",
    }


def test_a_mean_that_is_not_bounded_yet_gives_its_estimate_only():
    metrics = shadow_metrics(tally_of([(([1.0],), ([2.0],))], AnswerRule(kind="numbers")))
    assert metrics["shadow/difference"] == 1.0
    assert "shadow/difference_lower" not in metrics


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnswerRule(kind="poems"), "classes, numbers, text"),
        (lambda: AnswerRule(absolute=-1.0), "tolerances"),
        (lambda: AnswerRule(relative=math.nan), "tolerances"),
        (lambda: AnswerRule(similarity=1.1), "similarity"),
        (lambda: ShadowLimits(agreement=1.0), "agreement"),
        (lambda: ShadowLimits(agreement=0.9, slowdown=0.0), "slowdown"),
        (lambda: ShadowLimits(agreement=0.9, unmatched=2.0), "unmatched"),
        (lambda: shadow_figures(ShadowTally(rule=AnswerRule()), alpha=0.0), "alpha"),
        (lambda: judge_shadow(ShadowTally(rule=AnswerRule()), LIMITS, alpha=1.0), "alpha"),
        (lambda: from_json(ShadowTally, {}), "missing fields"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()
