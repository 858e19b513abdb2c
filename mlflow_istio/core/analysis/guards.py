"""Several guards, one decision: weighted evidence that something is wrong with the candidate.

Each guard has its share of alpha: one alone rolls back at `w_j E_j >= 1/alpha`, the weights adding up to 1. That keeps the
probability of ever rolling back a candidate that is within every margin below `alpha` (a union bound), whatever the
guards are: rules that fire, and tests whose evidence is a martingale in a filtration of its own (Choe & Ramdas 2024, arXiv
2402.09698). Releases that began under the first rules average instead: `sum w_j E_j` is an e-value, too, if each `E_j` is one
for independent requests (Vovk & Wang 2021, Ann. Statist. 49).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlflow_istio.core.analysis.e_process import EProcess
from mlflow_istio.core.analysis.interval import Interval, bounded_exp, check_positive
from mlflow_istio.core.analysis.log_sums import log_sum_exp
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
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
        log_e: Log of the largest e-value times its weight; averaged: of the weighted mean of the e-values.
        leading: The guard that contributes most.
    """

    log_e: float
    leading: Guard

    @property
    def e_value(self) -> float:
        """The evidence of all: roll back when it reaches 1/alpha."""
        return bounded_exp(self.log_e)

    def reaches(self, alpha: float) -> bool:
        """Tell whether the evidence is enough to roll back at `alpha`."""
        return self.log_e >= -math.log(alpha)


def combine(guards: Sequence[Guard], *, averaged: bool = False) -> CombinedEvidence:
    """Return the weighted evidence of the guards.

    Guards must be combined at every look with the same weights; one that has no data yet has log evidence 0.

    Args:
        guards: Every guard.
        averaged: Whether their evidence is averaged, as the first rules did.

    Raises:
        InvalidInput: If there is no guard or a name occurs twice.
    """
    names = [guard.name for guard in guards]
    if not guards or len(set(names)) != len(names):
        raise InvalidInput(f"guards need at least one name and each name once, got {names}")
    weights = np.array([guard.weight for guard in guards])
    parts = np.log(weights / weights.sum()) + np.array([guard.log_e for guard in guards])
    log_e = log_sum_exp(parts) if averaged else np.max(parts)
    return CombinedEvidence(log_e=float(log_e), leading=guards[int(np.argmax(parts))])


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The figures that a person may compare.

    Attributes:
        candidate: The candidate's rate, adjusted by interval where there is a stable; None without requests.
        stable: The stable's, likewise.
        ratio: The odds ratio (or difference of means) with its confidence sequence; None without one.
    """

    candidate: float | None = None
    stable: float | None = None
    ratio: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardTest(EProcess):
    """A test that a guard can rest on: it takes in intervals, and says evidence, bounds and the figures a person may compare.

    A subclass has an ``update`` that takes one interval's counts, in whatever form it needs them, and returns the test after
    it. Its fields are its state, stored after every look by ``core.basics.stored``. A rule that fires rather than weighs (and
    has an error probability of its own) says 0 for its log evidence until it fires and infinity from then on.
    """

    @abstractmethod
    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return what the guard called `name` says now; its evidence is `log_e_value`, which alone decides."""

    @abstractmethod
    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        """Return what must be proven before promotion, and how far it is; each bound at `alpha`."""

    @abstractmethod
    def figures(self, alpha: float) -> Figures:
        """Return the figures now."""

    @property
    def room(self) -> int:
        """How many characters its stored state will still grow by, at most."""
        return 0

    def proven(self, alpha: float) -> Interval | None:
        """Return the interval that holds the truth at every look, with probability 1 - alpha; None for a rule that has none."""
        return self.figures(alpha).ratio


def percent(rate: float) -> str:
    """Return a rate in words, such as `1.25%`."""
    return f"{100 * rate:.3g}%"


def share(events: int, total: int) -> str:
    """Return counts in words, such as `5% of 1,020 requests`."""
    return f"{percent(events / total)} of {total:,} requests" if total else "no requests"
