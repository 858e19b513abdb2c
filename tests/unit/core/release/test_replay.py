"""A release on given counts: how it ends, what it asks for, and which counts can't be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlflow_istio.core.analysis.promotion import NonInferiorityMargin
from mlflow_istio.core.release.plan import Approval, GuardPlan, Webhook, auto_guards
from mlflow_istio.core.release.replay import Counts, Traffic, replayed
from mlflow_istio.errors import InvalidInput
from tests.support.release_values import a_plan

ERRORS = GuardPlan(name="errors", kind="errors", allowed=NonInferiorityMargin(odds_ratio=3.0, rate_difference=0.05))
GOOD = Counts(requests=100, errors=1, slower_than={100: 30, 250: 5})


def steady(rate: int = 600, *, v1: float = 0.01, v2: float = 0.01, seed: int = 1) -> Traffic:
    """Requests by weight, of which these shares fail."""
    rng = np.random.default_rng(seed)

    def counts(_look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        requests = {name: int(rng.binomial(rate, weight / 100)) for name, weight in weights.items()}
        failing = {"v1": v1, "v2": v2}
        return {name: Counts(requests=n, errors=int(rng.binomial(n, failing[name]))) for name, n in requests.items()}

    return counts


def test_an_equal_version_is_promoted_and_its_proof_holds_the_truth() -> None:
    replay = replayed(a_plan(guards=(ERRORS,), deadline=7200.0), steady(), looks=720)
    assert (replay.outcome, replay.step) == ("promoted", 1)
    assert replay.reason.startswith("Proven good enough: errors")
    lower, upper = replay.proven["errors"]
    assert lower <= 1 <= upper < math.inf


def test_a_version_that_always_fails_is_rolled_back_in_its_first_step() -> None:
    replay = replayed(a_plan(guards=(ERRORS,)), steady(v2=1.0), looks=60)
    assert (replay.outcome, replay.step) == ("rolled-back", 0)
    assert "errors" in replay.reason
    assert replay.look < 10


@pytest.mark.parametrize(
    ("deadline", "undecided", "looks", "outcome", "ends"),
    [
        (100000.0, "rollback", 30, "open", 30),
        (100.0, "rollback", 30, "inconclusive", 10),
        (100.0, "hold", 30, "inconclusive", 10),
    ],
)
def test_without_traffic_nothing_is_proven(
    deadline: float, undecided: str, looks: int, outcome: str, ends: int
) -> None:
    plan = a_plan(guards=auto_guards(), deadline=deadline, undecided=undecided)
    replay = replayed(plan, lambda _look, weights: {name: Counts(requests=0) for name in weights}, looks=looks)
    assert (replay.outcome, replay.look, replay.step) == (outcome, ends, 0)
    assert replay.proven["errors"] == (0.0, math.inf)


@pytest.mark.parametrize(("later", "outcome"), [(None, "promoted"), (60, "rolled-back")])
def test_a_watch_goes_on_after_the_promotion(later: int | None, outcome: str) -> None:
    plan = a_plan(guards=(ERRORS,), deadline=7200.0, watch=3600.0, holdback=10)
    promoted = replayed(replace(plan, watch=0.0), steady(), looks=720).look
    turns_bad = later and promoted + later
    good, bad = steady(), steady(v2=0.1)
    asked: dict[int, Mapping[str, float]] = {}

    def traffic(look: int, weights: Mapping[str, float]) -> Mapping[str, Counts]:
        asked[look] = weights
        return (bad if turns_bad and look >= turns_bad else good)(look, weights)

    replay = replayed(plan, traffic, looks=1500)
    assert replay.outcome == outcome
    assert asked[promoted + 1] == {"v1": 10, "v2": 90}
    if turns_bad:
        assert turns_bad < replay.look < promoted + 3600 / plan.interval
        assert "worse since its promotion" in replay.reason
    else:
        assert replay.look == promoted + 3600 / plan.interval
    assert replayed(plan, steady(), looks=promoted + 5).outcome == "open"


@pytest.mark.parametrize(("late", "outcome"), [(0, "promoted"), (6, "promoted"), (10_000, "inconclusive")])
def test_a_gateway_that_hears_of_a_step_late_delays_a_release_and_one_that_never_does_stops_it(
    late: int, outcome: str
) -> None:
    """Half of the traffic goes on with the weights of the step before; so it was on a real node, after istiod had been away."""
    plan = a_plan(guards=(ERRORS,), deadline=7200.0)
    rng = np.random.default_rng(5)
    said: list[Mapping[str, float]] = []
    changed: list[int] = []

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        if not said or said[-1] != weights:
            said.append(dict(weights))
            changed.append(look)
        behind = said[-2] if len(said) > 2 and look < changed[-1] + late else weights
        got = dict.fromkeys(weights, 0)
        for gateway in (weights, behind):
            for name, share in gateway.items():
                got[name] += int(rng.binomial(3000, share / 100))
        return {name: Counts(requests=n, errors=int(rng.binomial(n, 0.01))) for name, n in got.items()}

    replay = replayed(plan, traffic, looks=721)
    assert replay.outcome == outcome
    if outcome != "promoted":
        assert "the shares of traffic don't fit the weights, so the versions can't be compared before" in replay.reason


def test_it_asks_look_by_look_with_the_weights_of_the_interval() -> None:
    asked: list[tuple[int, dict[str, float]]] = []

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        asked.append((look, dict(weights)))
        return {name: Counts(requests=round(6 * weight)) for name, weight in weights.items()}

    replay = replayed(a_plan(guards=(GuardPlan(name="errors", kind="errors"),)), traffic, looks=4)
    before, first, second = {"v1": 100, "v2": 0}, {"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}
    assert asked == [(1, before), (2, first), (3, first), (4, second)]
    assert replay.outcome == "open"


def test_the_candidates_first_counts_are_not_lost() -> None:
    """Its counters begin at 0: without warm-up, a candidate that fails in its first interval is seen to."""
    plan = a_plan(guards=(ERRORS,), warmup=0.0, hold=10.0, min_requests=1)

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        names = [name for name, weight in weights.items() if weight]
        return {name: Counts(requests=1000, errors=900 if (look, name) == (2, "v2") else 0) for name in names}

    assert replayed(plan, traffic, looks=2).outcome == "rolled-back"


def test_a_version_that_is_missing_gives_no_data() -> None:
    plan = a_plan(guards=(ERRORS,), no_data="rollback", hold=20.0)

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        return {name: Counts(requests=round(6 * weights[name])) for name in weights if look < 4 or name == "v1"}

    replay = replayed(plan, traffic, looks=20)
    assert (replay.outcome, replay.reason) == ("rolled-back", "No data from v2.")


def test_approvals_and_webhooks_count_as_given() -> None:
    plan = a_plan(
        guards=(ERRORS,),
        deadline=7200.0,
        approval=Approval(before=("50", "promotion")),
        webhooks=(Webhook(url="http://nobody.example"),),
    )
    bare = a_plan(guards=(ERRORS,), deadline=7200.0)
    assert replayed(plan, steady(), looks=720) == replayed(bare, steady(), looks=720)


def test_a_release_that_stops_before_promotion_is_open_from_then_on() -> None:
    plan = a_plan(guards=(ERRORS,), deadline=7200.0, promote=False)
    replay = replayed(plan, steady(), looks=720)
    assert replay.outcome == "open"
    assert replay.look < 720
    assert replay.reason.startswith("Proven good enough")


def test_a_kpi_is_counted_and_its_events_may_come_later() -> None:
    plan = a_plan(guards=(GuardPlan(name="bought", kind="rate", worse="lower"),), warmup=0.0, hold=500.0)

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        visits = {name: round(10 * weight) for name, weight in weights.items()}
        bought = {name: (n, 0) if look % 2 else (n, n if name == "v1" else 0) for name, n in visits.items()}
        return {name: Counts(requests=n, kpi={"bought": bought[name]}) for name, n in visits.items()}

    assert replayed(plan, traffic, looks=60).outcome == "rolled-back"


def at_look_3(counts: Any) -> Traffic:
    """Good counts, but what the candidate gives at look 3."""
    return lambda look, weights: {name: counts if (look, name) == (3, "v2") else GOOD for name in weights}


def slower(**edges: Any) -> Counts:
    return Counts(requests=100, slower_than={float(edge[1:]): count for edge, count in edges.items()})


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(requests=-1), "requests is -1: counts are whole numbers from 0 up"),
        (Counts(requests=100, errors=-5, slower_than=GOOD.slower_than), "errors is -5: counts are whole numbers"),
        (Counts(requests=1.5), "requests is 1.5: counts are whole numbers"),  # type: ignore[arg-type]
        (Counts(requests=float("nan")), "requests is nan: counts"),  # type: ignore[arg-type]
        (Counts(requests=float("inf")), "requests is inf: counts"),  # type: ignore[arg-type]
        (Counts(requests="7"), "requests is '7': counts"),  # type: ignore[arg-type]
        (Counts(requests=None), "requests is None: counts"),  # type: ignore[arg-type]
        (Counts(requests=2**53 + 1), "requests is 9007199254740993: more than 9,007,199,254,740,992 can't be counted"),
        (Counts(requests=10**400), "requests is 100000"),
        (Counts(requests=5, errors=6), "6 errors of 5 requests: errors are some of the requests"),
        (slower(_100=101, _250=0), "101 answers slower than 100 ms, but only 100 requests: counts can't rise"),
        (slower(_100=10, _250=11), "11 answers slower than 250 ms, but only 10 slower than 100 ms: counts can't rise"),
        (slower(_100=10, _250=-1), "slower_than 250 ms is -1: counts"),
        (slower(_100=10), "slower_than lacks the edge 250 ms: the first counts fixed the edges (100, 250)"),
        (slower(_100=10, _250=5, _500=1), "slower_than has the new edge 500.0 ms: the first counts fixed the edges"),
        (Counts(requests=1, slower_than=[3]), "slower_than is [3]: give edge in ms"),  # type: ignore[arg-type]
        (Counts(requests=100, slower_than=GOOD.slower_than, kpi={"x": (1, 0)}), "unknown KPI 'x'"),
        ({"requests": 1}, "{'requests': 1} is no Counts: give Counts(requests=..., errors=...)"),
        (None, "None is no Counts"),
    ],
)
def test_counts_that_cannot_be_are_named_with_their_look(counts: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replayed(a_plan(guards=auto_guards()), at_look_3(counts), looks=9)
    assert refused.value.message.startswith(f"look 3, 'v2': {words}")
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        (lambda _look, _weights: None, "look 1: traffic gave None: give a Counts for each name"),
        (lambda _look, _weights: [GOOD], "look 1: traffic gave [Counts("),
        (lambda _look, _weights: {"v3": GOOD}, "look 1: traffic gave counts of 'v3': did you mean 'v"),
        (lambda _look, _weights: {7: GOOD}, "look 1: traffic gave counts of 7: "),
        (
            lambda _look, _weights: {"v1": Counts(requests=1, slower_than={"fast": 1})},
            "look 1, 'v1': slower_than has the edge 'fast': edges are milliseconds above 0",
        ),
        (
            lambda _look, _weights: {"v1": Counts(requests=1, slower_than={math.inf: 0})},
            "look 1, 'v1': slower_than has the edge inf: edges are milliseconds above 0",
        ),
        (
            lambda _look, _weights: {"v1": Counts(requests=1, slower_than={10**400: 0})},
            "look 1, 'v1': slower_than has the edge 100000",
        ),
        (
            lambda _look, _weights: {"v1": Counts(requests=1, slower_than={100: 0, 100.0000001: 0})},
            "look 1, 'v1': slower_than has the edges 100 and 100.0000001, which are one: leave one out",
        ),
        (
            lambda _look, _weights: {"v1": replace(GOOD, kpi={"errors": (1, 0)})},
            "look 1, 'v1': unknown KPI 'errors': known: none",
        ),
        ({"v1": GOOD}, "traffic is {'v1': Counts("),
        (None, "traffic is None: give a function of a look's number and the percents"),
    ],
)
def test_what_is_no_counts_by_name_is_refused(traffic: Callable[..., Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replayed(a_plan(guards=auto_guards()), traffic, looks=9)
    assert refused.value.message.startswith(words)


@pytest.mark.parametrize("silent", ["v1", "v2"])
def test_what_a_gap_hides_says_nothing_about_shares(silent: str) -> None:
    """Nobody knows what a version without data has answered meanwhile: it isn't said to have had no traffic."""

    def traffic(look: int, weights: Mapping[str, float]) -> dict[str, Counts]:
        there = [name for name in weights if not (name == silent and 3 < look < 60)]
        bought = {"bought": (10, 3)} if look > 1 else {}
        return {name: Counts(requests=int(6 * weights[name]), kpi=bought) for name in there}

    guards = (ERRORS, GuardPlan(name="bought", kind="rate", worse="lower"))
    ended = replayed(a_plan(guards=guards, deadline=7200.0), traffic, looks=720)
    assert ended.outcome == "promoted", ended.reason
    assert ended.look >= 60


