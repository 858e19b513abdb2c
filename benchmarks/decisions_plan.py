"""The whole default plan on many runs at once: warm-up, ramp, guards, gross failure, proof, held to the engine by a unit test.

What is left out, all on the side that makes our figures worse: the exact e-process must agree with the blocks before a rollback,
and its interval widens theirs; the check of the traffic's shares holds a promotion in at most 1% of the releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions_blocks import ABOVE, BELOW, INSIDE, ManyBlocks
from benchmarks.decisions_families import (
    COLD,
    COLD_REQUESTS,
    LOOK,
    Family,
    incident_looks,
    load_factors,
    requests_per_look,
    shares_in_phases,
    with_odds,
)
from mlflow_istio.core.analysis.gross import ENOUGH, FAILING, IN_A_ROW, SOUND
from mlflow_istio.core.analysis.rate_test import DIFFERENCE, ODDS
from mlflow_istio.core.release.judgement import ALONE_SHARE
from mlflow_istio.core.release.plan import PHASE_UNKNOWN
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions
from mlflow_istio.options.release_plan import plan_against

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RELEASE = plan_against(parse_options(ReleaseOptions, {}, cluster="istio", environment=False), "stable", ("candidate",))
"""What a release does for which nothing is said."""

ALPHA = RELEASE.alpha
TESTS = 4
"""Errors, and three edges."""

EDGES = 3
GUARDS = ("errors", "latency", "gross")
_GUARDS = {guard.name: guard for guard in RELEASE.guards}
MARGINS = np.array([_GUARDS["errors"].margin] + [_GUARDS["latency"].margin] * EDGES)
NEVER = 10**9


def thresholds() -> Floats:
    """Return the log evidence at which each test rolls back by itself: its guard's share of alpha, an edge's third of it."""
    total = sum(guard.weight for guard in RELEASE.guards) * (1 + ALONE_SHARE)
    errors, latency = (np.log(total / _GUARDS[name].weight / ALPHA) for name in GUARDS[:2])
    return np.array([errors] + [latency + np.log(EDGES)] * EDGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is said of a release.

    Attributes:
        steps: The candidate's percents.
        allowed_odds: The odds ratio that must be disproven.
        allowed_differences: Differences of rates, of errors and of latency, that are enough instead; None: none is.
        warm_requests: The candidate's counted requests before its latency counts.
    """

    steps: tuple[float, ...] = RELEASE.steps
    allowed_odds: float = _GUARDS["errors"].allowed.odds_ratio or 0.0
    allowed_differences: tuple[float, float] | None = (
        _GUARDS["errors"].allowed.rate_difference or 0.0,
        _GUARDS["latency"].allowed.rate_difference or 0.0,
    )
    warm_requests: int = RELEASE.warm_requests


DEFAULT = Plan()


@dataclass(frozen=True, kw_only=True, slots=True)
class LookCounts:
    """What one interval brought, for every run.

    Attributes:
        share: The candidate's share of the traffic.
        mine: The candidate's requests, shape (runs,).
        events: Its errors, and answers slower than each edge, shape (runs, 4).
        others: The stable's requests.
        other_events: The stable's events.
    """

    share: Floats
    mine: Counts
    events: Counts
    others: Counts
    other_events: Counts


@dataclass(kw_only=True)
class Outcome:
    """When what happened first in each run, in looks from 1; `NEVER`.

    Attributes:
        alarms: Of each guard, shape (runs, 3).
        missed: That the interval proven of a guard excludes the truth, shape (runs, 2).
        promoted: That everything was proven while nothing was called worse.
        stated: Whether the odds of errors stated at the promotion exclude the truth.
        answered: The candidate's counted requests until the first alarm.
        recorded: The counts of the first looks, from look 2.
    """

    alarms: Counts
    missed: Counts
    promoted: Counts
    stated: NDArray[np.bool_]
    answered: Counts
    recorded: list[LookCounts] = field(default_factory=list)

    @property
    def rolled_back(self) -> Counts:
        """The first alarm of any guard."""
        return np.asarray(self.alarms.min(axis=1))


