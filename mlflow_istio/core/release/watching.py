r"""After a promotion: has the version turned worse since? Purely from where the watch stands and one look, like ``advance``.

**A change that comes later.** A test that goes on from the release is deaf: an hour of good data must first be outweighed by bad
ones. So the watch starts anew, and does so again and again: with each of `K` windows of equal length a fresh test of the
release's own kind begins, which lives for two windows. Whenever the version turns bad, a test that begins at most a window
later sees nothing else, for two windows. That is the e-detector of Shin, Ramdas & Rinaldo (2024, E-detectors: a nonparametric
framework for sequential change detection, New England J. Stat. Data Sci. 2, arXiv 2203.03532), evidence restarted and combined
over its starting times, thinned to `K` of them. Their detectors never end, and promise how long it takes from one false alarm to
the next. Here the end is known, so each test has its share of alpha (a union bound, as over guards: blocks are martingales each
in a filtration of its own): **the probability that a version that stays within every margin is ever taken back by its watch is at
most alpha**, as far as each test keeps its own (`blocks`).

**Unequal loads.** The holdback has a small share of the traffic, so its replicas may be faster for that alone. Slow answers are
therefore judged against the watch's own beginning: the first test shows how the odds stand (the upper end of what is proven of
them, which has `CALIBRATION` of alpha), and later odds may be `margin` times that. Until it is known, only odds above 10 count, and
gross failure. Errors and KPIs don't depend on the load as long as nobody is overloaded, and keep their margins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from mlflow_istio.core.analysis.guards import combine
from mlflow_istio.core.analysis.interval import finite
from mlflow_istio.core.analysis.promotion import about
from mlflow_istio.core.analysis.rate_test import LARGEST_MARGIN
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.release.advance import Action, Observation, Promote, RollBack, Shift, Wait
from mlflow_istio.core.release.evidence import Evidence, Look, no_evidence, serves_nothing, taken_in
from mlflow_istio.core.release.judgement import brief, guards_of
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import Progress, WatchState

MOST_WINDOWS = 8
"""More tests find a change earlier, and each must then be surer: alpha is shared among them."""

WINDOW_BLOCKS = 12
"""A window is at least so many slow phases (or looks) long: a test needs eight blocks that all say the same."""

CALIBRATION = 0.2
"""The share of alpha that belongs to what the beginning shows of slow answers, where a guard watches them."""

BY_LOAD = "latency"
"""The kind of guard that a lighter load looks good to."""


def windows(plan: ReleasePlan, phase: float) -> int:
    """How many tests begin in a watch.

    Args:
        plan: The plan.
        phase: The longest slow phase in seconds that the tests reckon with.
    """
    shortest = max(plan.watch / MOST_WINDOWS, WINDOW_BLOCKS * max(phase, plan.interval))
    return max(1, int(plan.watch / shortest + 1e-9))


def alpha_share(progress: Progress) -> float:
    """The error probability of one of the watch's tests."""
    calibrated = CALIBRATION if progress.watch is not None and progress.watch.margins else 0.0
    return (1 - calibrated) * progress.plan.alpha / windows(progress.plan, progress.evidence.phase)


def begun(progress: Progress, now: datetime) -> Progress:
    """The progress at the promotion: nothing that was measured before counts any more."""
    state = WatchState(margins={guard.name: LARGEST_MARGIN for guard in progress.plan.guards if guard.kind == BY_LOAD})
    fresh = no_evidence(_judged_by(progress.plan, state.margins), phase=progress.evidence.phase)
    return replace(progress, since=now, evidence=fresh, watch=state, missing_since=None, question=None)


def ends_at(progress: Progress) -> datetime:
    """When the watch is over; pauses move it on."""
    return progress.since + timedelta(seconds=progress.plan.watch)


def swept_at(progress: Progress) -> datetime:
    """When somebody else ends a watch whose driver did not: its lease has run out by then."""
    return ends_at(progress) + timedelta(seconds=2 * progress.plan.heartbeat)


