"""What is known about a candidate so far: the guards' tests, fed by raw counters, interval by interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.counters import CounterState, Reading
from mlflow_istio.core.analysis.latency import LatencyTest, choose_edges
from mlflow_istio.core.analysis.means import MeanDifference, Moments
from mlflow_istio.core.analysis.measures import (
    ASSIGNMENTS,
    ERRORS,
    REQUESTS,
    KpiCounts,
    kpi_counts,
    latency_counts,
    latency_series,
)
from mlflow_istio.core.analysis.packing import read_fields
from mlflow_istio.core.analysis.proportion import ObjectiveTest, Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.release.plan import GuardPlan, ReleasePlan
from mlflow_istio.errors import InvalidInput

Test = RateTest | LatencyTest | MeanDifference | ObjectiveTest

ENOUGH_TO_SEE = 20
"""Requests of a stable in one interval from which on "every one failed" means that it serves nothing."""

Growth = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything measured.

    Attributes:
        counters: The last raw counters of each deployment.
        read: When they were read, in UTC; None while there are none.
        tests: Guard's name to its test; a latency guard whose edges could not be chosen yet has none.
        alone: The candidate's own errors in intervals in which the stable served nothing.
        ratio: The test of the traffic's shares in the present weight period; None before there is one.
        requests: Requests counted, by deployment.
        step_requests: Of these, the candidate's in the present step.
        stable_failed: Whether every request of the stable failed when there were last enough to see.
    """

    counters: Mapping[str, CounterState] = field(default_factory=dict)
    read: datetime | None = None
    tests: Mapping[str, Test] = field(default_factory=dict)
    alone: ObjectiveTest
    ratio: SampleRatioTest | None = None
    requests: Mapping[str, int] = field(default_factory=dict)
    step_requests: int = 0
    stable_failed: bool = False

    def rebased(self) -> Evidence:
        """The evidence without the last counters: what happened until the next reading counts for nothing."""
        return replace(self, counters={}, read=None)

    def reweighted(self, weights: Mapping[str, float]) -> Evidence:
        """The evidence at the start of a step.

        Args:
            weights: Deployment to percent of the live traffic.
        """
        ratio = SampleRatioTest.of(weights) if self.ratio is None else self.ratio.reweighted(weights)
        return replace(self, ratio=ratio, step_requests=0)


def no_evidence(plan: ReleasePlan) -> Evidence:
    """The evidence of a release that has not begun."""
    tests = {guard.name: test for guard in plan.guards if (test := _fresh_test(plan, guard)) is not None}
    return Evidence(tests=tests, alone=ObjectiveTest(limit=plan.alone_limit, counts=Proportion(phi=plan.phi)))


def _fresh_test(plan: ReleasePlan, guard: GuardPlan) -> Test | None:
    if guard.kind in ("errors", "rate"):
        return RateTest(margin=guard.margin, phi=plan.phi)
    if guard.kind == "latency":
        return LatencyTest.at(guard.edges, margin=guard.margin, phi=plan.phi) if guard.edges else None
    if guard.kind == "mean":
        return MeanDifference(worse=guard.worse, margin=guard.margin)
    return ObjectiveTest(limit=guard.limit or 0.5, counts=Proportion(phi=plan.phi))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look at the world.

    Attributes:
        readings: Deployment to its raw counters; one without data is absent.
        weights: Deployment to percent of the live traffic, as the object says.
        time: When, in UTC.
        counts_from: Only intervals that begin then or later count; None: none do.
        settled_from: Only intervals that begin then or later had the present weights throughout, so that shares can be checked.
        stable_ready: Whether the stable has a ready replica.
    """

    readings: Mapping[str, Reading]
    weights: Mapping[str, float]
    time: datetime
    counts_from: datetime | None
    settled_from: datetime
    stable_ready: bool = True


def taken_in(plan: ReleasePlan, evidence: Evidence, look: Look) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence after a look, and the names of what gave no data.

    An interval counts only if every deployment with traffic has data at its start and at its end: else one version's
    requests would be compared with none of the other's. Nothing is lost by it, since counters go on from the last
    complete reading.
    """
    evidence = _with_edges(plan, evidence, look.readings.get(plan.stable, {}))
    broken = serves_nothing(evidence, look.stable_ready)
    needed = [
        name for name in plan.deployments if look.weights.get(name, 0) > 0 and not (broken and name == plan.stable)
    ]
    silent = tuple(name for name in needed if name not in look.readings)
    if silent:
        return evidence, silent
    lossless = not _restarted(evidence, look)
    base = evidence.read if all(name in evidence.counters for name in needed) else None
    evidence, grown = _advanced(plan, evidence, look, fresh=base is None)
    if base is None:
        return evidence, ()
    evidence = _with_stable_seen(evidence, grown.get(plan.stable, {}))
    if look.counts_from is None or base < look.counts_from:
        return evidence, ()
    broken = serves_nothing(evidence, look.stable_ready)
    evidence = _counted(plan, evidence, grown, shares=base >= look.settled_from and lossless and not broken)
    if broken or look.weights.get(plan.stable, 0) == 0:
        requests, errors = _requests(_candidates(plan, grown))
        evidence = replace(evidence, alone=evidence.alone.update(errors, requests))
    if broken:
        return evidence, ()
    return _compared(plan, evidence, grown, look.weights)