def test_an_edge_that_the_counts_lack_is_refused_as_a_source_without_it_is() -> None:
    guards = (GuardPlan(name="latency", kind="latency", edges=(77.0,)),)
    with pytest.raises(InvalidInput, match="look 1: guard 'latency': traffic has no latency edge at 77 ms.* say 100"):
        replayed(a_plan(guards=guards), lambda _look, weights: dict.fromkeys(weights, GOOD), looks=9)


@pytest.mark.parametrize(
    "numbers", [(1,), (1, 2, 3, 4), (5, -1), (1, 2), ("a", "b"), 7, (float("nan"), 0), None, (True, False)]
)
def test_a_kpi_that_is_no_count_is_named(numbers: Any) -> None:
    plan = a_plan(guards=(GuardPlan(name="bought", kind="rate"),))
    with pytest.raises(InvalidInput, match=r"^look 1, 'v1': .*KPI 'bought'"):
        replayed(plan, lambda _look, _weights: {"v1": Counts(requests=1, kpi={"bought": numbers})}, looks=9)


@pytest.mark.parametrize(("kind", "numbers", "other"), [("rate", (5, 50.0, 600.0), "mean"), ("mean", (5, 1), "rate")])
def test_a_kpi_of_the_other_kind_is_refused_with_the_guard_that_it_needs(kind: str, numbers: Any, other: str) -> None:
    plan = a_plan(guards=(GuardPlan(name="spent", kind=kind),))
    with pytest.raises(InvalidInput, match=f'^look 1: KPI \'spent\' gives .*"guard": "{other}", "name": "spent"'):
        replayed(plan, lambda _look, _weights: {"v1": Counts(requests=5, kpi={"spent": numbers})}, looks=9)


def test_numpys_counts_and_whole_floats_are_counts() -> None:
    slow = {np.int64(100): np.int64(7)}
    counts = Counts(requests=np.int64(100), errors=np.float64(1.0), slower_than=slow)  # type: ignore[arg-type]
    looks: Any = np.int64(3)
    replay = replayed(a_plan(guards=(ERRORS,)), lambda _look, weights: dict.fromkeys(weights, counts), looks=looks)
    assert replay.outcome == "open"


@pytest.mark.parametrize("looks", [0, -1, 2.0, True, None])
def test_there_is_at_least_one_look(looks: Any) -> None:
    with pytest.raises(InvalidInput, match="looks is how often to look, at least 1"):
        replayed(a_plan(), steady(), looks=looks)


@pytest.mark.parametrize("strategy", ["ab", "shadow"])
def test_what_is_decided_by_a_comparison_is_refused(strategy: str) -> None:
    with pytest.raises(InvalidInput, match=f"strategy={strategy} can't be replayed"):
        replayed(a_plan(strategy=strategy), steady(), looks=3)
