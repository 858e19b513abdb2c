"""Several guards, one decision: weighted evidence that something is wrong with the candidate.

`sum w_j E_j` with weights that add up to 1 is an e-value for "nothing is wrong", whatever the dependence between the
guards (Vovk & Wang 2021, Ann. Statist. 49), so rolling back at `1/alpha` keeps the probability of ever rolling back a
candidate that is within every margin below `alpha`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import logsumexp

from mlflow_istio.core.analysis.interval import Interval, bounded_exp, check_positive, finite
from mlflow_istio.core.analysis.latency import LatencyTest
from mlflow_istio.core.analysis.means import MeanDifference
from mlflow_istio.core.analysis.proportion import ObjectiveTest
from mlflow_istio.core.analysis.rate_test import RateTest
from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """One thing that is watched.

    Attributes:
        name: What people call it, such as `errors`.
        log_e: Log of its evidence now that the candidate is unacceptable.
        weight: Its share of the error probability, relative to the other guards; set before the release.
        summary: What the data say, as a clause: `5.0% of 1,020 requests against 1.0% of 9,180`.
        figures: More numbers for the report, plain JSON values.
    """

    name: str
    log_e: float
    weight: float = 1.0
    summary: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if math.isnan(self.log_e):
            raise InvalidInput(f"guard {self.name!r}: the evidence isn't a number")
        check_positive(f"guard {self.name!r}: weight", self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedEvidence:
    """The guards' evidence together.

    Attributes:
        log_e: Log of the weighted mean of the e-values.
        leading: The guard that contributes most.
    """

    log_e: float
    leading: Guard

    @property
    def e_value(self) -> float:
        """The weighted mean of the e-values: roll back when it reaches 1/alpha."""
        return bounded_exp(self.log_e)

    def reaches(self, alpha: float) -> bool:
        """Tell whether the evidence is enough to roll back at `alpha`."""
        return self.log_e >= -math.log(alpha)


def combine(guards: Sequence[Guard]) -> CombinedEvidence:
    """Return the weighted evidence of the guards.

    Guards must be combined at every look with the same weights; one that has no data yet has log evidence 0.

    Raises:
        InvalidInput: If there is no guard or a name occurs twice.
    """
    names = [guard.name for guard in guards]
    if not guards or len(set(names)) != len(names):
        raise InvalidInput(f"guards need at least one name and each name once, got {names}")
    weights = np.array([guard.weight for guard in guards])
    parts = np.log(weights / weights.sum()) + np.array([guard.log_e for guard in guards])
    return CombinedEvidence(log_e=float(logsumexp(parts)), leading=guards[int(np.argmax(parts))])


def rate_guard(name: str, test: RateTest, *, alpha: float = 0.05, weight: float = 1.0) -> Guard:
    """Return the guard "`name` is more frequent on the candidate"."""
    interval = test.confidence_sequence(alpha)
    summary = (
        f"{_share(test.candidate_events, test.candidate_total)} on the candidate against "
        f"{_share(test.stable_events, test.stable_total)} on the stable{_odds(interval)}"
    )
    figures = {"odds_ratio": interval.to_json(), "p_value": test.p_value}
    return Guard(name=name, log_e=test.log_e_value, weight=weight, summary=summary, figures=figures)


def latency_guard(name: str, test: LatencyTest, *, alpha: float = 0.05, weight: float = 1.0) -> Guard:
    """Return the guard "the candidate is slower"; its sentence speaks of the edge with most evidence."""
    edge, worst = max(zip(test.edges, test.tests, strict=True), key=lambda pair: pair[1].log_e_value)
    summary = (
        f"slower than {edge:g} ms: {_share(worst.candidate_events, worst.candidate_total)} on the candidate against "
        f"{_share(worst.stable_events, worst.stable_total)} on the stable{_odds(worst.confidence_sequence(alpha))}"
    )
    odds = {f"{at:g}": interval.to_json() for at, interval in test.confidence_sequence(alpha).items()}
    figures = {"odds_ratio_by_edge_ms": odds, "p_value": test.p_value}
    return Guard(name=name, log_e=test.log_e_value, weight=weight, summary=summary, figures=figures)


def objective_guard(name: str, test: ObjectiveTest, *, alpha: float = 0.05, weight: float = 1.0) -> Guard:
    """Return the guard "`name` is above its limit on the candidate"."""
    counts = test.counts
    summary = f"{_share(counts.events, counts.total)} on the candidate where at most {_percent(test.limit)} is allowed"
    figures = {"rate": test.confidence_sequence(alpha).to_json(), "limit": test.limit, "p_value": test.p_value}
    return Guard(name=name, log_e=test.log_e_value, weight=weight, summary=summary, figures=figures)


def mean_guard(name: str, test: MeanDifference, *, alpha: float = 0.05, weight: float = 1.0) -> Guard:
    """Return the guard "the mean of `name` is worse on the candidate"."""
    interval = test.confidence_sequence(alpha)
    if finite(interval.lower) is None or interval.estimate is None:
        summary = "too few varying observations to compare the means"
    else:
        summary = (
            f"the candidate's mean differs by {interval.estimate:+.4g} "
            f"(between {interval.lower:+.4g} and {interval.upper:+.4g})"
        )
    figures = {"difference": interval.to_json(), "p_value": test.p_value}
    return Guard(name=name, log_e=test.log_e_value, weight=weight, summary=summary, figures=figures)


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def _share(events: int, total: int) -> str:
    return f"{_percent(events / total)} of {total:,} requests" if total else "no requests"


def _odds(interval: Interval) -> str:
    if interval.lower > 0:
        return f" (odds at least {interval.lower:.3g} times)"
    if finite(interval.upper) is not None:
        return f" (odds at most {interval.upper:.3g} times)"
    return ""
