r"""Latency quantiles with confidence sequences, for the report.

For the quantile at level `q` the number of answers at most as slow as it is binomial with probability `q` (or more,
where the distribution jumps), so an edge can be told apart from the quantile by the beta-binomial evidence of
`proportion`: Howard & Ramdas 2022, "Sequential estimation of quantiles with applications to A/B testing and best-arm
identification", Bernoulli 28(3). Counts rise with the edge, so no correction for the number of edges is
needed. Buckets can't say more than between which edges the quantile lies.
"""

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.interval import Interval, check_alpha
from mlflow_istio.core.analysis.proportion import Proportion
from mlflow_istio.errors import InvalidInput

PRIOR_WORTH = 50.0
"""The prior counts as so many answers: narrowest from some hundred to some ten thousand answers."""


def quantile_sequence(buckets: Buckets, quantile: float, alpha: float) -> Interval:
    """Return the edges between which a latency quantile lies, at every look with probability 1 - alpha.

    Args:
        buckets: All answers of one version since the start, milliseconds.
        quantile: The level, strictly between 0 and 1; 0.99 is p99.
        alpha: Error probability over all looks.

    Returns:
        Milliseconds: 0 and infinity where the buckets exclude nothing. The estimate is linear inside its bucket (its
        lower edge in the last one), as Prometheus does it; None without answers.

    Raises:
        InvalidInput: If the quantile or alpha isn't between 0 and 1.
    """
    check_alpha(alpha)
    if not 0 < quantile < 1:
        raise InvalidInput(f"a quantile is a share strictly between 0 and 1, got {quantile}")
    prior = (PRIOR_WORTH * quantile, PRIOR_WORTH * (1 - quantile))
    lower, upper = 0.0, float("inf")
    for edge, count in zip(buckets.edges[:-1], buckets.counts[:-1], strict=True):
        share = Proportion(events=count, total=buckets.total).confidence_sequence(alpha, prior=prior)
        if share.upper < quantile:
            lower = edge
        if share.lower > quantile:
            upper = edge
            break
    return Interval(lower=lower, upper=upper, estimate=_estimate(buckets, quantile))


def _estimate(buckets: Buckets, quantile: float) -> float | None:
    if buckets.total == 0:
        return None
    rank = quantile * buckets.total
    left_edge, left_count = 0.0, 0
    for edge, count in zip(buckets.edges[:-1], buckets.counts[:-1], strict=True):
        if count >= rank:
            return left_edge + (edge - left_edge) * (rank - left_count) / (count - left_count)
        left_edge, left_count = edge, count
    return left_edge
