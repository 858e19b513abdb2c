r"""One proportion against an absolute objective: error rate at most 1%, at most 5% slower than 300 ms.

The evidence against one value `p` is the beta-binomial mixture
`B(a+s, b+n-s) / B(a,b) / (p^s (1-p)^(n-s))` for `s` events among `n` requests (Robbins 1970, Ann. Math. Statist. 41;
Howard & Ramdas 2022, Bernoulli 28). It is a martingale while every request is an event with probability `p`.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import betainc, betaln, expit, logit, xlog1py, xlogy

from mlflow_istio.core.analysis.blocks import Blocks
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, percent, share
from mlflow_istio.core.analysis.interval import Interval, check_alpha, check_counts, check_overdispersion, crossing
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.basics.stored import stored, to_json
from mlflow_istio.errors import InvalidInput

_FARTHEST_LOGIT = 700.0

_ROUNDING = 1e-14
"""Of the likelihood: what rounding may take from it or add to it; more than a log of alpha from 10**15 requests on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportion:
    """Events among requests of one version, with a confidence sequence for the rate.

    It assumes one constant rate: with a rate that drifts, the sequence speaks of no single moment's rate. Comparing two
    versions by their own sequences therefore confuses drift with difference; `RateTest` does not.

    Attributes:
        events: Events so far.
        total: Requests so far.
        overdispersion: Overdispersion, >= 1: both counts are divided by it.
    """

    events: int = 0
    total: int = 0
    overdispersion: float = field(default=1.0, metadata=stored(name="phi"))

    def __post_init__(self) -> None:
        check_counts("proportion", self.events, self.total)
        check_overdispersion(self.overdispersion)

    def update(self, events: int, total: int) -> "Proportion":
        """Return the proportion after one more interval's counts.

        Raises:
            InvalidInput: If a count is negative or events exceed the total.
        """
        events, total = check_counts("proportion", events, total)
        return replace(self, events=self.events + events, total=self.total + total)

    @property
    def rate(self) -> float | None:
        """Events per request, None without requests."""
        return self.events / self.total if self.total else None

    def log_e_value(self, rate: float, *, prior: tuple[float, float] = (0.5, 0.5)) -> float:
        """Return the log evidence against "the rate is exactly `rate`", two-sided, for a beta prior.

        Raises:
            InvalidInput: If `rate` isn't strictly between 0 and 1.
        """
        _check_rate("rate", rate)
        a, b = prior
        hits, misses = self._effective()
        return float(betaln(a + hits, b + misses) - betaln(a, b) - xlogy(hits, rate) - xlog1py(misses, -rate))

    def confidence_sequence(self, alpha: float, *, prior: tuple[float, float] = (0.5, 0.5)) -> Interval:
        """Return the interval of rates whose evidence is below 1/alpha.

        It holds the true rate at every look with probability 1 - alpha.

        Raises:
            InvalidInput: If `alpha` isn't between 0 and 1.
        """
        check_alpha(alpha)
        if self.total == 0:
            return Interval(lower=0.0, upper=1.0, estimate=None)
        a, b = prior
        hits, misses = self._effective()
        limit = float(betaln(a + hits, b + misses) - betaln(a, b) + np.log(alpha))
        limit -= _ROUNDING * abs(limit)

        def inside(log_odds: float) -> float:
            # log p = d - log(1 + e^d) and log(1 - p) = -log(1 + e^d), kept apart so tiny rates stay exact.
            return float(hits * log_odds - (hits + misses) * np.logaddexp(0.0, log_odds)) - limit

        rate = self.events / self.total
        mode = float(np.clip(logit(rate), -_FARTHEST_LOGIT, _FARTHEST_LOGIT))
        lower = crossing(inside, mode, -_FARTHEST_LOGIT, beyond=-np.inf)
        upper = crossing(inside, mode, _FARTHEST_LOGIT, beyond=np.inf)
        return Interval(lower=float(expit(lower)), upper=float(expit(upper)), estimate=rate)

    def _effective(self) -> tuple[float, float]:
        return self.events / self.overdispersion, (self.total - self.events) / self.overdispersion


RATE = {"a": (1.0, 0.0), "b": (0.0, 1.0)}
"""How a block's row makes up the estimating function of a rate."""