def _restarted(evidence: Evidence, look: Look) -> bool:
    """Whether a source began to count anew or is gone: some requests of one version were then seen by nobody."""
    for name, state in evidence.counters.items():
        now = look.readings.get(name, {})
        for source, counters in (state.last or {}).items():
            if source not in now or any(now[source].get(series, 0.0) < value for series, value in counters.items()):
                return True
    return False


def serves_nothing(evidence: Evidence, stable_ready: bool) -> bool:
    """Whether the stable is broken: it has no ready replica, or fails every request."""
    return evidence.stable_failed or not stable_ready


def _with_edges(plan: ReleasePlan, evidence: Evidence, reading: Reading) -> Evidence:
    """Choose latency edges from what the stable has answered until now; what comes after is judged by them.

    The counters start anew then, since those of the edges were not kept before.
    """
    open_guards = [guard for guard in plan.guards if guard.kind == "latency" and guard.name not in evidence.tests]
    if not open_guards:
        return evidence
    total: dict[str, int] = {}
    for counters in reading.values():
        for edge, count in latency_counts({series: round(value) for series, value in counters.items()}).items():
            total[edge] = total.get(edge, 0) + count
    edges = _edges(total)
    if not edges:  # not enough answers yet: asked again at the next look
        return evidence
    chosen = {guard.name: LatencyTest.at(edges, margin=guard.margin, phi=plan.phi) for guard in open_guards}
    return replace(evidence, tests={**evidence.tests, **chosen}, counters={}, read=None)


def _edges(history: Mapping[str, int]) -> tuple[float, ...]:
    """Edges that part the answers; where all lie in one wide bucket, its upper edge. None while there are too few."""
    if history.get("+Inf", 0) < ENOUGH_TO_SEE:
        return ()
    buckets = Buckets.from_cumulative(history)
    if any(0 < count < buckets.total for count in buckets.counts):
        return choose_edges(buckets)
    full = [edge for edge, count in zip(buckets.edges, buckets.counts, strict=True) if count == buckets.total]
    return (full[0],) if full[0] < float("inf") else ()


def _advanced(plan: ReleasePlan, evidence: Evidence, look: Look, *, fresh: bool) -> tuple[Evidence, dict[str, Growth]]:
    """Take in the counters; how much each series of each deployment has grown."""
    wanted = _series(plan, evidence)
    states: dict[str, CounterState] = {} if fresh else dict(evidence.counters)
    grown: dict[str, Growth] = {}
    for name in plan.deployments:
        if name in look.readings:
            pruned = {
                source: {series: value for series, value in counters.items() if series in wanted}
                for source, counters in look.readings[name].items()
            }
            states[name], grown[name] = states.get(name, CounterState()).advanced(pruned)
    return replace(evidence, counters=states, read=look.time), grown


