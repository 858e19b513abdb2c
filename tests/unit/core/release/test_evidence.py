"""What raw counters make of the guards' tests: intervals that count, and those that can't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest

from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.analysis.proportion import ObjectiveTest
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.release.evidence import (
    Evidence,
    Look,
    no_evidence,
    taken_in,
)
from mlflow_istio.core.release.judgement import (
    bounds_of,
    guard_figures,
    guards_of,
    log_evidence,
    look_figures,
    proven,
)
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.errors import InvalidInput
from tests.support.release_values import a_plan, at, counters

LATENCY = GuardPlan(
    name="latency", kind="latency", margin=1.25, allowed=NonInferiorityMargin(odds_ratio=1.5, rate_difference=0.05)
)
FIXED = replace(LATENCY, edges=(100.0,))
CLICKS = GuardPlan(name="clicks", kind="rate", worse="lower", allowed=NonInferiorityMargin(odds_ratio=1.5))
SPEND = GuardPlan(name="spend", kind="mean", worse="lower", allowed=NonInferiorityMargin(difference=1.0))
SLO = GuardPlan(name="slo", kind="objective", limit=0.01)
SLOW = GuardPlan(name="slow", kind="objective", limit=0.05, slower_than=100.0)


def fed(
    plan: ReleasePlan,
    *looks: tuple[dict[str, Any] | None, dict[str, Any] | None],
    weights: tuple[float, float] = (50, 50),
    evidence: Evidence | None = None,
    **how: Any,
) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence after these looks at the counters of both, ten seconds apart, and what the last one lacked."""
    found, missing = evidence or no_evidence(plan), ()
    for number, (v1, v2) in enumerate(looks):
        readings = {name: reading for name, reading in (("v1", v1), ("v2", v2)) if reading is not None}
        look = Look(
            readings=readings,
            weights={"v1": weights[0], "v2": weights[1]},
            time=at(10.0 * number),
            counts_from=at(0),
            settled_from=at(0),
            **how,
        )
        found, missing = taken_in(plan, found, look)
    return found, missing


def slow(total: int, over: int, **more: float) -> dict[str, Any]:
    """Counters with a histogram of which so many took longer than 100 ms."""
    return counters(total, 0, le_50=0, le_100=total - over, le_inf=total, **more)


def test_the_first_complete_reading_is_the_base() -> None:
    found, missing = fed(a_plan(), (counters(1000, 9), counters(500, 3)))
    assert (found.requests, missing) == ({}, ())
    found, _ = fed(a_plan(), (counters(1000, 9), counters(500, 3)), (counters(1100, 10), counters(600, 3)))
    assert found.requests == {"v1": 100, "v2": 100}
    test = found.tests["errors"]
    assert isinstance(test, RateTest)
    assert (test.candidate_events, test.candidate_total, test.stable_events, test.stable_total) == (0, 100, 1, 100)


def test_a_version_that_appears_later_is_compared_only_from_then_on() -> None:
    looks = (
        (counters(0), None),
        (counters(500), None),
        (counters(900), counters(100)),
        (counters(1000), counters(150)),
    )
    found, _ = fed(a_plan(), *looks)
    assert found.requests == {"v1": 100, "v2": 50}


def test_a_gap_loses_nothing_of_either_version() -> None:
    looks = ((counters(0), counters(0)), (counters(500), None), (None, counters(90)), (counters(1000), counters(100)))
    found, _ = fed(a_plan(), *looks)
    assert found.requests == {"v1": 1000, "v2": 100}


def test_a_restart_counts_from_zero_again() -> None:
    found, _ = fed(a_plan(), (counters(1000), counters(500)), (counters(40), counters(550)))
    assert found.requests == {"v1": 40, "v2": 50}