NO_REQUESTS = Proportion()
"""No requests yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveTest(GuardTest):
    """Evidence that one version's rate of events is above an absolute limit.

    One-sided: the beta prior is cut off below the limit, so the e-value is one for every rate up to the limit
    (monotone likelihood ratio). The prior has `a = 1/2` and its mean at twice the limit (halfway to 1 above 1/3).

    With `blocks` the t-test over blocks of time (see `blocks`) must agree, since requests are not independent.

    Attributes:
        limit: The largest acceptable rate, strictly between 0 and 1.
        counts: Events and requests so far.
        blocks: Sums of events and of requests over blocks of time; None: requests are independent.
    """

    limit: float
    counts: Proportion = field(default=NO_REQUESTS, metadata=stored(flat=True))
    blocks: Blocks | None = field(default=None, metadata=stored(sparse=True))

    def __post_init__(self) -> None:
        _check_rate("limit", self.limit)

    @classmethod
    def of(cls, phase: float, *, limit: float, overdispersion: float = 1.0) -> "ObjectiveTest":
        """Return a test that has seen nothing.

        Args:
            phase: The longest slow phase in seconds; 0: requests are independent.
            limit: The largest acceptable rate.
            overdispersion: Overdispersion.

        Raises:
            InvalidInput: A value is out of its range.
        """
        blocks = Blocks.of(phase, columns=2) if phase else None
        return cls(limit=limit, counts=Proportion(overdispersion=overdispersion), blocks=blocks)

    def update(self, events: int, total: int, *, seconds: float = 1.0) -> "ObjectiveTest":
        """Return the test after one more interval's counts.

        Args:
            events: Events in this interval.
            total: Requests in this interval.
            seconds: How long it was.

        Raises:
            InvalidInput: If a count is negative or events exceed the total.
        """
        counts = self.counts.update(events, total)
        blocks = None if self.blocks is None else self.blocks.update((float(events), float(total)), seconds)
        return replace(self, counts=counts, blocks=blocks).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence now against "rate <= limit"; minus infinity when it is too small for a double."""
        exact = self._exact()
        return exact if self.blocks is None else min(exact, self.blocks.log_evidence(self.limit, **RATE))

    def _exact(self) -> float:
        a, b = self._prior()
        hits, misses = self.counts._effective()
        with np.errstate(divide="ignore"):
            # The mass above p of Beta(a, b) is the mass below 1 - p of Beta(b, a).
            share_above = np.log(betainc(b + misses, a + hits, 1 - self.limit)) - np.log(betainc(b, a, 1 - self.limit))
        return self.counts.log_e_value(self.limit, prior=(a, b)) + float(share_above)

    def confidence_sequence(self, alpha: float) -> Interval:
        """Return the interval of rates (see `Proportion.confidence_sequence`); with blocks, one that holds theirs, too."""
        exact = self.counts.confidence_sequence(alpha)
        if self.blocks is None:
            return exact
        lower, upper = self.blocks.bounds(alpha, **RATE)
        return replace(exact, lower=max(0.0, min(exact.lower, lower)), upper=min(1.0, max(exact.upper, upper)))

    @property
    def room(self) -> int:
        """What the blocks will still take."""
        return 0 if self.blocks is None else self.blocks.room

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        """Return the guard "`name` is above its limit on the candidate"."""
        counts = share(self.counts.events, self.counts.total)
        summary = f"{counts} on the candidate where at most {percent(self.limit)} is allowed"
        figures = {"rate": to_json(self.confidence_sequence(alpha)), "limit": self.limit, "p_value": self.p_value}
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=summary, figures=figures)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:  # noqa: ARG002
        """Return the upper end of the rate, for which the limit is what is allowed."""
        upper = self.confidence_sequence(alpha).upper
        return (PromotionBound(name=name, measure="rate", upper=upper, allowed=self.limit),)

    def figures(self, alpha: float) -> Figures:  # noqa: ARG002
        """Return the candidate's own rate: there is nothing to compare it with."""
        return Figures(candidate=self.counts.rate)

    def proven(self, alpha: float) -> Interval:
        """Return the interval of the candidate's own rate."""
        return self.confidence_sequence(alpha)

    def _prior(self) -> tuple[float, float]:
        mean = min(2 * self.limit, (1 + self.limit) / 2)
        return 0.5, 0.5 * (1 - mean) / mean


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise InvalidInput(f"{name} is a rate strictly between 0 and 1, got {rate}")
