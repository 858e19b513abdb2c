"""Is an event (an error, a slow answer) more frequent on the candidate than on the stable?"""

import operator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mlflow_istio.core.analysis.betting import ALTERNATIVES, LATE, Floats, bet, log_evidence, opening_stake
from mlflow_istio.core.analysis.blocks import Blocks
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, percent, share
from mlflow_istio.core.analysis.hypergeometric import log_normaliser
from mlflow_istio.core.analysis.interval import Interval, check_alpha, check_counts, check_overdispersion, finite
from mlflow_istio.core.analysis.log_likelihood import NODE_POINTS, NODES, LogLikelihood, interpolation_matrix
from mlflow_istio.core.analysis.packing import PACKED
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound, nearest_bound
from mlflow_istio.core.analysis.proportion import Proportion
from mlflow_istio.core.basics.stored import stored, to_json
from mlflow_istio.errors import InvalidInput

LARGEST_MARGIN = 10.0
"""Margins from 1/10 to 10 keep every alternative inside the range of `log_likelihood`."""

DRIFT_ASSUMPTION = (
    "Each version's own rate is taken as constant over the release; a shared change of rates widens or shifts the "
    "difference. The odds ratio doesn't need this."
)


ODDS = {"a": (1.0, 0.0, 0.0), "b": (0.0, 1.0, 0.0)}
"""How a block's row makes up the estimating function of the odds ratio."""

DIFFERENCE = {"a": (1.0, -1.0, 0.0), "b": (0.0, 0.0, 1.0)}
"""Of the difference of rates."""

EACH_LOOK = 1e-6
"""A stratum that is each interval, and may have events of one before."""

NOTHING_OPEN = (0, 0, 0, 0)

