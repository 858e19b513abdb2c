r"""Did each version get its share of the traffic? If not, no comparison can be trusted.

Dirichlet-multinomial mixture with `a = 100 theta` (Lindon & Malek, NeurIPS 2022, arXiv 2011.03567): the evidence
against "each request goes to version i with probability theta_i" is `Gamma(A)/Gamma(A+n) prod
Gamma(a_i+n_i)/Gamma(a_i) / prod theta_i^n_i`, a martingale under that hypothesis. Periods with different weights
multiply.

With sticky arms count assignments, not requests: one user's requests are not independent. Pinned, probe and mirrored
requests share a version's counters and must not be in these counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import gammaln

from mlflow_istio.core.analysis.e_process import EProcess
from mlflow_istio.core.analysis.interval import check_alpha
from mlflow_istio.core.basics.stored import stored
from mlflow_istio.errors import InvalidInput

CONCENTRATION = 100.0
"""The prior counts as so many requests at the intended shares."""

MISMATCH_ALPHA = 0.01
"""Probability of ever reporting a mismatch that isn't one, and of ever calling one over that goes on."""

_ENOUGH = math.log(1 / MISMATCH_ALPHA)
_UNKNOWN = 0.9
"""Half-way to a mismatch of unknown size: a tenth of the smallest share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRatioTest(EProcess):
    """An anytime-valid test of the traffic shares; start with `SampleRatioTest.of(weights)`.

    Attributes:
        shares: The intended share of each deployment with a weight, adding up to 1.
        counts: Requests (or assignments) of each in the present weight period.
        past_log_e: The log evidence of the weight periods before.
        misfit: Where a mismatch isn't over: what each deployment's share would be if it were half as large, as a multiple of the
            intended one.
        fit_log_e: The log evidence since for the intended shares and against those.
    """

    shares: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    past_log_e: float = 0.0
    misfit: Mapping[str, float] = field(default_factory=dict, metadata=stored(sparse=True))
    fit_log_e: float = field(default=0.0, metadata=stored(sparse=True))

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> "SampleRatioTest":
        """Return a test for `{deployment: weight}`; deployments of weight 0 are left out.

        Raises:
            InvalidInput: If a weight is negative or none is positive.
        """
        return cls(shares=_shares(weights))

    def reweighted(self, weights: Mapping[str, float]) -> "SampleRatioTest":
        """Return the test with a new weight period begun; call it whenever the traffic's weights change.

        Raises:
            InvalidInput: If a weight is negative or none is positive.
        """
        return replace(self, shares=_shares(weights), counts={}, past_log_e=self.log_e_value)

    def update(self, counts: Mapping[str, int]) -> "SampleRatioTest":
        """Return the test after one more interval's requests of each deployment.

        Raises:
            InvalidInput: If a count is negative, or a deployment without a share got requests.
        """
        strangers = sorted(name for name, count in counts.items() if count and name not in self.shares)
        if strangers:
            raise InvalidInput(
                f"requests on {', '.join(strangers)}, which has no weight: leave pinned, probe and mirrored requests "
                "out, and call reweighted() when weights change"
            )
        if any(count < 0 for count in counts.values()):
            raise InvalidInput(f"counts must not be negative, got {dict(counts)}")
        summed = {name: self.counts.get(name, 0) + int(counts.get(name, 0)) for name in self.shares}
        fit_log_e = self.fit_log_e + sum(counts.get(name, 0) * fit for name, fit in self._fits().items())
        return replace(self, counts=summed, fit_log_e=fit_log_e).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence now against the intended shares."""
        theta = np.array(list(self.shares.values()))
        seen = np.array([self.counts.get(name, 0) for name in self.shares], dtype=np.float64)
        prior = CONCENTRATION * theta
        mixture = gammaln(CONCENTRATION) - gammaln(CONCENTRATION + seen.sum())
        mixture += (gammaln(prior + seen) - gammaln(prior)).sum()
        return self.past_log_e + float(mixture - (seen * np.log(theta)).sum())

    @property
    def still_to_fit(self) -> int:
        """About how many more requests must fit the shares until a mismatch is over; 0: none, or nobody can tell."""
        each = sum(self.shares[name] * fit for name, fit in self._fits().items())
        return math.ceil((_ENOUGH - self.fit_log_e) / each) if each > 0 else 0

    def mismatched(self, alpha: float = MISMATCH_ALPHA) -> bool:
        """Tell whether the shares were ever refuted at `alpha`, and fit not again since as `watched` has it."""
        check_alpha(alpha)
        return bool(self.misfit) or self.p_value <= alpha

    def watched(self) -> "SampleRatioTest":
        """Return the test with its mismatch as something that may end, such as a gateway that learns of a step too late.

        Counting begins anew where the shares are refuted. The mismatch is over once a likelihood ratio of the intended shares to
        those half-way to what was seen reaches 1/`MISMATCH_ALPHA`. While requests go on as they were seen, or anything beyond
        half-way, that ratio is a supermartingale: such a mismatch is ever called over with a probability of `MISMATCH_ALPHA` at
        most (Ville's inequality, as in `EProcess`).
        """
        if self.p_value <= MISMATCH_ALPHA:
            return SampleRatioTest(shares=self.shares, misfit=self._half_way())
        if self.misfit and self.fit_log_e >= _ENOUGH:
            return replace(self, misfit={}, fit_log_e=0.0)
        return self

    def _half_way(self) -> dict[str, float]:
        total = sum(self.counts.values())
        if not total or self.log_e_value < 2 * self.past_log_e:
            # Earlier weights were refuted rather than these, and how is known no more.
            return {**dict.fromkeys(self.shares, 1.0), min(self.shares, key=self.shares.__getitem__): _UNKNOWN}
        return {name: (1 + self.counts.get(name, 0) / total / share) / 2 for name, share in self.shares.items()}

    def _fits(self) -> dict[str, float]:
        """What a request of each deployment adds to the evidence that shares fit again."""
        if not self.misfit:
            return {}
        half_way = {name: share * self.misfit.get(name, 1.0) for name, share in self.shares.items()}
        total = sum(half_way.values())
        return {name: math.log(share * total / half_way[name]) for name, share in self.shares.items()}


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    if total <= 0 or any(weight < 0 for weight in weights.values()):
        raise InvalidInput(f"weights must be at least 0 and one above it, got {dict(weights)}")
    return {name: weight / total for name, weight in sorted(weights.items()) if weight}
