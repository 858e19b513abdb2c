"""Is an event (an error, a slow answer) more frequent on the candidate than on the stable?"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlflow_istio.core.analysis.betting import ALTERNATIVES, LATE, Floats, bet, log_evidence, opening_stake
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, share
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTest(GuardTest):
    """A stratified, anytime-valid test that the candidate's odds of an event exceed `margin` times the stable's.

    Start with `RateTest()`, then `test = test.update(...)` once per poll interval. Each interval is its own stratum:
    only the split of its events between the versions counts, so a weight ramp or an incident that hits both versions
    is no evidence. Look as often as you like.

    Attributes:
        margin: The odds ratio that is still acceptable, 0.1 to 10. 1 tests "worse at all".
        phi: Overdispersion, >= 1. The log-likelihood is divided by it. Requests that fail in bursts stuck to one
            version (retry storms, sticky sessions) are not independent: with phi left at 1, bursts of mean size 2
            raise the false alarms from 3% to 22% (bursts of equal size) or 59% (geometric sizes). Take the mean of the
            squared burst size over the mean burst size: b for bursts of b, 2b - 1 for geometric ones of mean b. With
            phi > 1 the guarantee is approximate.
        late: The share of the stake kept for a candidate that turns bad later, 0 to 0.9 (see `evidence`).
        candidate_events: Events on the candidate so far.
        candidate_total: Requests of the candidate so far.
        stable_events: Events on the stable so far.
        stable_total: Requests of the stable so far.
        intervals: Intervals so far whose split could carry information.
        curve: The summed log-normaliser at `log_likelihood.NODE_POINTS`.
        stake: The log stake on each of `evidence.ALTERNATIVES`; empty before the first informative interval.
    """

    margin: float = 1.0
    phi: float = 1.0
    late: float = LATE
    candidate_events: int = field(default=0, metadata=stored(name="candidate", place=0))
    candidate_total: int = field(default=0, metadata=stored(name="candidate", place=1))
    stable_events: int = field(default=0, metadata=stored(name="stable", place=0))
    stable_total: int = field(default=0, metadata=stored(name="stable", place=1))
    intervals: int = 0
    curve: tuple[float, ...] = field(default=(0.0,) * NODES, metadata=PACKED)
    stake: tuple[float, ...] = field(default=(), metadata=PACKED)

    def __post_init__(self) -> None:
        if not 1 / LARGEST_MARGIN <= self.margin <= LARGEST_MARGIN:
            raise InvalidInput(f"margin is an odds ratio from 0.1 to 10, got {self.margin}")
        check_overdispersion(self.phi)
        if not 0 <= self.late <= 0.9:
            raise InvalidInput(f"late (the share of the stake kept for later) must be from 0 to 0.9, got {self.late}")
        sizes = {
            "curve": (len(self.curve), NODES),
            "stake": (len(self.stake), len(ALTERNATIVES) if self.intervals else 0),
        }
        for name, (size, wanted) in sizes.items():
            if size != wanted:
                raise InvalidInput(f"{name} holds {size} numbers, this version of mlflow-istio needs {wanted}")

    def update(self, candidate_events: int, candidate_total: int, stable_events: int, stable_total: int) -> "RateTest":
        """Return the test after one more interval's counts.

        Args:
            candidate_events: Events on the candidate in this interval (not since the start).
            candidate_total: Requests of the candidate in this interval.
            stable_events: Events on the stable in this interval.
            stable_total: Requests of the stable in this interval.

        Raises:
            InvalidInput: If a count is negative or events exceed the total.
            TypeError: If a count isn't an integer.
        """
        events, total = check_counts("candidate", candidate_events, candidate_total)
        others, other_total = check_counts("stable", stable_events, stable_total)
        both = events + others
        totals = replace(
            self,
            candidate_events=self.candidate_events + events,
            candidate_total=self.candidate_total + total,
            stable_events=self.stable_events + others,
            stable_total=self.stable_total + other_total,
        )
        curve = log_normaliser(total, other_total, both, NODE_POINTS)
        totals = replace(totals, curve=tuple((np.asarray(self.curve) + curve).tolist()))
        if not is_informative(total, other_total, both):
            return totals
        ratios = log_ratios(curve, events, margin=self.margin, phi=self.phi)
        stake = bet(self._stake(), ratios, intervals=self.intervals, late=self.late)
        return replace(totals, stake=tuple(stake.tolist()), intervals=self.intervals + 1).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence now against "odds ratio <= margin"."""
        return float(log_evidence(self._stake(), intervals=self.intervals, late=self.late))

    def confidence_sequence(self, alpha: float) -> Interval:
        """Return the interval of odds ratios that holds the true one at every look, with probability 1 - alpha.

        `{d : log integral pi(d') exp L(d') dd' - L(d) < log 1/alpha}`, pi a mixture of normals around odds ratio 1
        (`log_likelihood.PRIOR_SCALES`). It doesn't depend on `margin` or `late`. It assumes one odds ratio for the
        whole time; while the true one changes, it speaks of an average. Its estimate is the conditional maximum
        likelihood estimate. Ends beyond 1/1000 and 1000 are 0 and infinity.

        Raises:
            InvalidInput: If `alpha` isn't between 0 and 1.
        """
        check_alpha(alpha)
        if self.intervals == 0:
            return Interval(lower=0.0, upper=float("inf"), estimate=None)
        return LogLikelihood(self.candidate_events, np.asarray(self.curve), self.phi).interval(alpha)

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return the guard "`name` is more frequent on the candidate"."""
        interval = self.confidence_sequence(alpha)
        summary = (
            f"{share(self.candidate_events, self.candidate_total)} on the candidate against "
            f"{share(self.stable_events, self.stable_total)} on the stable{_odds(interval)}"
        )
        figures = {"odds_ratio": to_json(interval), "p_value": self.p_value}
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=summary, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        """Return one bound, if anything is allowed: of odds ratio and difference of rates, either is enough.

        "Good enough" by either measure is wrongly called only if one of the two bounds fails, so each gets alpha/2.
        """
        bounds = []
        if allowed.odds_ratio is not None:
            upper = self.confidence_sequence(alpha / allowed.kinds).upper
            bounds.append(PromotionBound(name=name, measure="odds ratio", upper=upper, allowed=allowed.odds_ratio))
        if allowed.rate_difference is not None:
            bounds.append(self._difference_bound(name, allowed.rate_difference, alpha / allowed.kinds))
        return (nearest_bound(bounds),) if bounds else ()

    def figures(self, alpha: float) -> Figures:
        """Return both rates and the odds ratio."""
        return Figures(candidate=self._candidate.rate, stable=self._stable.rate, ratio=self.confidence_sequence(alpha))

    def _difference_bound(self, name: str, allowed: float, alpha: float) -> PromotionBound:
        """The candidate's upper bound minus the stable's lower one, each of its own confidence sequence at alpha/2."""
        candidate = self._candidate.confidence_sequence(alpha / 2)
        stable = self._stable.confidence_sequence(alpha / 2)
        return PromotionBound(
            name=name,
            measure="difference of rates",
            upper=candidate.upper - stable.lower,
            allowed=allowed,
            assumption=DRIFT_ASSUMPTION,
        )

    @property
    def _candidate(self) -> Proportion:
        return Proportion(events=self.candidate_events, total=self.candidate_total, phi=self.phi)

    @property
    def _stable(self) -> Proportion:
        return Proportion(events=self.stable_events, total=self.stable_total, phi=self.phi)

    def _stake(self) -> Floats:
        return np.asarray(self.stake) if self.stake else opening_stake(self.late)


def is_informative(candidate_total: int, stable_total: int, events: int) -> bool:
    """Tell whether the split of `events` between the versions could have gone more than one way."""
    return min(candidate_total, events) > max(0, events - stable_total)


def log_ratios(curve: Floats, candidate_events: Any, *, margin: float, phi: float) -> Floats:
    """Return an interval's log-likelihood ratio of each alternative to the margin.

    Args:
        curve: The interval's log-normaliser at the nodes, shape (..., NODES).
        candidate_events: The candidate's events in it, shape (...).
        margin: The acceptable odds ratio.
        phi: Overdispersion.

    Returns:
        Shape (..., len(ALTERNATIVES)).
    """
    null = float(np.log(margin))
    points = (null, *(null + ALTERNATIVES).tolist())
    normaliser = curve @ interpolation_matrix(points).T
    gain = np.asarray(candidate_events)[..., None] * ALTERNATIVES
    return np.asarray((gain - (normaliser[..., 1:] - normaliser[..., :1])) / phi)


def _odds(interval: Interval) -> str:
    if interval.lower > 0:
        return f" (odds at least {interval.lower:.3g} times)"
    if finite(interval.upper) is not None:
        return f" (odds at most {interval.upper:.3g} times)"
    return ""