def _series(plan: ReleasePlan, evidence: Evidence) -> frozenset[str]:
    """The series that the tests need; the others would only make the state on the object larger."""
    wanted = {REQUESTS, ERRORS, ASSIGNMENTS}
    edges: set[float] = set()
    for guard in plan.guards:
        test = evidence.tests.get(guard.name)
        if isinstance(test, LatencyTest):
            edges |= set(test.edges)
        elif guard.slower_than is not None:
            edges.add(guard.slower_than)
        elif guard.kind in ("rate", "mean"):
            wanted |= {f"kpi/{guard.name}/{part}" for part in ("n", "events", "sum", "sum_squares")}
    if edges:
        wanted |= {latency_series(edge) for edge in (*edges, float("inf"))}
    return frozenset(wanted)


def _with_stable_seen(evidence: Evidence, growth: Growth) -> Evidence:
    requests, errors = _requests(growth)
    if requests < ENOUGH_TO_SEE:
        return evidence
    return replace(evidence, stable_failed=errors == requests)


def _counted(plan: ReleasePlan, evidence: Evidence, grown: Mapping[str, Growth], *, shares: bool) -> Evidence:
    requests = {name: _requests(growth)[0] for name, growth in grown.items()}
    summed = {name: evidence.requests.get(name, 0) + requests.get(name, 0) for name in {*evidence.requests, *requests}}
    step = evidence.step_requests + sum(requests.get(name, 0) for name in plan.candidates)
    ratio = evidence.ratio
    if ratio is not None and shares:
        # Requests that an arm's match or cookie brought were not dealt out by the weights; where the source can tell, they are left
        # out.
        told = any(ASSIGNMENTS in growth for growth in grown.values())
        dealt = {name: round(growth.get(ASSIGNMENTS, 0)) for name, growth in grown.items()} if told else requests
        ratio = ratio.update({name: dealt.get(name, 0) for name in ratio.shares})
    return replace(evidence, requests=dict(sorted(summed.items())), step_requests=step, ratio=ratio)


def _candidates(plan: ReleasePlan, grown: Mapping[str, Growth]) -> Growth:
    """The candidates' counts together."""
    summed: dict[str, float] = {}
    for name in plan.candidates:
        for series, value in grown.get(name, {}).items():
            summed[series] = summed.get(series, 0.0) + value
    return summed


def _requests(growth: Growth) -> tuple[int, int]:
    """Requests and errors; a scrape is no single instant, so errors may be a little ahead of requests."""
    requests = round(growth.get(REQUESTS, 0))
    return requests, min(requests, round(growth.get(ERRORS, 0)))


def _compared(
    plan: ReleasePlan, evidence: Evidence, grown: Mapping[str, Growth], weights: Mapping[str, float]
) -> tuple[Evidence, tuple[str, ...]]:
    """Feed every guard's test; the names of the guards without data."""
    candidate, stable = _candidates(plan, grown), grown.get(plan.stable, {})
    idle = not any(weights.get(name, 0) for name in plan.candidates), not weights.get(plan.stable, 0)
    tests = dict(evidence.tests)
    missing = []
    for guard in plan.guards:
        test = tests.get(guard.name)
        fed = None if test is None else _fed(guard, test, candidate, stable, idle)
        if fed is None:
            missing.append(guard.name)
        else:
            tests[guard.name] = fed
    return replace(evidence, tests=tests), tuple(missing)


