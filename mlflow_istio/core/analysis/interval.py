"""Intervals, and the two numeric steps every confidence sequence here ends with."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow_istio.core.basics.stored import stored
from mlflow_istio.errors import InvalidInput


def finite(value: float | None) -> float | None:
    """Return `value`, or None when it isn't a finite number (JSON has no infinity)."""
    return value if value is not None and math.isfinite(value) else None


FINITE = stored(write=finite)
"""``metadata`` of a number that is None in JSON when it isn't finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """What a confidence sequence says now.

    Attributes:
        lower: Lower end; 0 or minus infinity when the data exclude nothing below.
        upper: Upper end; 1 or infinity when the data exclude nothing above.
        estimate: The value the data fit best, or None when there are no data.
    """

    lower: float = field(metadata=FINITE)
    upper: float = field(metadata=FINITE)
    estimate: float | None = field(metadata=FINITE)

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise InvalidInput(f"an interval needs lower <= upper, got {self.lower} and {self.upper}")

    def contains(self, value: float) -> bool:
        """Tell whether `value` lies inside, ends included."""
        return self.lower <= value <= self.upper

    def mapped(self, function: Callable[[float], float]) -> "Interval":
        """Return the interval of `function`, which must be strictly monotone, at every point."""
        ends = sorted((function(self.lower), function(self.upper)))
        estimate = None if self.estimate is None else function(self.estimate)
        return Interval(lower=ends[0], upper=ends[1], estimate=estimate)


def check_alpha(alpha: float) -> None:
    """Refuse an error probability outside (0, 1).

    Raises:
        InvalidInput: If `alpha` isn't strictly between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha is an error probability between 0 and 1, such as 0.05; got {alpha}")


def check_positive(name: str, value: float) -> None:
    """Refuse a value that isn't a positive finite number.

    Raises:
        InvalidInput: Naming the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{name} must be a positive finite number, got {value}")


def check_overdispersion(overdispersion: float) -> None:
    """Refuse an overdispersion below 1.

    Raises:
        InvalidInput: If `overdispersion` isn't a finite number of at least 1.
    """
    if not (math.isfinite(overdispersion) and overdispersion >= 1):
        raise InvalidInput(f"phi (overdispersion) must be a finite number of at least 1, got {overdispersion}")


def check_counts(version: str, events: int, total: int) -> tuple[int, int]:
    """Return both as plain integers.

    Raises:
        InvalidInput: If one is negative or there are more events than requests.
        TypeError: If one isn't an integer.
    """
    events, total = operator.index(events), operator.index(total)
    if not 0 <= events <= total:
        raise InvalidInput(f"{version}: events must be from 0 to the total, got {events} of {total}")
    return events, total


def bounded_exp(log_value: float) -> float:
    """Return `exp(log_value)`, or infinity where a double can't hold it."""
    return math.exp(log_value) if log_value < 709 else math.inf


def crossing(function: Callable[[float], float], inside: float, end: float, *, beyond: float) -> float:
    """Return where `function`, positive at `inside`, falls to zero on the way to `end`.

    Args:
        function: Continuous, with one sign change at most between the two points.
        inside: A point where the function is positive.
        end: The last point looked at.
        beyond: What to return when the function is still positive at `end`.

    Returns:
        The crossing; `inside` where rounding alone has made the function no more than zero there.
    """
    if function(end) >= 0:
        return beyond
    if function(inside) <= 0:
        return inside
    from scipy.optimize import brentq  # half of what a command takes to start, and few look for a crossing

    return float(brentq(function, inside, end, xtol=1e-12, rtol=1e-12))
