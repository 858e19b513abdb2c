"""What is known about a candidate so far: the guards' tests, fed by raw counters, interval by interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from mlflow_istio.core.analysis.counters import LAST_VALUES, CounterState, Reading
from mlflow_istio.core.analysis.guards import GuardTest
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, kpi_of
from mlflow_istio.core.analysis.proportion import ObjectiveTest
from mlflow_istio.core.analysis.sample_ratio import SampleRatioTest
from mlflow_istio.core.basics.stored import form, from_json, stored
from mlflow_istio.core.release.guards.base import TestSettings
from mlflow_istio.core.release.guards.counts import Growth, IntervalCounts, VersionCounts, histogram_of
from mlflow_istio.core.release.guards.table import GUARD_KINDS, kind_of, refused, said_by
from mlflow_istio.core.release.plan import COMPARABLE_LOADS, PHASE_UNKNOWN, GuardPlan, ReleasePlan
from mlflow_istio.errors import InvalidInput

ENOUGH_TO_SEE = 20
"""Requests of a stable in one interval from which on "every one failed" means that it serves nothing."""

OUTAGE = 0.9
"""Share of the candidate's requests that fails in an outage of what both need, while the stable fails every one."""

ENOUGH_OF_CONTROL = 100
"""Answers of a control, which begins with none, that tell how fast its version is: as many as a step asks of the candidate."""


def _read_tests(data: Mapping[str, Any], context: Mapping[str, Any]) -> Mapping[str, GuardTest]:
    """Tests are read knowing the ``plan``, whose guards say of which class they are."""
    kinds = {guard.name: kind_of(guard) for guard in context["plan"].guards}
    if unknown := sorted(data.keys() - kinds.keys()):
        raise InvalidInput(f"there is no guard '{unknown[0]}' in the plan")
    return {name: from_json(kinds[name].test, test) for name, test in data.items()}


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything measured.

    Attributes:
        counters: The last raw counters of each deployment.
        read: When they were read, in UTC; None while there are none.
        tests: Guard's name to its test; one that must see more of the stable's history has none yet.
        alone: The candidate's own errors in intervals in which the stable served nothing. Taken as independent, whatever the
            phase: nobody waits for blocks of time while all users depend on it.
        ratio: The test of the traffic's shares in the present weight period; None before there is one.
        requests: Requests counted, by deployment.
        step_requests: Of these, the candidate's in the present step.
        stable_failed: Whether every request of the stable failed when there were last enough to see.
        phase: The longest slow phase in seconds that the tests reckon with.
        control: Deployment that the candidate is compared with; empty: with the stable.
        loads: Whether a replica of each side had about as much to answer at the last look; None: not known, or not asked.
        gone: Deployment to the sources among its counters that the last complete reading did not have.
    """

    counters: Mapping[str, CounterState] = field(default_factory=dict, metadata=LAST_VALUES)
    read: datetime | None = None
    tests: Mapping[str, GuardTest] = field(default_factory=dict, metadata=stored(read=_read_tests))
    alone: ObjectiveTest
    ratio: SampleRatioTest | None = None
    requests: Mapping[str, int] = field(default_factory=dict)
    step_requests: int = 0
    stable_failed: bool = False
    phase: float = field(default=0.0, metadata=stored(sparse=True))
    control: str = field(default="", metadata=stored(sparse=True))
    loads: bool | None = field(default=None, metadata=stored(sparse=True))
    gone: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=stored(sparse=True))

    def rebased(self) -> Evidence:
        """The evidence without the last counters: what happened until the next reading counts for nothing."""
        return replace(self, counters={}, read=None, gone={})

    def reweighted(self, weights: Mapping[str, float]) -> Evidence:
        """The evidence at the start of a step.

        Args:
            weights: Deployment to percent of the live traffic.
        """
        ratio = SampleRatioTest.of(weights) if self.ratio is None else self.ratio.reweighted(weights)
        return replace(self, ratio=ratio, step_requests=0)


def no_evidence(plan: ReleasePlan, *, phase: float | None = None, control: str = "") -> Evidence:
    """The evidence of a release that has not begun.

    Args:
        plan: The plan.
        phase: The longest slow phase in seconds that the stable's history shows; None: nobody knows.
        control: Deployment that the candidate is compared with; empty: with the stable.
    """
    if plan.phase is not None:
        phase = plan.phase
    elif phase is None:
        phase = PHASE_UNKNOWN
    settings = _settings(plan, phase)
    started = {
        guard.name: said_by(guard, partial(kind_of(guard).start, guard, settings), refused(guard))
        for guard in plan.guards
    }
    tests = {name: test for name, test in started.items() if test is not None}
    alone = ObjectiveTest.of(0.0, limit=plan.alone_limit, overdispersion=plan.overdispersion)
    return Evidence(tests=tests, alone=alone, phase=phase, control=control)


def _settings(plan: ReleasePlan, phase: float) -> TestSettings:
    return TestSettings(
        overdispersion=plan.overdispersion, phase=phase, label_delay=plan.label_delay, warm_requests=plan.warm_requests
    )


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
        changed: When the weights changed last.
        replicas: Deployment to its ready replicas; empty where nobody knows: then loads count as comparable.
    """

    readings: Mapping[str, Reading]
    weights: Mapping[str, float]
    time: datetime
    counts_from: datetime | None
    settled_from: datetime
    stable_ready: bool = True
    changed: datetime | None = None
    replicas: Mapping[str, int] = field(default_factory=dict)