def _fed(guard: GuardPlan, test: Test, candidate: Growth, stable: Growth, idle: tuple[bool, bool]) -> Test | None:
    """The test after an interval; None when its data are missing."""
    if isinstance(test, ObjectiveTest):
        counts = _slower(candidate, guard.slower_than, idle[0]) if guard.slower_than else _errors(candidate)
        return None if counts is None else test.update(*counts)
    if isinstance(test, LatencyTest):
        ours, theirs = (
            _histogram(growth, test.edges, its_idle) for growth, its_idle in ((candidate, idle[0]), (stable, idle[1]))
        )
        return None if ours is None or theirs is None else test.update(ours, theirs)
    if guard.kind == "errors":
        requests, errors = _requests(candidate)
        others, other_errors = _requests(stable)
        return test.update(errors, requests, other_errors, others) if isinstance(test, RateTest) else None
    kpis = [_kpi(growth, guard.name, its_idle) for growth, its_idle in ((candidate, idle[0]), (stable, idle[1]))]
    if kpis[0] is None or kpis[1] is None:
        return None
    if isinstance(test, RateTest):
        events = [_bad_events(kpi, guard) for kpi in kpis if kpi is not None]
        return test.update(*events[0], *events[1])
    try:
        moments = [
            Moments(count=round(kpi.n), total=kpi.total or 0.0, squares=kpi.squares or 0.0)
            for kpi in kpis
            if kpi is not None
        ]
    except InvalidInput:  # sums of two different instants: the interval can't be used
        return None
    return test.update(moments[0], moments[1])


def _errors(growth: Growth) -> tuple[int, int]:
    requests, errors = _requests(growth)
    return errors, requests


def _slower(growth: Growth, edge: float, idle: bool) -> tuple[int, int] | None:
    buckets = _histogram(growth, (edge,), idle)
    return None if buckets is None else (buckets.slower_than(edge), buckets.total)


def _histogram(growth: Growth, edges: tuple[float, ...], idle: bool) -> Buckets | None:
    """The histogram of an interval; None when the source has none, or none with these edges."""
    counts = latency_counts({series: round(value) for series, value in growth.items()})
    if not counts and idle:
        return Buckets(edges=(*edges, float("inf")), counts=(0,) * (len(edges) + 1))
    try:
        buckets = Buckets.from_cumulative(counts)
    except InvalidInput:
        return None
    return buckets if set(edges) <= set(buckets.edges) else None


def _kpi(growth: Growth, name: str, idle: bool) -> KpiCounts | None:
    found = kpi_counts(growth, name)
    if found is None and idle:
        return KpiCounts(n=0, events=0)
    return found


def _bad_events(kpi: KpiCounts, guard: GuardPlan) -> tuple[int, int]:
    n = round(kpi.n)
    events = min(n, round(kpi.events or 0))
    return (events if guard.worse == "higher" else n - events), n


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """Plain JSON values; ``evidence_from_json`` reads them back."""
    return {
        "counters": {name: state.last for name, state in evidence.counters.items()},
        "read": evidence.read.isoformat() if evidence.read else None,
        "tests": {name: test.to_json() for name, test in evidence.tests.items()},
        "alone": evidence.alone.to_json(),
        "ratio": evidence.ratio.to_json() if evidence.ratio else None,
        "requests": dict(evidence.requests),
        "step_requests": evidence.step_requests,
        "stable_failed": evidence.stable_failed,
    }


def evidence_from_json(data: Mapping[str, Any], plan: ReleasePlan) -> Evidence:
    """Read what ``evidence_to_json`` wrote.

    Raises:
        InvalidInput: It is of another version.
    """
    fields = ("counters", "read", "tests", "alone", "ratio", "requests", "step_requests", "stable_failed")
    state = read_fields(data, fields, kind="Evidence")
    kinds = {guard.name: _TESTS[guard.kind] for guard in plan.guards}
    return Evidence(
        counters={name: CounterState(last=last) for name, last in state["counters"].items()},
        read=datetime.fromisoformat(state["read"]) if state["read"] else None,
        tests={name: kinds[name].from_json(test) for name, test in state["tests"].items()},
        alone=ObjectiveTest.from_json(state["alone"]),
        ratio=SampleRatioTest.from_json(state["ratio"]) if state["ratio"] else None,
        requests=state["requests"],
        step_requests=state["step_requests"],
        stable_failed=state["stable_failed"],
    )


_TESTS: Mapping[str, type[RateTest] | type[LatencyTest] | type[MeanDifference] | type[ObjectiveTest]] = {
    "errors": RateTest,
    "rate": RateTest,
    "latency": LatencyTest,
    "mean": MeanDifference,
    "objective": ObjectiveTest,
}