def test_shares_are_checked_again_after_a_source_has_gone_for_good() -> None:
    """A gateway's pod that is replaced takes one interval from the check of shares, not the rest of the release."""

    def looks(*pods: int, sources: Sequence[str]) -> Any:
        return tuple({source: counters(count)["pod"] for source in sources} for count in pods)

    before = (looks(0, 0, sources=("old", "new")), looks(500, 500, sources=("old", "new")))
    after = tuple(looks(500 + 500 * k, 500 + 500 * k, sources=("new",)) for k in range(1, 6))
    plan = a_plan()
    begun = no_evidence(plan).reweighted({"v1": 50, "v2": 50})
    counted = fed(plan, *before, evidence=begun)[0].ratio
    assert counted is not None
    assert fed(plan, *before, after[0], evidence=begun)[0].ratio == counted
    more = fed(plan, *before, *after, evidence=begun)[0]
    assert more.gone == {"v1": ("old",), "v2": ("old",)}
    assert more.ratio is not None
    assert more.ratio != counted
    back = fed(plan, *before, *after, looks(9000, 1000, sources=("old", "new")), evidence=begun)[0]
    assert (back.gone, back.ratio) == ({}, more.ratio)


def test_errors_that_are_ahead_of_their_requests_are_judged_with_them() -> None:
    """A scrape is no single instant: the fourth error is there before its request, and none is lost."""
    found, _ = fed(a_plan(), (counters(0), counters(0)), (counters(10), counters(3, 4)))
    test = found.tests["errors"]
    assert isinstance(test, RateTest)
    assert (test.candidate_events, test.candidate_total, test.open) == (4, 3, (1, 0, 0, 0))
    found, _ = fed(a_plan(), (counters(0), counters(0)), (counters(10), counters(3, 4)), (counters(20), counters(6, 4)))
    test = found.tests["errors"]
    assert isinstance(test, RateTest)
    assert (test.candidate_events, test.candidate_total, test.open) == (4, 6, (0, 0, 0, 0))


def test_latency_edges_come_from_the_stables_own_history_and_then_stay() -> None:
    plan = a_plan(guards=(LATENCY,))
    history = {
        **counters(1000)["pod"],
        "le/10": 500.0,
        "le/50": 900.0,
        "le/100": 990.0,
        "le/250": 1000.0,
        "le/+Inf": 1000.0,
    }
    found, missing = fed(plan, ({"pod": history}, slow(0, 0)))
    test = found.tests["latency"]
    assert isinstance(test, LatencyTest)
    assert (test.edges, missing) == ((10.0, 50.0, 100.0), ())


@pytest.mark.parametrize(
    ("history", "edges"),
    [
        ({"le/100": 5.0, "le/+Inf": 10.0}, None),  # too few answers
        ({"le/50": 0.0, "le/100": 99.0, "le/250": 99.0, "le/+Inf": 99.0}, (100.0,)),  # one wide bucket holds all
        ({"le/100": 0.0, "le/+Inf": 99.0}, None),  # all slower than any edge
        ({}, None),
    ],
)
def test_where_no_edge_parts_the_answers_the_edge_above_them_is_watched(
    history: dict[str, float], edges: tuple[float, ...] | None
) -> None:
    plan = a_plan(guards=(LATENCY,))
    found, _ = fed(plan, ({"pod": {**counters(99)["pod"], **history}}, slow(0, 0)))
    test = found.tests.get("latency")
    assert (test.edges if isinstance(test, LatencyTest) else None) == edges


def test_a_latency_guard_without_edges_is_missing() -> None:
    plan = a_plan(guards=(LATENCY,))
    found, missing = fed(plan, (counters(0), counters(0)), (counters(10), counters(10)))
    assert missing == ("latency",)
    (guard, alone) = guards_of(plan, found)
    assert (guard.log_e, guard.summary, alone.name) == (0.0, "nothing known yet", "candidate alone")
    assert bounds_of(plan, found) == ()
    assert guard_figures(plan, found)[0].ratio is None


@pytest.mark.parametrize("lacks", [0, 1])
def test_a_version_without_histogram_makes_latency_missing(lacks: int) -> None:
    plan = a_plan(guards=(FIXED, SLOW))
    looks = [[slow(0, 0), slow(0, 0)], [slow(100, 1), slow(100, 1)]]
    looks[1][lacks] = counters(100)
    _, missing = fed(plan, *(tuple(look) for look in looks))  # type: ignore[arg-type]
    assert missing == (("latency",) if lacks == 0 else ("latency", "slow"))