_LATER = stored(sparse=True)
"""``metadata`` of a field that the versions before did not store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTest(GuardTest):
    """A stratified, anytime-valid test that the candidate's odds of an event exceed `margin` times the stable's.

    Start with `RateTest.of(phase)`, then `test = test.update(...)` once per poll interval. Each interval is its own stratum:
    only the split of its events between the versions counts, so a weight ramp or an incident that hits both versions
    is no evidence. Look as often as you like.

    Two opinions must agree, if there are `blocks`: the exact e-process of independent requests, right for few events, and the
    t-test over blocks of time (see `blocks`), right for requests that are not independent. Without, only the first is asked.

    Attributes:
        margin: The odds ratio that is still acceptable, 0.1 to 10. 1 tests "worse at all".
        overdispersion: That of independent bursts, >= 1: the log-likelihood is divided by it. For experts: nobody knows it
            beforehand, and blocks need none.
        late: The share of the stake kept for a candidate that turns bad later, 0 to 0.9 (see `betting`).
        stratum: Seconds of one stratum; 0: each interval is one, with no more events than requests. Where events come later
            than what they are of, it must be as long as they may take; `EACH_LOOK` where they come but a moment later.
        blocks: Mantel-Haenszel sums over blocks of time: of x_c (n_b - x_b)/N, of x_b (n_c - x_c)/N, and of n_c n_b/N, the
            last their weight. None: requests are independent.
        candidate_events: Events on the candidate so far.
        candidate_total: Requests of the candidate so far.
        stable_events: Events on the stable so far.
        stable_total: Requests of the stable so far.
        intervals: Strata so far whose split could carry information.
        curve: The summed log-normaliser at `log_likelihood.NODE_POINTS`.
        stake: The log stake on each of `evidence.ALTERNATIVES`; empty before the first informative stratum.
        adjusted: Sums over strata of n_b x_c/N, of n_c x_b/N and of n_c n_b/N: the rates of both as if they had had the same
            traffic in each stratum.
        open: Counts of the stratum that isn't complete: candidate's events and total, stable's events and total. Events beyond
            the total are of a stratum before, and go on to the next one, so that sums stay right.
        open_seconds: How long it has lasted.
        aside: Events of the candidate in intervals that are in the totals and in no stratum.
        inverted: Whether what is counted is what did not happen (not bought): figures and sentences speak of what did.
    """

    margin: float = 1.0
    overdispersion: float = field(default=1.0, metadata=stored(name="phi"))
    late: float = LATE
    stratum: float = field(default=0.0, metadata=_LATER)
    blocks: Blocks | None = field(default=None, metadata=_LATER)
    candidate_events: int = field(default=0, metadata=stored(name="candidate", place=0))
    candidate_total: int = field(default=0, metadata=stored(name="candidate", place=1))
    stable_events: int = field(default=0, metadata=stored(name="stable", place=0))
    stable_total: int = field(default=0, metadata=stored(name="stable", place=1))
    intervals: int = 0
    curve: tuple[float, ...] = field(default=(0.0,) * NODES, metadata=PACKED)
    stake: tuple[float, ...] = field(default=(), metadata=PACKED)
    adjusted: tuple[float, ...] = field(default=(0.0, 0.0, 0.0), metadata=_LATER)
    open: tuple[int, ...] = field(default=NOTHING_OPEN, metadata=_LATER)
    open_seconds: float = field(default=0.0, metadata=_LATER)
    aside: int = field(default=0, metadata=_LATER)
    inverted: bool = field(default=False, metadata=_LATER)

    def __post_init__(self) -> None:
        if not 1 / LARGEST_MARGIN <= self.margin <= LARGEST_MARGIN:
            raise InvalidInput(f"margin is an odds ratio from 0.1 to 10, got {self.margin}")
        check_overdispersion(self.overdispersion)
        if not 0 <= self.late <= 0.9:
            raise InvalidInput(f"late (the share of the stake kept for later) must be from 0 to 0.9, got {self.late}")
        sizes = {
            "curve": (len(self.curve), NODES),
            "stake": (len(self.stake), len(ALTERNATIVES) if self.intervals else 0),
            "adjusted": (len(self.adjusted), 3),
            "open": (len(self.open), len(NOTHING_OPEN)),
        }
        for name, (size, wanted) in sizes.items():
            if size != wanted:
                raise InvalidInput(f"{name} holds {size} numbers, this version of mlflow-istio needs {wanted}")

    @classmethod
    def of(
        cls,
        phase: float,
        *,
        margin: float = 1.0,
        overdispersion: float = 1.0,
        late: float = LATE,
        stratum: float = 0.0,
        inverted: bool = False,
    ) -> "RateTest":
        """Return a test that has seen nothing.

        Args:
            phase: The longest slow phase in seconds; 0: requests are independent.
            margin: As in the attributes; the others too.
            overdispersion: Overdispersion.
            late: Share of the stake kept.
            stratum: Seconds of one stratum.
            inverted: Whether what is counted is what did not happen.

        Raises:
            InvalidInput: A value is out of its range.
        """
        blocks = Blocks.of(phase, columns=3) if phase else None
        return cls(
            margin=margin, overdispersion=overdispersion, late=late, stratum=stratum, blocks=blocks, inverted=inverted
        )

    def set_aside(
        self, candidate_events: int, candidate_total: int, stable_events: int, stable_total: int
    ) -> "RateTest":
        """Return the test with an interval in its totals that is judged by nothing, nor is what was still open before it.

        While shares have just changed, events that come late are of what had the shares before.

        Args:
            candidate_events: As in `update`, and so are the others.
            candidate_total: Requests of the candidate.
            stable_events: Events on the stable.
            stable_total: Requests of the stable.
        """
        return replace(
            self,
            candidate_events=self.candidate_events + candidate_events,
            candidate_total=self.candidate_total + candidate_total,
            stable_events=self.stable_events + stable_events,
            stable_total=self.stable_total + stable_total,
            aside=self.aside + self.open[0] + candidate_events,
            open=NOTHING_OPEN,
            open_seconds=0.0,
        )

    def update(
        self,
        candidate_events: int,
        candidate_total: int,
        stable_events: int,
        stable_total: int,
        *,
        seconds: float = 1.0,
    ) -> "RateTest":
        """Return the test after one more interval's counts.

        Args:
            candidate_events: Events on the candidate in this interval (not since the start).
            candidate_total: Requests of the candidate in this interval.
            stable_events: Events on the stable in this interval.
            stable_total: Requests of the stable in this interval.
            seconds: How long the interval was.

        Raises:
            InvalidInput: If a count is negative or, where each interval is a stratum, events exceed the total.
            TypeError: If a count isn't an integer.
        """
        if self.stratum:
            counts = tuple(operator.index(n) for n in (candidate_events, candidate_total, stable_events, stable_total))
            if counts[1] < 0 or counts[3] < 0:
                raise InvalidInput(f"totals can't be negative, got {counts[1]} and {counts[3]}")
        else:
            counts = (
                *check_counts("candidate", candidate_events, candidate_total),
                *check_counts("stable", stable_events, stable_total),
            )
        test = replace(
            self,
            candidate_events=self.candidate_events + counts[0],
            candidate_total=self.candidate_total + counts[1],
            stable_events=self.stable_events + counts[2],
            stable_total=self.stable_total + counts[3],
        )
        grown = tuple(before + more for before, more in zip(self.open, counts, strict=True))
        lasted = self.open_seconds + seconds
        if lasted < self.stratum * (1 - 1e-9):
            return replace(test, open=grown, open_seconds=lasted)
        events, total, others, other_total = grown
        taken, others_taken = min(max(events, 0), total), min(max(others, 0), other_total)
        test = replace(test, open=(events - taken, 0, others - others_taken, 0), open_seconds=0.0)
        return test._taken(taken, total, others_taken, other_total, lasted)

    def _taken(self, events: int, total: int, others: int, other_total: int, seconds: float) -> "RateTest":
        """The test after a whole stratum."""
        both = events + others
        curve = log_normaliser(total, other_total, both, NODE_POINTS)
        test = replace(self, curve=tuple((np.asarray(self.curve) + curve).tolist()))
        if total and other_total:
            size = total + other_total
            weight = total * other_total / size
            parts = (other_total * events / size, total * others / size, weight)
            test = replace(test, adjusted=tuple(sum(pair) for pair in zip(self.adjusted, parts, strict=True)))
            if self.blocks is not None:
                row = (events * (other_total - others) / size, others * (total - events) / size, weight)
                test = replace(test, blocks=self.blocks.update(row, seconds))
        if is_informative(total, other_total, both):
            ratios = log_ratios(curve, events, margin=self.margin, overdispersion=self.overdispersion)
            stake = bet(self._stake(), ratios, intervals=self.intervals, late=self.late)
            test = replace(test, stake=tuple(stake.tolist()), intervals=self.intervals + 1)
        return test.with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence now against "odds ratio <= margin": the lesser of both opinions."""
        exact = float(log_evidence(self._stake(), intervals=self.intervals, late=self.late))
        if self.blocks is None:
            return exact
        return min(exact, self.blocks.log_evidence(self.margin, **ODDS))

    def confidence_sequence(self, alpha: float) -> Interval:
        """Return the interval of odds ratios that holds the true one at every look, with probability 1 - alpha.

        `{d : log integral pi(d') exp L(d') dd' - L(d) < log 1/alpha}`, pi a mixture of normals around odds ratio 1
        (`log_likelihood.PRIOR_SCALES`); its estimate is the conditional maximum likelihood estimate. With blocks, the least
        interval that holds this one and theirs, and their Mantel-Haenszel estimate, which agrees with the adjusted rates.
        It doesn't depend on `margin` or `late`. It assumes one odds ratio for the whole time; while the true one changes, it
        speaks of an average. Ends beyond 1/1000 and 1000 are 0 and infinity.

        Raises:
            InvalidInput: If `alpha` isn't between 0 and 1.
        """
        check_alpha(alpha)
        if self.intervals == 0:
            return Interval(lower=0.0, upper=float("inf"), estimate=None)
        taken = self.candidate_events - self.open[0] - self.aside
        exact = _exact_interval(taken, self.curve, self.overdispersion, alpha)
        if self.blocks is None:
            return exact
        lower, upper = self.blocks.bounds(alpha, **ODDS)
        worse, better, _ = self.blocks.total.tolist()
        return Interval(
            lower=max(0.0, min(exact.lower, lower)),
            upper=max(exact.upper, upper),
            estimate=worse / better if better else float("inf"),
        )

    @property
    def room(self) -> int:
        """What the blocks will still take."""
        return 0 if self.blocks is None else self.blocks.room

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return the guard "`name` is more frequent on the candidate"."""
        interval = self.confidence_sequence(alpha)
        summary = f"{self._compared()}{_odds(interval, inverted=self.inverted)}{self._waiting()}"
        figures = {
            "odds_ratio": to_json(interval),
            "p_value": self.p_value,
            "adjusted": list(self.rates),
            "candidate": [self.candidate_events, self.candidate_total],
            "stable": [self.stable_events, self.stable_total],
        }
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=summary, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        """Return one bound, if anything is allowed: of odds ratio and difference of rates, either is enough.

        "Good enough" by either measure is wrongly called only if one of the two bounds fails, so each gets alpha/2.
        """
        bounds = []
        if allowed.odds_ratio is not None:
            bounds.append(self._odds_bound(name, allowed.odds_ratio, alpha / allowed.kinds))
        if allowed.rate_difference is not None:
            bounds.append(self._difference_bound(name, allowed.rate_difference, alpha / allowed.kinds))
        return (replace(nearest_bound(bounds), waiting=self._waiting().removeprefix("; of these ")),) if bounds else ()

    def figures(self, alpha: float) -> Figures:
        """Return both rates, adjusted by interval, and the odds ratio."""
        candidate, stable = self.rates
        return Figures(candidate=candidate, stable=stable, ratio=self.confidence_sequence(alpha))

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Both rates as if both versions had had the same traffic in each stratum; the plain ones where there is no such stratum.

        Directly standardised with the weights n_c n_b/N: their difference has the sign of the log of the Mantel-Haenszel
        odds ratio, so whoever compares the two figures agrees with the test. What is still open is added as it is.
        """
        candidate, stable, weight = self.adjusted
        if not weight:
            return self._shown(self._candidate.rate), self._shown(self._stable.rate)
        events, total, others, other_total = self.open
        return (
            self._shown(_with_open(candidate / weight, self.candidate_total, events, total)),
            self._shown(_with_open(stable / weight, self.stable_total, others, other_total)),
        )

    def _shown(self, rate: float | None) -> float | None:
        return 1 - rate if self.inverted and rate is not None else rate

    def _compared(self) -> str:
        sides = [(self.candidate_events, self.candidate_total), (self.stable_events, self.stable_total)]
        counted = [(total - events if self.inverted else events, total) for events, total in sides]
        raw = f"{share(*counted[0])} on the candidate against {share(*counted[1])} on the stable"
        plain = [
            percent(rate) for rate in map(self._shown, (self._candidate.rate, self._stable.rate)) if rate is not None
        ]
        adjusted = [percent(rate) for rate in self.rates if rate is not None]
        if adjusted == plain:
            return raw
        return (
            f"{adjusted[0]} on the candidate against {adjusted[1]} on the stable, interval by interval (in all {raw})"
        )

    def _waiting(self) -> str:
        """What isn't judged yet, as a clause: events may still come."""
        events, total, others, other_total = self.open
        if total or other_total:
            return f"; of these the last {total:,} and {other_total:,} still wait for their events"
        return (
            f"; {abs(events):,} and {abs(others):,} events are later than their observations"
            if events or others
            else ""
        )

    def _odds_bound(self, name: str, allowed: float, alpha: float) -> PromotionBound:
        bound = PromotionBound(name=name, measure="odds ratio", upper=float("inf"), allowed=allowed)
        if self.blocks is None:
            return replace(bound, upper=self.confidence_sequence(alpha).upper)
        upper = self.blocks.bounds(alpha, **ODDS)[1]
        if upper >= allowed:  # the exact one can only be farther away, and takes long to find
            return replace(bound, upper=upper, remaining=self.blocks.remaining(allowed, alpha, **ODDS))
        return replace(bound, upper=self.confidence_sequence(alpha).upper)

    def _difference_bound(self, name: str, allowed: float, alpha: float) -> PromotionBound:
        """The candidate's upper bound minus the stable's lower one, each of its own confidence sequence at alpha/2.

        With blocks, theirs must hold, too; where both versions never had traffic at the same time (blue-green) there are none.
        """
        bound = PromotionBound(name=name, measure="difference of rates", upper=float("inf"), allowed=allowed)
        blocks = -float("inf")
        if self.blocks is not None and self.adjusted[2]:
            blocks = self.blocks.bounds(alpha, **DIFFERENCE)[1]
            if blocks >= allowed:
                return replace(bound, upper=blocks, remaining=self.blocks.remaining(allowed, alpha, **DIFFERENCE))
        candidate = self._candidate.confidence_sequence(alpha / 2)
        stable = self._stable.confidence_sequence(alpha / 2)
        assumption = DRIFT_ASSUMPTION if self.blocks is None or not self.adjusted[2] else ""
        return replace(bound, upper=max(blocks, candidate.upper - stable.lower), assumption=assumption)

    @property
    def _candidate(self) -> Proportion:
        return _proportion(self.candidate_events, self.candidate_total, self.overdispersion)

    @property
    def _stable(self) -> Proportion:
        return _proportion(self.stable_events, self.stable_total, self.overdispersion)

    def _stake(self) -> Floats:
        return np.asarray(self.stake) if self.stake else opening_stake(self.late)


