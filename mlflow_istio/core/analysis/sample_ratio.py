r"""Did each version get its share of the traffic? If not, no comparison can be trusted.

Dirichlet-multinomial mixture with `a = 100 theta` (Lindon & Malek, NeurIPS 2022, arXiv 2011.03567): the evidence
against "each request goes to version i with probability theta_i" is `Gamma(A)/Gamma(A+n) prod
Gamma(a_i+n_i)/Gamma(a_i) / prod theta_i^n_i`, a martingale under that hypothesis. Periods with different weights
multiply.

With sticky arms count assignments, not requests: one user's requests are not independent. Pinned, probe and mirrored
requests share a version's counters and must not be in these counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import gammaln

from mlflow_istio.core.analysis.e_process import EProcess
from mlflow_istio.core.analysis.interval import check_alpha
from mlflow_istio.errors import InvalidInput

CONCENTRATION = 100.0
"""The prior counts as so many requests at the intended shares."""

MISMATCH_ALPHA = 0.01
"""Probability of ever reporting a mismatch that isn't one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRatioTest(EProcess):
    """An anytime-valid test of the traffic shares; start with `SampleRatioTest.of(weights)`.

    Attributes:
        shares: The intended share of each deployment with a weight, adding up to 1.
        counts: Requests (or assignments) of each in the present weight period.
        past_log_e: The log evidence of the weight periods before.
    """

    shares: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    past_log_e: float = 0.0

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
        return replace(self, counts=summed).with_peak()

    @property
    def log_e_value(self) -> float:
        """Log of the evidence now against the intended shares."""
        theta = np.array(list(self.shares.values()))
        seen = np.array([self.counts.get(name, 0) for name in self.shares], dtype=np.float64)
        prior = CONCENTRATION * theta
        mixture = gammaln(CONCENTRATION) - gammaln(CONCENTRATION + seen.sum())
        mixture += (gammaln(prior + seen) - gammaln(prior)).sum()
        return self.past_log_e + float(mixture - (seen * np.log(theta)).sum())

    def mismatched(self, alpha: float = MISMATCH_ALPHA) -> bool:
        """Tell whether the shares were ever refuted at `alpha`: a mismatch once seen stays."""
        check_alpha(alpha)
        return self.p_value <= alpha


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    if total <= 0 or any(weight < 0 for weight in weights.values()):
        raise InvalidInput(f"weights must be at least 0 and one above it, got {dict(weights)}")
    return {name: weight / total for name, weight in sorted(weights.items()) if weight}