def simulate(
    family: Family,
    runs: int,
    looks: int,
    rng: np.random.Generator,
    *,
    plan: Plan = DEFAULT,
    odds: Floats | None = None,
    until_decided: bool = False,
    record: int = 0,
) -> Outcome:
    """Run releases of a version whose odds are so many times the stable's.

    Args:
        family: The traffic.
        runs: How many releases.
        looks: How long, at the last step after the ramp, decided or not.
        rng: Where chance comes from.
        plan: What is said of the release.
        odds: Of errors and each edge, shape (4,); None: an equal version.
        until_decided: Whether to stop when every release is rolled back or promoted.
        record: So many first looks whose counts are kept.
    """
    truth = np.ones(TESTS) if odds is None else odds
    shares = [shares_in_phases(rng, runs, looks, family, replicas) for replicas in family.compared]
    factors = incident_looks(looks) if family.incidents else np.ones(looks)
    release = _Releases(plan, runs, truth)
    for number in range(2, looks + 1):  # the stable has all the traffic until look 1
        share = release.share
        total = rng.poisson(requests_per_look(family, number), runs)
        mine = rng.binomial(total, share)
        others = total - mine
        if family.control:  # who has the candidate's share, or what is left of it
            others = rng.binomial(others, np.minimum(share / (1 - share), 1.0))
        sides = []
        for side, requests in enumerate((mine, others)):
            inside = shares[side][number - 1][:, None].astype(np.float64)
            rates = family.calm + (family.phase - family.calm) * inside
            if family.cold and side == 0:
                cold = np.clip((COLD_REQUESTS - release.answered) / np.maximum(requests, 1), 0.0, 1.0)[:, None]
                rates = rates + (COLD - rates) * cold
            if family.incidents and factors[number - 1] != 1:
                rates = with_odds(rates, factors[number - 1])
            if family.load != 1:
                rates[:, 1:] = with_odds(rates[:, 1:], load_factors(family, share)[side][:, None])
            if side == 0 and odds is not None:
                rates = with_odds(rates, truth)
            sides.append(_events(rng, requests, rates))
        counts = LookCounts(share=share, mine=mine, events=sides[0], others=others, other_events=sides[1])
        release.look(number, counts)
        if number <= record:
            release.outcome.recorded.append(counts)
        if until_decided and release.decided:
            break
    return release.outcome


def _events(rng: np.random.Generator, requests: Counts, rates: Floats) -> Counts:
    """Errors, and answers slower than each edge: those over a farther edge are some of those over a nearer one."""
    counts = np.empty((len(requests), TESTS), dtype=np.int64)
    counts[:, 0] = rng.binomial(requests, rates[:, 0])
    counts[:, 1] = rng.binomial(requests, rates[:, 1])
    for edge in (2, 3):
        counts[:, edge] = rng.binomial(counts[:, edge - 1], rates[:, edge] / rates[:, edge - 1])
    return counts