def counted_deployments(plan: ReleasePlan, evidence: Evidence) -> tuple[str, ...]:
    """Whose figures are read: the stable first, a control last."""
    return (*plan.deployments, *((evidence.control,) if evidence.control else ()))


def reference(plan: ReleasePlan, evidence: Evidence) -> str:
    """Whom the candidate is compared with."""
    return evidence.control or plan.stable


def taken_in(plan: ReleasePlan, evidence: Evidence, look: Look) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence after a look, and the names of what gave no data.

    An interval counts only if every deployment with traffic has data at its start and at its end: else one version's
    requests would be compared with none of the other's. Nothing is lost by it, since counters go on from the last
    complete reading.
    """
    evidence = _with_history(plan, evidence, look)
    broken = serves_nothing(evidence, look.stable_ready)
    old = {plan.stable, evidence.control}
    needed = [
        name
        for name in counted_deployments(plan, evidence)
        if look.weights.get(name, 0) > 0 and not (broken and name in old)
    ]
    silent = tuple(name for name in needed if name not in look.readings)
    if silent:
        return evidence, silent
    lossless = not _restarted(evidence, look)
    base = evidence.read if all(name in evidence.counters for name in needed) else None
    evidence, grown = _advanced(plan, evidence, look, fresh=base is None)
    if base is None:
        return evidence, ()
    evidence = _with_stable_seen(evidence, _together(old, grown))
    if look.counts_from is None or base < look.counts_from:
        return evidence, ()
    broken = serves_nothing(evidence, look.stable_ready)
    warm = sum(evidence.requests.get(name, 0) for name in plan.candidates) >= plan.warm_requests
    seconds = (look.time - base).total_seconds()
    doubted = _is_doubted(evidence)
    evidence = _counted(plan, evidence, grown, shares=base >= look.settled_from and lossless and not broken)
    if doubted and not _is_doubted(evidence):
        # What was counted while requests went elsewhere compares nothing: the tests begin anew with what comes now.
        tests = no_evidence(plan, phase=evidence.phase, control=evidence.control).tests
        return replace(evidence, tests=tests), ()
    other = reference(plan, evidence)
    if broken or look.weights.get(other, 0) == 0:
        alone = VersionCounts(growth=_together(plan.candidates, grown))
        # Where all that both answer fails, something failed that both need, and nothing is known of the candidate.
        outage = look.stable_ready and alone.errors >= OUTAGE * alone.requests and _failed(_together(old, grown))
        if not outage:
            evidence = replace(evidence, alone=evidence.alone.update(alone.errors, alone.requests, seconds=seconds))
    if broken:
        return evidence, ()
    candidates_idle = not any(look.weights.get(name, 0) for name in plan.candidates)
    evidence = replace(evidence, loads=None if plan.control is None else comparable_loads(plan, evidence, look))
    counts = IntervalCounts(
        candidate=VersionCounts(growth=_together(plan.candidates, grown), idle=candidates_idle),
        stable=VersionCounts(growth=_compared(plan, grown, other), idle=not look.weights.get(other, 0)),
        seconds=seconds,
        mixed=look.changed is not None and base < look.changed + timedelta(seconds=plan.label_delay),
        warm=warm,
        comparable=evidence.loads is not False,
    )
    return _tested(plan, evidence, counts)


def _is_doubted(evidence: Evidence) -> bool:
    return evidence.ratio is not None and evidence.ratio.mismatched()


def _restarted(evidence: Evidence, look: Look) -> bool:
    """Whether a source has begun to count anew, or has gone or come back since: some requests of one version were seen by nobody.

    One that stays away (a gateway's pod that was replaced) takes nothing from later intervals.
    """
    for name, state in evidence.counters.items():
        now, gone = look.readings.get(name, {}), evidence.gone.get(name, ())
        for source, counters in (state.last or {}).items():
            if (source in now) == (source in gone):
                return True
            if source in now and any(now[source].get(series, 0.0) < value for series, value in counters.items()):
                return True
    return False


def _gone(states: Mapping[str, CounterState], look: Look) -> dict[str, tuple[str, ...]]:
    """Deployment to the sources whose counters are known and not among the readings, where there are such."""
    known = {name: sorted((state.last or {}).keys() - look.readings.get(name, {})) for name, state in states.items()}
    return {name: tuple(sources) for name, sources in sorted(known.items()) if sources}


def serves_nothing(evidence: Evidence, stable_ready: bool) -> bool:
    """Whether the stable is broken: it has no ready replica, or fails every request."""
    return evidence.stable_failed or not stable_ready


def waiting_for_control(plan: ReleasePlan, evidence: Evidence) -> dict[str, str]:
    """Guards that begin when the control has answered enough, each with what a person is told of that: no data are missing."""
    answered = evidence.requests.get(evidence.control, 0)
    if not evidence.control or answered >= ENOUGH_OF_CONTROL:
        return {}
    waits = f"begins with the control's first {ENOUGH_OF_CONTROL} answers, {answered} so far"
    return {guard.name: f"{guard.name} ({waits})" for guard in plan.guards if guard.name not in evidence.tests}


def _with_history(plan: ReleasePlan, evidence: Evidence, look: Look) -> Evidence:
    """Start the tests that had to see first what has been answered until now; what comes after is judged by them.

    Beside a control it is the control's answers that they see: the stable may be so busy that no answer of the others comes near
    its own, and edges between those would part nothing. The counters start anew then, since the series of those tests were not
    kept before.
    """
    stable = look.readings.get(plan.stable, {})
    seen = stable
    if evidence.control:
        control = look.readings.get(evidence.control, {})
        seen = control if histogram_of(control).get("+Inf", 0) >= ENOUGH_OF_CONTROL else {}
    settings = _settings(plan, evidence.phase)
    ready: dict[str, GuardTest] = {}
    for guard in plan.guards:
        before = evidence.tests.get(guard.name)
        test = said_by(guard, partial(_learnt, guard, before, settings, seen, stable), partial(_as_before, before))
        if test is not None and test is not before:
            ready[guard.name] = test
    if not ready:  # not enough to see yet: asked again at the next look
        return evidence
    return replace(evidence.rebased(), tests={**evidence.tests, **ready})


def _learnt(
    guard: GuardPlan, before: GuardTest | None, settings: TestSettings, seen: Reading, stable: Reading
) -> GuardTest | None:
    """The guard's test with what it takes from the stable, before anything is judged."""
    kind = kind_of(guard)
    return kind.start_from(guard, settings, seen) if before is None else kind.learn(guard, before, stable)


def _as_before(before: GuardTest | None, _why: str) -> GuardTest | None:
    return before


def _advanced(plan: ReleasePlan, evidence: Evidence, look: Look, *, fresh: bool) -> tuple[Evidence, dict[str, Growth]]:
    """Take in the counters; how much each series of each deployment has grown."""
    wanted = _series(plan, evidence)
    states: dict[str, CounterState] = {} if fresh else dict(evidence.counters)
    grown: dict[str, Growth] = {}
    for name in counted_deployments(plan, evidence):
        if name in look.readings:
            pruned = {
                source: {series: value for series, value in counters.items() if series in wanted}
                for source, counters in look.readings[name].items()
            }
            states[name], grown[name] = states.get(name, CounterState()).advanced(pruned)
    return replace(evidence, counters=states, read=look.time, gone=_gone(states, look)), grown


def _series(plan: ReleasePlan, evidence: Evidence) -> frozenset[str]:
    """The series that the tests need; the others would only make the state on the object larger."""
    tested = [(guard, evidence.tests[guard.name]) for guard in plan.guards if guard.name in evidence.tests]
    return frozenset({REQUESTS, ERRORS, ASSIGNMENTS}).union(
        *(
            said_by(guard, partial(kind_of(guard).series, guard, test), lambda _why: frozenset())
            for guard, test in tested
        )
    )


def _with_stable_seen(evidence: Evidence, growth: Growth) -> Evidence:
    if VersionCounts(growth=growth).requests < ENOUGH_TO_SEE:
        return evidence
    return replace(evidence, stable_failed=_failed(growth))


def _failed(growth: Growth) -> bool:
    counts = VersionCounts(growth=growth)
    return ENOUGH_TO_SEE <= counts.requests == counts.errors


def _counted(plan: ReleasePlan, evidence: Evidence, grown: Mapping[str, Growth], *, shares: bool) -> Evidence:
    requests = {name: VersionCounts(growth=growth).requests for name, growth in grown.items()}
    summed = {name: evidence.requests.get(name, 0) + requests.get(name, 0) for name in {*evidence.requests, *requests}}
    step = evidence.step_requests + sum(requests.get(name, 0) for name in plan.candidates)
    ratio = evidence.ratio
    if ratio is not None and shares:
        # Requests that an arm's match or cookie brought were not dealt out by the weights; where the source can tell, they are left
        # out.
        told = any(ASSIGNMENTS in growth for growth in grown.values())
        dealt = {name: round(growth.get(ASSIGNMENTS, 0)) for name, growth in grown.items()} if told else requests
        ratio = ratio.update({name: dealt.get(name, 0) for name in ratio.shares}).watched()
    return replace(evidence, requests=dict(sorted(summed.items())), step_requests=step, ratio=ratio)


def comparable_loads(plan: ReleasePlan, evidence: Evidence, look: Look) -> bool | None:
    """Whether a replica of the candidate has about as much to answer as one of those it is compared with.

    Against a control it must be as much, which is what a control is for. None where it isn't known how many replicas there are.
    """
    if len(plan.candidates) > 1:
        return None
    other = reference(plan, evidence)
    weights = [look.weights.get(name, 0) for name in (plan.candidate, other)]
    if not look.replicas:
        return weights[0] == weights[1] if evidence.control else None
    replicas = [look.replicas.get(name, 0) for name in (plan.candidate, other)]
    if 0 in replicas or 0 in weights:
        return None  # nothing is compared, or whoever is not ready is seen elsewhere
    loads = [weight / number for weight, number in zip(weights, replicas, strict=True)]
    return max(loads) <= (1 if evidence.control else COMPARABLE_LOADS) * min(loads)


def _compared(plan: ReleasePlan, grown: Mapping[str, Growth], other: str) -> Growth:
    """The counts of what the candidate is compared with.

    A control runs the stable's version, so whoever counts a KPI by version counts its users as the stable's and knows nothing of
    it by its own name: then the stable's numbers of that KPI are those of the version.
    """
    growth = grown.get(other, {})
    if other == plan.stable:
        return growth
    lacking = {kpi for series in grown.get(plan.stable, {}) if (kpi := kpi_of(series))}
    lacking -= {kpi_of(series) for series in growth}
    return {
        **growth,
        **{series: value for series, value in grown.get(plan.stable, {}).items() if kpi_of(series) in lacking},
    }


def _together(names: Iterable[str], grown: Mapping[str, Growth]) -> Growth:
    """The counts of several deployments together."""
    summed: dict[str, float] = {}
    for name in names:
        for series, value in grown.get(name, {}).items():
            summed[series] = summed.get(series, 0.0) + value
    return summed


def _tested(plan: ReleasePlan, evidence: Evidence, counts: IntervalCounts) -> tuple[Evidence, tuple[str, ...]]:
    """Let every guard's test take in an interval; the names of the guards without data."""
    tests = dict(evidence.tests)
    missing = []
    for guard in plan.guards:
        test = tests.get(guard.name)
        updated, why = said_by(guard, partial(_updated, guard, test, counts), lambda why: (None, why))
        if updated is not None:
            tests[guard.name] = updated
        waits = test is None and guard.streams  # nobody may ever ask for a stream
        if not waits and why is not None:
            missing.append(f"{guard.name}: {why}" if why else guard.name)
    return replace(evidence, tests=tests), tuple(missing)


def _updated(guard: GuardPlan, test: GuardTest | None, counts: IntervalCounts) -> tuple[GuardTest | None, str | None]:
    """The test after an interval, and why it has no data: empty where there are none, None where it has."""
    updated = None if test is None else kind_of(guard).update(guard, test, counts)
    if updated is None or kind_of(guard).lacks_data(updated):
        return updated, ""
    if guard.kind not in GUARD_KINDS and not isinstance(updated, kind_of(guard).test):
        raise TypeError(f"update returned {type(updated).__name__}, not {kind_of(guard).test.__name__}")
    if guard.kind not in GUARD_KINDS and math.isnan(updated.log_e_value):
        raise ValueError("its evidence is not a number")
    return updated, None