def test_a_histogram_with_other_edges_is_missing() -> None:
    other = {"pod": {**counters(100)["pod"], "le/70": 50.0, "le/+Inf": 100.0}}
    _, missing = fed(a_plan(guards=(FIXED,)), (slow(0, 0), slow(0, 0)), (slow(100, 1), other))
    assert missing == ("latency",)


def test_a_slower_candidate_is_seen_at_the_edge() -> None:
    plan = a_plan(guards=(FIXED, SLOW))
    found, missing = fed(plan, (slow(0, 0), slow(0, 0)), (slow(500, 10), slow(500, 100)))
    assert missing == ()
    assert log_evidence(plan, found) > 10
    figures = {figure.name: figure for figure in guard_figures(plan, found)}
    assert "look/slow/ratio" not in look_figures(plan, found, 50)
    assert (figures["latency"].candidate, figures["latency"].stable, figures["slow"].candidate) == (0.2, 0.02, 0.2)


def kpi(n: float, **parts: float) -> dict[str, Any]:
    return {
        "pod": counters(n)["pod"],
        "kpi": {f"kpi/{name.replace('__', '/')}": value for name, value in parts.items()},
    }


def test_a_binary_kpi_of_which_less_is_worse_counts_what_did_not_happen() -> None:
    plan = a_plan(guards=(CLICKS,))
    zero, after = kpi(0, clicks__n=0, clicks__events=0), kpi(100, clicks__n=100, clicks__events=30)
    found, missing = fed(plan, (zero, zero), (after, kpi(100, clicks__n=100, clicks__events=10)))
    test = found.tests["clicks"]
    assert isinstance(test, RateTest)
    assert (test.candidate_events, test.stable_events, missing) == (90, 70, ())
    more = a_plan(guards=(replace(CLICKS, worse="higher"),))
    found, _ = fed(more, (zero, zero), (after, after))
    test = found.tests["clicks"]
    assert isinstance(test, RateTest)
    assert test.candidate_events == 30


def numbers(n: int, mean: float) -> dict[str, Any]:
    return kpi(n, spend__n=n, spend__sum=n * mean, spend__sum_squares=n * (mean**2 + 1))


def test_a_numeric_kpi_is_compared_by_its_mean_with_fractions_kept() -> None:
    plan = a_plan(guards=(SPEND,))
    found, missing = fed(plan, (numbers(0, 0), numbers(0, 0)), (numbers(400, 5.25), numbers(400, 3.25)))
    test = found.tests["spend"]
    assert isinstance(test, MeanDifference)
    assert missing == ()
    (figure,) = guard_figures(plan, found)
    assert figure.ratio is not None
    assert figure.ratio.estimate == pytest.approx(-2.0)
    (bound,) = bounds_of(plan, found)
    assert (bound.measure, bound.met) == ("difference of means", False)
    assert guards_of(plan, found)[0].log_e > 3


def test_a_kpi_that_is_missing_or_can_not_be_is_missing() -> None:
    plan = a_plan(guards=(SPEND, CLICKS))
    impossible = kpi(400, spend__n=400, spend__sum=4000, spend__sum_squares=1, clicks__n=4)
    zero = kpi(0, spend__n=0, spend__sum=0, spend__sum_squares=0, clicks__n=0)
    _, missing = fed(plan, (zero, zero), (impossible, impossible))
    assert missing == ("spend",)
    _, missing = fed(plan, (counters(0), counters(0)), (counters(9), counters(9)))
    assert missing == ("spend", "clicks")


def test_a_version_without_traffic_lacks_nothing() -> None:
    plan = a_plan(guards=(FIXED, CLICKS, SLOW))
    zero, after = kpi(0, clicks__n=0, clicks__events=0), kpi(100, clicks__n=100, clicks__events=30)
    stable = ({**zero, **slow(0, 0)}, {**after, **slow(100, 1)})
    found, missing = fed(plan, (stable[0], None), (stable[1], None), weights=(100, 0))
    assert (missing, found.requests) == ((), {"v1": 100})
    found, missing = fed(plan, (None, stable[0]), (None, stable[1]), weights=(0, 100))
    assert (missing, found.requests) == ((), {"v2": 100})
    assert found.alone.counts.total == 100  # nothing to compare it with: it is judged by itself


