r"""Means of numeric KPIs: one version's, and the difference between two.

Asymptotic confidence sequences of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Ann. Statist. 2024, arXiv 2103.06476):
right for large samples whatever the distribution, so don't read them below some hundred observations, or with values so
skewed that a handful decide the mean.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.special import log_ndtr

from mlflow_istio.core.analysis.blocks import Blocks
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest
from mlflow_istio.core.analysis.interval import Interval, check_alpha, check_positive, finite
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.basics.stored import form, stored, to_json
from mlflow_istio.errors import InvalidInput

Direction = Literal["higher", "lower"]
"""Which direction of a KPI is the worse one."""

TIGHT_ALPHA = 0.05
"""The error probability a difference's narrowest point is tuned for."""


@form(row=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Count, sum and sum of squares as they come in: those of an observation may come later than it is counted.

    Attributes:
        count: Observations.
        total: What of their sum is there.
        squares: What of the sum of their squares is there.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 0 or not (math.isfinite(self.total) and math.isfinite(self.squares)):
            raise InvalidInput(
                f"moments need a count >= 0 and finite sums, got {self.count}, {self.total}, {self.squares}"
            )

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums of both."""
        return Sums(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def moments(self) -> "Moments | None":
        """The moments; None where no numbers have these sums (yet)."""
        try:
            return Moments(count=self.count, total=self.total, squares=self.squares)
        except InvalidInput:
            return None


@form(row=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Moments(Sums):
    """Count, sum and sum of squares that some numbers have."""

    def __post_init__(self) -> None:
        Sums.__post_init__(self)  # super() doesn't find its class in one with slots
        smallest = self.total**2 / self.count if self.count else 0.0
        if self.squares < smallest * (1 - 1e-9) or (self.count == 0 and (self.total or self.squares)):
            raise InvalidInput(
                f"no {self.count} numbers have the sum {self.total} and the sum of squares {self.squares}: "
                "give (n, sum, sum of squares)"
            )

    @classmethod
    def of(cls, values: "np.ndarray[Any, Any] | list[float]") -> "Moments":
        """Return the moments of plain numbers."""
        array = np.asarray(values, dtype=np.float64)
        return cls(count=array.size, total=float(array.sum()), squares=float((array**2).sum()))

    def plus(self, other: Sums) -> "Moments":
        """Return the moments of both sets of observations together."""
        return Moments(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        """The mean; nan without observations."""
        return self.total / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """The unbiased sample variance; nan with fewer than two observations."""
        if self.count < 2:
            return math.nan
        return max(0.0, (self.squares - self.total**2 / self.count) / (self.count - 1))


NO_MOMENTS = Moments()
"""No observations."""

NO_SUMS = Sums()


def tightness(alpha: float, tightest_at: float) -> float:
    """Return rho^2, which makes a sequence narrowest after about `tightest_at` observations.

    `(-2 log alpha + log(1 - 2 log alpha)) / tightest_at`, the paper's approximation.

    Raises:
        InvalidInput: If alpha or `tightest_at` is out of range.
    """
    check_alpha(alpha)
    check_positive("tightest_at (observations)", tightest_at)
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tightest_at


def mean_sequence(moments: Moments, alpha: float, *, tightest_at: float = 5000) -> Interval:
    """Return the asymptotic confidence sequence of one mean.

    `mean +- s sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha))`.

    Args:
        moments: All observations since the start.
        alpha: Error probability over all looks.
        tightest_at: The number of observations at which it is narrowest; fix it beforehand.

    Returns:
        Unbounded while the variance can't be estimated or is 0 (constant data prove nothing about the next value).

    Raises:
        InvalidInput: If alpha or `tightest_at` is out of range.
    """
    rho2 = tightness(alpha, tightest_at)
    variance = moments.variance
    if not variance > 0:
        return Interval(lower=-math.inf, upper=math.inf, estimate=moments.mean if moments.count else None)
    spread = moments.count * rho2 + 1
    radius = math.sqrt(variance * 2 * spread / (moments.count**2 * rho2) * math.log(math.sqrt(spread) / alpha))
    return Interval(lower=moments.mean - radius, upper=moments.mean + radius, estimate=moments.mean)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanDifference(GuardTest):
    r"""Candidate mean minus stable mean, stratified by interval.

    Interval k with n_c and n_b observations contributes its own difference of means with the weight
    `w = n_c n_b / (n_c + n_b)`, which depends on counts only. So a KPI that drifts for both versions while the traffic
    weight changes is no evidence. With `S = sum w (mean_c - mean_b)`, `W = sum w` and
    `V = sum w^2 (s_c^2/n_c + s_b^2/n_b)` the sequence is `S/W +- sqrt((V + r) log((V + r)/(r alpha^2))) / W`: the
    paper's boundary, with `V` in place of `n s^2` and `r` in place of `s^2/rho^2`, for observations that aren't
    identically distributed. `r` is fixed by the first interval so that the sequence is narrowest near `tightest_at`
    observations of both versions together, at `TIGHT_ALPHA`.

    An interval with fewer than two observations on a side, or whose sums are not those of any numbers (they came later than their
    observations, or were read at another instant), is kept and joined to the next one; so is one within a `stratum`.

    With `blocks` the t-test over blocks of time (see `blocks`) must agree, since observations are not independent.

    Attributes:
        worse: Which direction is bad: the e-value is (asymptotic) evidence for it.
        margin: A worsening this large is still acceptable, in the KPI's unit, >= 0.
        tightest_at: Observations, both versions, at which the sequence is narrowest.
        weight: W.
        difference: S.
        variance: V.
        prior: r, 0 before the first interval with a varying KPI.
        candidate: The candidate's observations that wait for an interval to be complete.
        stable: The stable's.
        waited: Seconds that these have waited.
        stratum: Seconds of one interval at least: as long as sums may come later than their observations.
        blocks: Sums of w (mean_c - mean_b) and of w over blocks of time; None: observations are independent.
    """

    worse: Direction = "higher"
    margin: float = 0.0
    tightest_at: float = 5000.0
    weight: float = 0.0
    difference: float = 0.0
    variance: float = 0.0
    prior: float = 0.0
    candidate: Sums = NO_SUMS
    stable: Sums = NO_SUMS
    waited: float = field(default=0.0, metadata=stored(sparse=True))
    stratum: float = field(default=0.0, metadata=stored(sparse=True))
    blocks: Blocks | None = field(default=None, metadata=stored(sparse=True))

    def __post_init__(self) -> None:
        if self.worse not in ("higher", "lower"):
            raise InvalidInput(f'worse must be "higher" or "lower", got {self.worse!r}')
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise InvalidInput(f"margin must be a finite number >= 0 in the KPI's unit, got {self.margin}")
        check_positive("tightest_at (observations)", self.tightest_at)
        if not (math.isfinite(self.stratum) and self.stratum >= 0):
            raise InvalidInput(f"stratum must be seconds >= 0, got {self.stratum}")

    @classmethod
    def of(
        cls, phase: float, *, worse: Direction = "higher", margin: float = 0.0, stratum: float = 0.0
    ) -> "MeanDifference":
        """Return a difference that has seen nothing.

        Args:
            phase: The longest slow phase in seconds; 0: observations are independent.
            worse: Which direction is bad.
            margin: A worsening this large is still acceptable.
            stratum: Seconds after which the sums of an observation may still come.

        Raises:
            InvalidInput: A value is out of its range.
        """
        return cls(worse=worse, margin=margin, stratum=stratum, blocks=Blocks.of(phase, columns=2) if phase else None)

    def set_aside(self) -> "MeanDifference":
        """Return the difference without what was still open.

        While shares have just changed, sums that come late are of observations that had the shares before.
        """
        return replace(self, candidate=NO_SUMS, stable=NO_SUMS, waited=0.0)

    def update(self, candidate: Sums, stable: Sums, *, seconds: float = 1.0) -> "MeanDifference":
        """Return the difference after one more interval's observations, `seconds` long."""
        sums, others = self.candidate.plus(candidate), self.stable.plus(stable)
        waited = self.waited + seconds
        mine, theirs = sums.moments, others.moments
        if mine is None or theirs is None or min(mine.count, theirs.count) < 2 or waited < self.stratum * (1 - 1e-9):
            return replace(self, candidate=sums, stable=others, waited=waited)
        return self._taken(mine, theirs, waited)

    @property
    def unfit(self) -> bool:
        """Whether no numbers have the sums that are still open, though their stratum is over."""
        fits = self.candidate.moments is not None and self.stable.moments is not None
        return not fits and self.waited >= self.stratum * (1 - 1e-9)

    def _taken(self, candidate: Moments, stable: Moments, waited: float) -> "MeanDifference":
        both = candidate.count + stable.count
        weight = candidate.count * stable.count / both
        noise = weight**2 * (candidate.variance / candidate.count + stable.variance / stable.count)
        prior = self.prior
        if prior == 0:
            # One observation adds noise/both to V, so V is `tightest_at` times that at the wanted size.
            prior = noise / both / tightness(TIGHT_ALPHA, self.tightest_at)
        gap = weight * (candidate.mean - stable.mean)
        return replace(
            self,
            weight=self.weight + weight,
            difference=self.difference + gap,
            variance=self.variance + noise,
            prior=prior,
            candidate=NO_SUMS,
            stable=NO_SUMS,
            waited=0.0,
            blocks=None if self.blocks is None else self.blocks.update((gap, weight), waited),
        ).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the (asymptotic) evidence that the candidate is worse by more than the margin.

        The one-sided normal mixture `2 sqrt(r/(V+r)) exp(z^2/2) Phi(z)`, `z = S/sqrt(V+r)` (Howard, Ramdas, McAuliffe &
        Sekhon 2021, Ann. Statist. 49); 0 while nothing varies.
        """
        if not self.prior > 0:
            return 0.0
        sign = 1 if self.worse == "higher" else -1
        asymptotic = self._asymptotic(sign)
        if self.blocks is None:
            return asymptotic
        return min(asymptotic, self.blocks.log_evidence(self.margin, a=(sign, 0.0), b=(0.0, 1.0)))

    def _asymptotic(self, sign: int) -> float:
        spread = self.variance + self.prior
        z = (sign * self.difference - self.margin * self.weight) / math.sqrt(spread)
        return math.log(2) + 0.5 * math.log(self.prior / spread) + z * z / 2 + float(log_ndtr(z))

    def confidence_sequence(self, alpha: float) -> Interval:
        """Return the interval of "candidate mean minus stable mean", in the KPI's unit.

        Unbounded while nothing varies. The estimate is the weighted difference.

        Raises:
            InvalidInput: If `alpha` isn't between 0 and 1.
        """
        check_alpha(alpha)
        estimate = self.difference / self.weight if self.weight else None
        if estimate is None or not self.prior > 0:
            return Interval(lower=-math.inf, upper=math.inf, estimate=estimate)
        spread = self.variance + self.prior
        radius = math.sqrt(spread * math.log(spread / (self.prior * alpha**2))) / self.weight
        lower, upper = estimate - radius, estimate + radius
        if self.blocks is not None:
            ends = self.blocks.bounds(alpha, a=(1.0, 0.0), b=(0.0, 1.0))
            lower, upper = min(lower, ends[0]), max(upper, ends[1])
        return Interval(lower=lower, upper=upper, estimate=estimate)

    @property
    def room(self) -> int:
        """What the blocks will still take."""
        return 0 if self.blocks is None else self.blocks.room

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return the guard "the mean of `name` is worse on the candidate"."""
        interval = self.confidence_sequence(alpha)
        if finite(interval.lower) is None or interval.estimate is None:
            summary = "too few varying observations to compare the means"
            if self.unfit:
                summary = (
                    "the sums do not fit the number of observations (yet): give 'label_delay' where they come later"
                )
        else:
            summary = (
                f"the candidate's mean differs by {interval.estimate:+.4g} "
                f"(between {interval.lower:+.4g} and {interval.upper:+.4g})"
            )
            if self.stratum and (self.candidate.count or self.stable.count):
                summary += f"; the last {self.candidate.count:,} and {self.stable.count:,} still wait for their sums"
        figures = {"difference": to_json(interval), "p_value": self.p_value}
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=summary, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        """Return the bound on how much worse the candidate's mean is, if a difference is allowed."""
        if allowed.difference is None:
            return ()
        interval = self.confidence_sequence(alpha)
        bound = PromotionBound(
            name=name,
            measure="difference of means",
            upper=interval.upper if self.worse == "higher" else -interval.lower,
            allowed=allowed.difference,
            assumption="Large samples: the sequence for means is asymptotic.",
        )
        return (bound,)

    def figures(self, alpha: float) -> Figures:
        """Return the difference; sums of intervals have no mean of their own to show."""
        return Figures(ratio=self.confidence_sequence(alpha))
