"""The log of a sum of exponentials.

`scipy.special.logsumexp` does the same for any array library and shape; of the sums here, a few dozen numbers each and
several at every look of every replayed release, its checks take nine tenths of the time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def log_sum_exp(terms: NDArray[np.float64], *, axis: int = -1) -> Any:
    """Return `log sum exp(terms)` along an axis; minus infinity where all terms are.

    Args:
        terms: Logs, none of them nan or infinity.
        axis: The axis that is summed.
    """
    largest = np.max(terms, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(terms - shift).sum(axis=axis)) + shift.squeeze(axis)