class _Releases:
    """Where every run stands."""

    def __init__(self, plan: Plan, runs: int, truth: Floats) -> None:
        self.plan = plan
        self.truth = truth
        self.blocks = ManyBlocks(runs * TESTS, PHASE_UNKNOWN)
        self.step = np.zeros(runs, dtype=np.int64)
        self.since = np.ones(runs, dtype=np.int64)  # look 1 gives the first step its weight
        self.step_requests = np.zeros(runs, dtype=np.int64)
        self.counted = np.zeros(runs, dtype=np.int64)
        self.answered = np.zeros(runs, dtype=np.int64)
        self.failing = np.zeros(runs, dtype=np.int64)
        self.gathered = np.zeros((4, runs), dtype=np.int64)
        self.steps = np.asarray(plan.steps) / 100
        self.limits = thresholds()
        never = np.full(runs, NEVER)
        self.outcome = Outcome(
            alarms=np.full((runs, len(GUARDS)), NEVER),
            missed=np.full((runs, 2), NEVER),
            promoted=never.copy(),
            stated=np.zeros(runs, dtype=np.bool_),
            answered=never.copy(),
        )

    @property
    def share(self) -> Floats:
        """The candidate's share of the traffic."""
        return np.asarray(self.steps[self.step])

    @property
    def decided(self) -> bool:
        """Whether every release has ended."""
        return bool((np.minimum(self.outcome.rolled_back, self.outcome.promoted) < NEVER).all())

    def look(self, number: int, counts: LookCounts) -> None:
        """Take in the counts of the interval that ends at this look, and judge."""
        mine, events, others, other_events = counts.mine, counts.events, counts.others, counts.other_events
        runs, plan = len(mine), self.plan
        self.answered += mine
        warm = self.counted >= plan.warm_requests
        if (number - 2) * LOOK >= RELEASE.warmup:
            self.counted += mine
            self.step_requests += mine
            size = np.maximum(mine + others, 1)[:, None]
            rows = np.stack(
                [
                    events * (others[:, None] - other_events) / size,
                    other_events * (mine[:, None] - events) / size,
                    np.broadcast_to(mine[:, None] * others[:, None] / size, (runs, TESTS)),
                ],
                axis=2,
            )
            takes = np.repeat(warm[:, None], TESTS, axis=1)
            takes[:, 0] = True
            self.blocks.update(rows.reshape(-1, 3), LOOK, takes.ravel())
            self._gross(np.stack([events[:, 0], mine, other_events[:, 0], others]))
        self._judge(number)

    def _gross(self, counts: Counts) -> None:
        """Errors alone: no family comes near half its answers being ten times slower than the median."""
        failed, mine, others_failed, others = gathered = self.gathered + counts
        bad = (failed >= FAILING * mine) & (others_failed < SOUND * others)
        enough = mine >= ENOUGH
        self.failing = np.where(enough, np.where(bad, self.failing + 1, 0), self.failing)
        self.gathered = np.where(enough, 0, gathered)

    def _judge(self, number: int) -> None:
        runs, outcome = len(self.step), self.outcome
        limits = np.tile(self.limits, runs)
        evidence = self.blocks.log_evidence(np.tile(MARGINS, runs), limits).reshape(runs, TESTS)
        over = evidence >= self.limits
        fired = np.stack([over[:, 0], over[:, 1:].any(axis=1), self.failing >= IN_A_ROW], axis=1)
        first = fired.any(axis=1) & (outcome.rolled_back == NEVER)
        outcome.answered[first] = self.counted[first]
        outcome.alarms[fired & (outcome.alarms == NEVER)] = number
        if (self.truth == 1).all():
            self._check_coverage(number)
        complete = ((number - self.since) * LOOK >= RELEASE.hold) & (self.step_requests >= RELEASE.min_requests)
        last = self.step == len(self.steps) - 1
        self._promote(number, complete & last & (outcome.rolled_back == NEVER) & (outcome.promoted == NEVER))
        stepped = complete & ~last
        self.step += stepped
        self.since[stepped] = number
        self.step_requests[stepped] = 0

    def _check_coverage(self, number: int) -> None:
        """The truth is 1; two kinds of proof are accepted by default, so an interval has half of its guard's alpha.

        Latency is never called better, so its interval can only exclude 1 from above; it holds that of every edge.
        """
        runs = len(self.step)
        kinds = 1 if self.plan.allowed_differences is None else 2
        sides = self.blocks.side(1.0, ALPHA / 2 / kinds, **ODDS).reshape(runs, TESTS)
        wrong = sides[:, 0] != INSIDE
        hull = (sides[:, 1:] == ABOVE).all(axis=1)
        missed = np.stack([wrong, hull], axis=1)
        self.outcome.missed[missed & (self.outcome.missed == NEVER)] = number

    def _promote(self, number: int, may: NDArray[np.bool_]) -> None:
        if not may.any():
            return
        runs, plan = len(may), self.plan
        kinds = 1 if plan.allowed_differences is None else 2
        alpha = ALPHA / 2 / kinds
        met = self.blocks.side(plan.allowed_odds, alpha, **ODDS).reshape(runs, TESTS) == BELOW
        if plan.allowed_differences is not None:
            for tests, allowed in (
                (slice(0, 1), plan.allowed_differences[0]),
                (slice(1, None), plan.allowed_differences[1]),
            ):
                below = self.blocks.side(allowed, alpha, **DIFFERENCE).reshape(runs, TESTS) == BELOW
                met[:, tests] |= below[:, tests]
        done = may & met.all(axis=1)
        if not done.any():
            return
        self.outcome.promoted[done] = number
        if (self.truth == 1).all():
            stated = self.blocks.side(1.0, alpha, **ODDS).reshape(runs, TESTS)[:, 0] == BELOW
            self.outcome.stated |= done & stated