def watched(progress: Progress, seen: Observation, now: datetime) -> tuple[Progress, Action]:
    """Take in one look at a promoted version and say what to do; as repeatable as ``advance``.

    Args:
        progress: Where the release stands, its watch begun.
        seen: The look.
        now: The time in UTC.

    Returns:
        Where it stands then, and the action: ``Promote`` ends the watch well, ``RollBack`` goes back.
    """
    progress = replace(progress, looks=progress.looks + 1)
    if seen.paused:
        paused = replace(_rebased(progress), paused_since=progress.paused_since or now)
        return _held(paused, "Paused; 'mlflow-istio resume' goes on.")
    if progress.paused_since is not None:
        pause = now - progress.paused_since
        progress = replace(progress, paused_since=None, started=progress.started + pause, since=progress.since + pause)
    plan = progress.plan
    if not seen.weights.get(plan.candidate, 0) or seen.weights.get(plan.stable, 0) != plan.holdback:
        if now >= ends_at(progress):
            verdict = Verdict(word="advance", reason="The watch is over, and somebody keeps changing its traffic.")
            return _with(progress, verdict), Promote(verdict=verdict, candidate=plan.candidate)
        verdict = Verdict(word="hold", reason=f"The traffic is not the watch's: {plan.holdback}% are held back again.")
        return _with(_rebased(progress), verdict), Shift(verdict=verdict, weight=progress.weight)
    progress, missing = _looked(_in_window(progress, now), seen, now)
    worse = _worse(progress) or _blind(progress, missing, now)
    broken = serves_nothing(progress.evidence, seen.stable_ready)
    if worse is not None:
        if not seen.stable_ready:
            return _held(progress, f"{worse.reason} But '{plan.stable}' has no ready replica to go back to.")
        return _with(progress, worse), RollBack(verdict=worse)
    if broken or now >= ends_at(progress):
        verdict = Verdict(word="advance", reason=_well(progress, broken=broken))
        return _with(progress, verdict), Promote(verdict=verdict, candidate=plan.candidate)
    left = about((ends_at(progress) - now).total_seconds())
    waiting = f"; no data from {', '.join(missing)}" if missing else ""
    return _held(progress, f"Watching '{plan.candidate}' for about {left} more{waiting}.")


def _in_window(progress: Progress, now: datetime) -> Progress:
    """The progress whose tests are those of the present window."""
    plan, state = progress.plan, progress.watch or WatchState()
    count = windows(plan, progress.evidence.phase)
    index = min(int((now - progress.since).total_seconds() / (plan.watch / count)), count - 1)
    if index <= state.window:
        return progress
    first = state.window < 2  # the older test is still the first one: its interval holds at each of these times
    margins = _calibrated(plan, progress.evidence, state.margins) if first else state.margins
    fresh = no_evidence(_judged_by(plan, margins), phase=progress.evidence.phase)
    if index > state.window + 1:  # nobody looked for a whole window
        return replace(progress, evidence=fresh, watch=WatchState(window=index, margins=margins))
    older = state.newer or progress.evidence
    return replace(progress, evidence=older, watch=WatchState(window=index, newer=fresh, margins=margins))


def _calibrated(plan: ReleasePlan, evidence: Evidence, margins: Mapping[str, float]) -> Mapping[str, float]:
    """Each margin of slow answers that isn't known yet, if the odds so far are: they times what the plan accepts."""
    calibrated = dict(margins)
    for guard in plan.guards:
        test = evidence.tests.get(guard.name)
        if test is None or calibrated.get(guard.name) != LARGEST_MARGIN:
            continue
        odds = test.proven(CALIBRATION * plan.alpha / len(margins))
        if odds is not None:
            calibrated[guard.name] = min(LARGEST_MARGIN, guard.margin * max(1.0, odds.upper))
    return calibrated