def test_while_the_stable_fails_every_request_nothing_is_compared() -> None:
    plan = a_plan(guards=(SLO,))
    looks = ((counters(0), counters(0)), (counters(100, 100), counters(100, 2)))
    found, missing = fed(plan, *looks)
    test = found.tests["slo"]
    assert isinstance(test, ObjectiveTest)
    assert (found.stable_failed, found.alone.counts.events, test.counts.total, missing) == (True, 2, 0, ())
    mended, _ = fed(plan, *looks, (counters(200, 100), counters(200, 2)))
    assert (mended.stable_failed, mended.alone.counts.total) == (False, 100)


def test_while_every_request_of_both_fails_nothing_is_known_of_the_candidate() -> None:
    """A database that both ask, say; without a ready stable the candidate's failures are its own."""
    plan = a_plan(guards=(SLO,))
    looks = ((counters(0), counters(0)), (counters(100, 100), counters(50, 50)))
    found, _ = fed(plan, *looks)
    assert (found.stable_failed, found.alone.counts.total) == (True, 0)
    over, _ = fed(plan, *looks, (counters(200, 100), counters(100, 50)))
    assert (over.stable_failed, over.alone.counts.total) == (False, 0)
    dead, _ = fed(plan, *looks, stable_ready=False)
    assert dead.alone.counts.events == 50
    alive, _ = fed(plan, looks[0], (counters(100, 100), counters(50, 40)))
    assert alive.alone.counts.events == 40


def test_counters_hold_only_what_the_guards_need() -> None:
    many = {
        "pod": {
            **counters(5)["pod"],
            **{f"le/{edge}": 1.0 for edge in range(10, 900, 10)},
            "le/+Inf": 5.0,
            "other": 1.0,
        }
    }
    found, _ = fed(a_plan(guards=(FIXED,)), (many, many))
    last = found.counters["v1"].last
    assert last is not None
    assert set(last["pod"]) == {"requests", "errors", "le/100", "le/+Inf"}


def test_everything_reads_back_as_it_was_written() -> None:
    plan = a_plan(guards=(FIXED, SLOW, SLO, SPEND, CLICKS, GuardPlan(name="errors", kind="errors")))
    looks = ((numbers(0, 0), numbers(0, 0)), (numbers(40, 5.2), numbers(40, 5.1)))
    found, _ = fed(plan, *looks, evidence=no_evidence(plan).reweighted({"v1": 50, "v2": 50}))
    assert from_json(Evidence, to_json(found), plan=plan) == found
    assert from_json(Evidence, to_json(no_evidence(plan)), plan=plan) == no_evidence(plan)
    with pytest.raises(InvalidInput, match="unknown fields"):
        from_json(Evidence, {**to_json(found), "new": 1}, plan=plan)


def test_figures_are_named_as_the_report_reads_them() -> None:
    plan = a_plan()
    found, _ = fed(plan, (counters(0), counters(0)), (counters(900, 9), counters(100, 5)))
    figures = look_figures(plan, found, 10)
    assert figures["look/weight"] == 10
    assert (figures["look/requests/stable"], figures["look/requests/candidate"]) == (900, 100)
    assert (figures["look/errors/candidate"], figures["look/errors/stable"]) == (0.05, 0.01)
    assert figures["look/errors/ratio_lower"] < figures["look/errors/ratio"] < figures["look/errors/ratio_upper"]
    assert figures["look/evidence"] == pytest.approx(log_evidence(plan, found))
    empty = look_figures(plan, no_evidence(plan), 0)
    assert set(empty) == {
        "look/weight",
        "look/evidence",
        "look/requests/stable",
        "look/requests/candidate",
        "look/errors/log_e",
        "look/errors/ratio_lower",
    }
    assert log_evidence(a_plan(guards=()), no_evidence(a_plan(guards=()))) == 0


