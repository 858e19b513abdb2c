"""When is a candidate proven good enough to become the stable? By an upper bound, never by silence.

Each `PromotionBound` says: with probability 1 - alpha over all looks, the candidate is worse by at most `upper`. It is
met when that is below what is allowed. All bounds must be met; requiring several at once needs no correction (a wrong
promotion needs every one of the violated bounds to fail: an intersection-union test, Berger 1982).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_istio.core.analysis.interval import check_alpha, finite
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference
from mlflow_istio.core.analysis.proportion import Proportion
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.errors import InvalidInput

DRIFT_ASSUMPTION = (
    "Each version's own rate is taken as constant over the release; a shared change of rates widens or shifts the "
    "difference. The odds ratio doesn't need this."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionBound:
    """An upper bound on how much worse the candidate is, and what is allowed.

    Attributes:
        name: What is bounded, such as `errors`.
        measure: `odds ratio`, `difference of rates` or `difference of means`.
        upper: The bound; infinity while there are too few data.
        allowed: What is acceptable.
        assumption: What must hold for the bound, beyond independent requests; empty if nothing.
    """

    name: str
    measure: str
    upper: float
    allowed: float
    assumption: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.upper) or not math.isfinite(self.allowed):
            raise InvalidInput(f"{self.name}: a bound needs a number and a finite allowed {self.measure}")

    @property
    def met(self) -> bool:
        """Whether the bound is below what is allowed."""
        return self.upper < self.allowed

    def describe(self) -> str:
        """Return a clause such as `errors: odds ratio below 1.18 (allowed 1.25)`."""
        known = "not bounded yet" if finite(self.upper) is None else f"below {self.upper:.3g}"
        return f"{self.name}: {self.measure} {known} (allowed {self.allowed:.3g})"

    def to_json(self) -> Mapping[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "measure": self.measure,
            "upper": finite(self.upper),
            "allowed": self.allowed,
            "met": self.met,
            "assumption": self.assumption,
        }


def odds_ratio_bound(name: str, test: RateTest, *, allowed: float, alpha: float = 0.05) -> PromotionBound:
    """Return the default bound: the upper end of the stratified odds ratio's confidence sequence.

    Raises:
        InvalidInput: If `allowed` isn't above 1 (nothing is ever proven exactly equal) or alpha is out of range.
    """
    _check_odds(name, allowed)
    upper = test.confidence_sequence(alpha).upper
    return PromotionBound(name=name, measure="odds ratio", upper=upper, allowed=allowed)


def latency_bounds(name: str, test: LatencyTest, *, allowed: float, alpha: float = 0.05) -> tuple[PromotionBound, ...]:
    """Return one odds-ratio bound of "slower than the edge" for each edge of the test.

    Raises:
        InvalidInput: If `allowed` isn't above 1 or alpha is out of range.
    """
    _check_odds(name, allowed)
    return tuple(
        PromotionBound(name=f"{name} over {edge:g} ms", measure="odds ratio", upper=interval.upper, allowed=allowed)
        for edge, interval in test.confidence_sequence(alpha).items()
    )


def rate_difference_bound(
    name: str, candidate: Proportion, stable: Proportion, *, allowed: float, alpha: float = 0.05
) -> PromotionBound:
    """Return the bound on "candidate's rate minus stable's rate".

    The candidate's upper end and the stable's lower end, each of its own confidence sequence at alpha/2.

    Raises:
        InvalidInput: If `allowed` isn't positive or alpha is out of range.
    """
    check_alpha(alpha)
    if not allowed > 0:
        raise InvalidInput(f"{name}: the allowed difference of rates must be above 0, got {allowed}")
    upper = candidate.confidence_sequence(alpha / 2).upper - stable.confidence_sequence(alpha / 2).lower
    return PromotionBound(
        name=name, measure="difference of rates", upper=upper, allowed=allowed, assumption=DRIFT_ASSUMPTION
    )


def mean_difference_bound(name: str, test: MeanDifference, *, allowed: float, alpha: float = 0.05) -> PromotionBound:
    """Return the bound on how much worse the candidate's mean is, in the KPI's unit.

    Raises:
        InvalidInput: If `allowed` isn't positive or alpha is out of range.
    """
    if not allowed > 0:
        raise InvalidInput(f"{name}: the allowed worsening of the mean must be above 0, got {allowed}")
    interval = test.confidence_sequence(alpha)
    upper = interval.upper if test.worse == "higher" else -interval.lower
    return PromotionBound(
        name=name,
        measure="difference of means",
        upper=upper,
        allowed=allowed,
        assumption="Large samples: the sequence for means is asymptotic.",
    )


def _check_odds(name: str, allowed: float) -> None:
    if not allowed > 1:
        raise InvalidInput(f"{name}: the allowed odds ratio must be above 1, such as 1.25; got {allowed}")