def is_informative(candidate_total: int, stable_total: int, events: int) -> bool:
    """Tell whether the split of `events` between the versions could have gone more than one way."""
    return min(candidate_total, events) > max(0, events - stable_total)


@lru_cache(maxsize=64)
def _exact_interval(events: float, curve: tuple[float, ...], overdispersion: float, alpha: float) -> Interval:
    """The interval of the exact likelihood; a look asks for it as a guard, as a bound and as figures."""
    return LogLikelihood(events, np.asarray(curve), overdispersion).interval(alpha)


def log_ratios(curve: Floats, candidate_events: Any, *, margin: float, overdispersion: float) -> Floats:
    """Return an interval's log-likelihood ratio of each alternative to the margin.

    Args:
        curve: The interval's log-normaliser at the nodes, shape (..., NODES).
        candidate_events: The candidate's events in it, shape (...).
        margin: The acceptable odds ratio.
        overdispersion: Overdispersion.

    Returns:
        Shape (..., len(ALTERNATIVES)).
    """
    null = float(np.log(margin))
    points = (null, *(null + ALTERNATIVES).tolist())
    normaliser = curve @ interpolation_matrix(points).T
    gain = np.asarray(candidate_events)[..., None] * ALTERNATIVES
    return np.asarray((gain - (normaliser[..., 1:] - normaliser[..., :1])) / overdispersion)


def _proportion(events: int, total: int, overdispersion: float) -> Proportion:
    """The counts; while events are late, or of what came before the release, they needn't fit."""
    return Proportion(events=min(max(events, 0), total), total=total, overdispersion=overdispersion)


def _with_open(rate: float, total: int, events: int, open_total: int) -> float:
    return (rate * (total - open_total) + events) / total


def _odds(interval: Interval, *, inverted: bool) -> str:
    what = "odds against it" if inverted else "odds"
    if interval.lower > 1:
        return f" ({what} at least {interval.lower:.3g} times)"
    if finite(interval.upper) is not None:
        return f" ({what} at most {interval.upper:.3g} times)"
    return ""