def test_either_proof_is_enough_and_the_nearer_is_told() -> None:
    both = GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(odds_ratio=1.2, rate_difference=0.01))
    plan = a_plan(guards=(both,))
    start = (counters(0), counters(0))
    (bound,) = bounds_of(plan, fed(plan, start, (counters(9000), counters(9000)))[0])
    assert (bound.measure, bound.met) == ("difference of rates", True)  # without any error no odds can be compared
    strict = a_plan(guards=(replace(both, allowed=NonInferiorityMargin(odds_ratio=1.2, rate_difference=0.0001)),))
    (bound,) = bounds_of(strict, fed(strict, start, (counters(10**6, 200000), counters(10**6, 200000)))[0])
    assert (bound.measure, bound.met) == ("odds ratio", True)
    (bound,) = bounds_of(plan, fed(plan, start, (counters(20), counters(20)))[0])
    assert not bound.met


def test_every_guard_that_allows_something_has_its_bound() -> None:
    one = replace(FIXED, name="slow answers", allowed=NonInferiorityMargin(rate_difference=0.1))
    plan = a_plan(guards=(SLO, GuardPlan(name="errors", kind="errors"), FIXED, one, CLICKS))
    zero = {**kpi(0, clicks__n=0, clicks__events=0), **slow(0, 0)}
    after = {**kpi(900, clicks__n=900, clicks__events=300), **slow(900, 90)}
    found, missing = fed(plan, (zero, zero), (after, after))
    assert missing == ()
    bounds = [(bound.name, bound.measure) for bound in bounds_of(plan, found)]
    assert bounds == [
        ("slo", "rate"),
        ("latency over 100 ms", "odds ratio"),
        ("slow answers over 100 ms", "difference of rates"),
        ("clicks", "odds ratio"),
    ]


def test_requests_that_an_arm_brought_back_are_no_shares_of_the_weights() -> None:
    start = no_evidence(a_plan()).reweighted({"v1": 50, "v2": 50})
    base = (counters(0, assignments=0), counters(0, assignments=0))
    # Three in four requests of v2 came by its cookie; the weights dealt out as many to each.
    later = (counters(400, assignments=400), counters(1600, assignments=400))
    found, _ = fed(a_plan(), base, later, evidence=start)
    assert found.ratio is not None
    assert found.ratio.counts == {"v1": 400, "v2": 400}
    assert found.requests == {"v1": 400, "v2": 1600}
    pending_notification, _ = fed(a_plan(), (counters(0), counters(0)), (counters(400), counters(1600)), evidence=start)
    assert pending_notification.ratio is not None
    assert pending_notification.ratio.mismatched()


def test_the_tests_begin_anew_once_the_shares_fit_again() -> None:
    start = no_evidence(a_plan()).reweighted({"v1": 50, "v2": 50})
    looks = [(counters(0), counters(0)), (counters(400, 4), counters(1600, 90))]
    looks += [(counters(400 + 500 * n, 4), counters(1600 + 500 * n, 90)) for n in range(1, 3)]
    elsewhere, _ = fed(a_plan(), *looks[:2], evidence=start)
    over, missing = fed(a_plan(), *looks[:3], evidence=start)
    assert elsewhere.ratio is not None
    assert over.ratio is not None
    assert (elsewhere.ratio.mismatched(), over.ratio.mismatched(), missing) == (True, False, ())
    before, after = elsewhere.tests["errors"], over.tests["errors"]
    assert isinstance(before, RateTest)
    assert isinstance(after, RateTest)
    assert (before.candidate_events, before.candidate_total) == (90, 1600)
    assert (after.candidate_events, after.candidate_total) == (0, 0)
    assert over.requests == {"v1": 900, "v2": 2100}


LATE = GuardPlan(name="bought", kind="rate", worse="lower")


def booked(v1: tuple[int, int], v2: tuple[int, int]) -> tuple[Any, Any]:
    sides = [counters(n, **{"kpi_bought_n": n, "kpi_bought_events": events}) for n, events in (v1, v2)]
    return sides[0], sides[1]


