"""When is a candidate proven good enough to become the stable? By an upper bound, never by silence.

Each `PromotionBound` says: with probability 1 - alpha over all looks, the candidate is worse by at most `upper`. It is
met when that is below what is allowed. All bounds must be met; requiring several at once needs no correction (a wrong
promotion needs every one of the violated bounds to fail: an intersection-union test, Berger 1982).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.analysis.interval import FINITE, check_positive, finite
from mlflow_istio.core.basics.stored import form, stored, to_json
from mlflow_istio.errors import InvalidInput


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class NonInferiorityMargin:
    """What a candidate may be worse by and still be promoted; with two kinds, either is enough, each at alpha/2.

    Attributes:
        odds_ratio: Above 1, since nothing is ever proven exactly equal; 1.25 is "a quarter more".
        rate_difference: Above 0; 0.01 is one percentage point.
        difference: Of means, in the KPI's unit.
    """

    odds_ratio: float | None = None
    rate_difference: float | None = None
    difference: float | None = None

    def __post_init__(self) -> None:
        if self.odds_ratio is not None and not self.odds_ratio > 1:
            raise InvalidInput(f"an allowed odds ratio must be above 1, such as 1.25; got {self.odds_ratio}")
        if self.rate_difference is not None and not 0 < self.rate_difference < 1:
            raise InvalidInput(
                f"an allowed difference of rates must be between 0 and 1, such as 0.01; got {self.rate_difference}"
            )
        if self.difference is not None:
            check_positive("an allowed difference of means", self.difference)

    @property
    def kinds(self) -> int:
        """How many kinds of proof are accepted."""
        return sum(value is not None for value in (self.odds_ratio, self.rate_difference, self.difference))

    def describe(self) -> str:
        """Such as ``odds ratio below 1.5 or difference of rates below 0.01``; empty when nothing has to be proven."""
        parts = [
            f"{words} below {value:g}"
            for words, value in (
                ("odds ratio", self.odds_ratio),
                ("difference of rates", self.rate_difference),
                ("difference of means", self.difference),
            )
            if value is not None
        ]
        return " or ".join(parts)


NOTHING_TO_PROVE = NonInferiorityMargin()


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionBound:
    """An upper bound on how much worse the candidate is, and what is allowed.

    Attributes:
        name: What is bounded, such as `errors`.
        measure: `odds ratio`, `difference of rates` or `difference of means`.
        upper: The bound; infinity while there are too few data.
        allowed: What is acceptable.
        assumption: What must hold for the bound, beyond independent requests; empty if nothing.
        remaining: About how many more seconds of such traffic it takes until the bound is met; infinity: not with such figures;
            None: met, or nobody can say yet.
        waiting: What of the counts isn't judged yet, as a clause; empty if nothing.
    """

    name: str
    measure: str
    upper: float = field(metadata=FINITE)
    allowed: float
    assumption: str = ""
    remaining: float | None = field(default=None, metadata=FINITE)
    waiting: str = field(default="", metadata=stored(sparse=True))

    def __post_init__(self) -> None:
        if math.isnan(self.upper) or not math.isfinite(self.allowed):
            raise InvalidInput(f"{self.name}: a bound needs a number and a finite allowed {self.measure}")

    @property
    def met(self) -> bool:
        """Whether the bound is below what is allowed."""
        return self.upper < self.allowed

    @property
    def equal(self) -> float:
        """What the measure is of two equal versions."""
        return 1.0 if self.measure == "odds ratio" else 0.0

    def describe(self) -> str:
        """Return a clause such as `errors: odds ratio below 1.18 (allowed 1.25)`."""
        known = "not bounded yet" if finite(self.upper) is None else f"below {self.upper:.3g}"
        waiting = f"; {self.waiting}" if self.waiting and not self.met else ""
        return f"{self.name}: {self.measure} {known} (allowed {self.allowed:.3g}{self._time()}{waiting})"

    def to_json(self) -> Mapping[str, Any]:
        """Return plain JSON values."""
        return {**to_json(self), "met": self.met}

    def _time(self) -> str:
        if self.met or self.remaining is None:
            return ""
        if not math.isfinite(self.remaining):
            return "; not to be met with such figures"
        return f"; about {about(self.remaining)} more of such traffic"


def about(seconds: float) -> str:
    """Return a time in words, as exact as a guess is: `50 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def nearest_bound(bounds: Sequence[PromotionBound]) -> PromotionBound:
    """Return of several kinds of proof, of which one is enough, one that is met, or else the one nearest to it."""
    return min(bounds, key=lambda bound: (not bound.met, bound.upper / bound.allowed))