def _judged_by(plan: ReleasePlan, margins: Mapping[str, float]) -> ReleasePlan:
    """The plan with these margins; the promoted version is warm."""
    guards = tuple(replace(guard, margin=margins.get(guard.name, guard.margin)) for guard in plan.guards)
    return replace(plan, guards=guards, warm_requests=0, warmup=0.0)


def _looked(progress: Progress, seen: Observation, now: datetime) -> tuple[Progress, tuple[str, ...]]:
    """Let both tests take in the look; what gave no data."""
    state = progress.watch or WatchState()
    plan = _judged_by(progress.plan, state.margins)
    look = Look(
        readings=seen.readings,
        weights={name: seen.weights.get(name, 0) for name in plan.deployments},
        time=now,
        counts_from=progress.since,
        settled_from=now + timedelta(days=1),  # shares are not checked: nobody randomises who stays
        stable_ready=seen.stable_ready,
        changed=progress.since,
    )
    evidence, missing = taken_in(plan, progress.evidence, look)
    newer = None if state.newer is None else taken_in(plan, state.newer, look)[0]
    if seen.unavailable:
        missing = (seen.unavailable,)
    since = None if not missing else progress.missing_since or now
    return replace(progress, evidence=evidence, watch=replace(state, newer=newer), missing_since=since), missing


def _worse(progress: Progress) -> Verdict | None:
    """The verdict of the test that has enough evidence, if one has."""
    plan, share = progress.plan, alpha_share(progress)
    newer = progress.watch.newer if progress.watch else None
    for evidence in (progress.evidence, *([newer] if newer is not None else ())):
        if not combine(guards_of(plan, evidence, figures=False)).reaches(share):
            continue
        guards = guards_of(plan, evidence)
        combined = combine(guards)
        leading = combined.leading
        reason = (
            f"'{plan.candidate}' is worse since its promotion: {leading.name}, {leading.summary or 'see the evidence'}."
        )
        if math.isfinite(combined.log_e):
            reason += f" Were it not, such evidence would be seen in at most {100 * plan.alpha:g}% of watches."
        return Verdict(
            word="rollback",
            reason=reason,
            evidence={
                "alpha": share,
                "log_e": finite(combined.log_e),
                "guards": {
                    guard.name: {"log_e": finite(guard.log_e), "weight": guard.weight, **guard.figures}
                    for guard in guards
                },
            },
        )
    return None


def _blind(progress: Progress, missing: tuple[str, ...], now: datetime) -> Verdict | None:
    """What the plan makes of data that are missing for too long."""
    plan, since = progress.plan, progress.missing_since
    if not missing or since is None or plan.no_data == "hold" or (now - since).total_seconds() < plan.hold:
        return None
    return Verdict(word="rollback", reason=f"No data from {', '.join(missing)} while '{plan.candidate}' was watched.")


def _well(progress: Progress, *, broken: bool) -> str:
    plan, evidence = progress.plan, progress.evidence
    if broken:
        return f"'{plan.stable}' serves nothing any more, so there is nothing to compare with: its users go to '{plan.candidate}'."
    mine, others = (evidence.requests.get(name, 0) for name in (plan.candidate, plan.stable))
    if not (mine and others):
        return f"The watch is over; its last test saw no requests to compare ({mine:,} and {others:,})."
    return (
        f"The watch is over: nothing speaks against '{plan.candidate}' (of late {mine:,} requests against {others:,})."
    )


def _rebased(progress: Progress) -> Progress:
    state = progress.watch
    newer = state.newer.rebased() if state and state.newer else None
    return replace(
        progress,
        evidence=progress.evidence.rebased(),
        watch=replace(state, newer=newer) if state else None,
    )


def _held(progress: Progress, reason: str) -> tuple[Progress, Action]:
    verdict = Verdict(word="hold", reason=reason)
    return _with(progress, verdict), Wait(verdict=verdict)


def _with(progress: Progress, verdict: Verdict) -> Progress:
    return replace(progress, verdict=brief(verdict))