@pytest.mark.parametrize("phase", [0.0, 60.0])
def test_events_that_come_looks_after_their_observations_are_counted(phase: float) -> None:
    """EVIDENCE.md, 5: 200 visits and 80 against 40 purchases, each booked one look later, gave 0.0 and 0.0."""
    plan = a_plan(guards=(LATE,), phase=phase, rules=2, label_delay=10.0)
    found, _ = fed(plan, booked((0, 0), (0, 0)), booked((200, 0), (200, 0)), booked((200, 80), (200, 40)))
    test = found.tests["bought"]
    assert isinstance(test, RateTest)
    # The bad event is not to buy.
    assert (test.candidate_events, test.candidate_total) == (160, 200)
    assert (test.stable_events, test.stable_total) == (120, 200)
    figures = guard_figures(plan, found)[0]
    assert (figures.candidate, figures.stable) == (pytest.approx(0.2), pytest.approx(0.4))  # who bought
    assert "20% of 200 requests on the candidate against 40% of 200" in test.guard("bought", alpha=0.05).summary


def test_what_is_still_open_is_said_and_nothing_is_lost_when_events_cross_a_stratum() -> None:
    plan = a_plan(guards=(GuardPlan(name="bought", kind="rate"),), phase=0.0, rules=2, label_delay=20.0)
    first = (booked((0, 0), (0, 0)), booked((100, 0), (100, 0)))
    found, _ = fed(plan, *first)
    assert (
        "the last 100 and 100 still wait for their events" in found.tests["bought"].guard("bought", alpha=0.05).summary
    )
    found, _ = fed(plan, *first, booked((100, 0), (100, 0)), booked((100, 30), (100, 50)), booked((150, 30), (150, 50)))
    test = found.tests["bought"]
    assert isinstance(test, RateTest)
    # The stratum of the visits closed without their events; they are of the next one, and the sums are right.
    assert (test.candidate_events, test.candidate_total, test.stable_events) == (50, 150, 30)
    assert test.open == (0, 0, 0, 0)
    assert [round(150 * rate) for rate in test.rates if rate is not None] == [50, 30]


def test_sums_of_a_number_that_come_looks_after_their_observations_are_counted() -> None:
    """EVIDENCE.md, 5, for money instead of events: 40 a visit on both, each booked one look later."""
    guard = GuardPlan(name="spend", kind="mean", worse="lower", allowed=NonInferiorityMargin(difference=5.0))

    def spent(*sides: tuple[int, int]) -> tuple[Any, Any]:
        v1, v2 = (kpi(n, spend__n=n, spend__sum=40 * paid, spend__sum_squares=2000 * paid) for n, paid in sides)
        return v1, v2

    visits = [0, *([200, 800] * 40)]  # they come in waves
    looks = [spent((n, before), (n // 4, before // 4)) for before, n in pairwise([0, *accumulate(visits)])]
    plan = a_plan(guards=(guard,), phase=0.0, rules=2, label_delay=50.0)
    found, missing = fed(plan, *looks)
    assert not missing
    test = found.tests["spend"]
    assert isinstance(test, MeanDifference)
    assert abs(test.difference / test.weight) < 1
    assert "still wait for their sums" in test.guard("spend", alpha=0.05).summary
    assert bounds_of(plan, found)[0].upper < 5


def test_a_lighter_load_is_never_called_a_faster_version() -> None:
    """EVIDENCE.md, 1: all nine promoted releases of a version over itself 'proved' it better by 7 to 14 points."""
    plan = a_plan(guards=(FIXED,), rules=2, phase=60.0)
    looks = [(slow(800 * number, 56 * number), slow(200 * number, 6 * number)) for number in range(240)]
    found, _ = fed(plan, *looks, weights=(80, 20))
    own = found.tests["latency"].proven(0.025)
    assert own is not None
    assert own.upper < 0.9
    assert proven(plan, found)["latency"].upper == 1.0
    assert [bound.upper for bound in bounds_of(plan, found)] in ([1.0], [0.0])


def test_what_a_release_waits_for_says_how_much_is_still_open() -> None:
    guard = GuardPlan(name="bought", kind="rate", worse="lower", allowed=NonInferiorityMargin(odds_ratio=1.5))
    plan = a_plan(guards=(guard,), phase=0.0, rules=2, label_delay=20.0)
    looks = [booked((100 * number, 30 * number), (100 * number, 30 * number)) for number in range(4)]
    found, _ = fed(plan, *looks)
    assert bounds_of(plan, found)[0].describe().endswith("; the last 100 and 100 still wait for their events)")
