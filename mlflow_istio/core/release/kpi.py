"""A KPI of the user's: what it is called, which direction is good, and where its counts come from.

A binary KPI counts observations and events (visits and purchases), a numeric one observations, their sum and the sum of
their squares. PromQL texts may hold ``$deployment``, ``$endpoint`` and ``$namespace``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Literal, TypeAlias

from mlflow_istio.core.analysis.measures import KpiCounts, check_kpi_name
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.stored import shortened
from mlflow_istio.errors import InvalidInput

KpiCall: TypeAlias = Callable[[str], "tuple[float, ...] | None"]
"""A deployment's name -> (n, events) or (n, sum, sum of squares) so far, or None without data."""

PLACEHOLDERS = ("deployment", "endpoint", "namespace")
BINARY = frozenset({"n", "events"})
NUMERIC = frozenset({"n", "sum", "sum_squares"})
# A "$" before anything but a word stays: it ends a regular expression, or names a group.
_PLACEHOLDER = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)\}|(?P<plain>[A-Za-z_]\w*))")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kpi:
    """One KPI.

    Attributes:
        name: What people call it; part of metrics' names.
        queries: PromQL by part: n and events, or n, sum and sum_squares. Empty for a callable.
        call: The Python callable, or None.
        counts: Deployment to (n, events) or (n, sum, sum of squares) since the release began, from a table of the user's; empty:
            another source has them.
        better: Which direction is good.
        equivalence_margin: The largest difference that doesn't matter: for a binary KPI an odds ratio above 1, for a numeric one
            a difference in its unit; None where nobody asks whether there is a difference.
        margin: How much worse is acceptable before it is evidence to roll back, in the same measure; None: not at all.
    """

    name: str
    queries: Mapping[str, str] = field(default_factory=dict)
    call: KpiCall | None = None
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    better: Literal["higher", "lower"] = "higher"
    equivalence_margin: float | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        check_kpi_name(self.name)
        if [self.call is not None, bool(self.queries), bool(self.counts)].count(True) != 1:
            raise InvalidInput(
                f"KPI '{self.name}' needs queries (PromQL), a Python callable or counts: give one of them"
            )
        for deployment, numbers in self.counts.items():
            counts_from(f"{self.name}' of '{deployment}", tuple(numbers))
        if self.queries and set(self.queries) not in (BINARY, NUMERIC):
            raise InvalidInput(
                f"KPI '{self.name}' has queries for {', '.join(sorted(self.queries))}: give n and events, or n, sum and "
                "sum_squares"
            )
        for part, query in self.queries.items():
            if "deployment" not in check_placeholders(query, f"query '{part}' of KPI '{self.name}'"):
                raise InvalidInput(
                    f"query '{part}' of KPI '{self.name}' does not hold $deployment, so every version would get the same count"
                )


def check_placeholders(query: str, what: str) -> frozenset[str]:
    """The placeholders in a PromQL text.

    Raises:
        InvalidInput: An unknown one; names the nearest.
    """
    placeholders = {match["braced"] or match["plain"] for match in _PLACEHOLDER.finditer(query)}
    for name in sorted(placeholders - set(PLACEHOLDERS)):
        raise InvalidInput(f"{what} has the unknown placeholder '${name}': {nearest(name, PLACEHOLDERS)}")
    return frozenset(placeholders)


def filled_query(query: str, values: Mapping[str, str]) -> str:
    """A PromQL text with its placeholders replaced."""
    return _PLACEHOLDER.sub(lambda match: values[match["braced"] or match["plain"]], query)


def numbers_from(name: str, answer: object) -> tuple[float, ...] | None:
    """What a KPI's callable returned, as two or three numbers; NumPy's and ``Decimal`` are numbers, too.

    Raises:
        InvalidInput: It is neither None, (n, events) nor (n, sum, sum of squares) of numbers.
    """
    if answer is None:
        return None
    given = tuple(answer) if isinstance(answer, (tuple, list)) else ()
    if len(given) not in (2, 3) or not all(
        isinstance(number, (Real, Decimal)) and not isinstance(number, bool) for number in given
    ):
        raise InvalidInput(
            f"KPI '{name}' gave {shortened(repr(answer))}: give (n, events), (n, sum, sum of squares), or None without data"
        )
    try:
        numbers = tuple(float(number) for number in given)
    except (OverflowError, ValueError):
        numbers = (math.inf,)
    if any(not (math.isfinite(number) and number >= 0) for number in numbers):
        raise InvalidInput(
            f"KPI '{name}' gave {shortened(repr(answer))}: counts, and sums of what is counted so far, are finite and never "
            "negative (add a constant to values below 0)"
        )
    return numbers


def counts_from(name: str, answer: object) -> KpiCounts | None:
    """What a KPI's callable returned, as counts so far.

    Raises:
        InvalidInput: It is neither None, (n, events) nor (n, sum, sum of squares) of numbers, or has more events than observations.
    """
    numbers = numbers_from(name, answer)
    if numbers is None:
        return None
    if len(numbers) == 2:
        n, events = numbers
        if events > n:
            raise InvalidInput(
                f"KPI '{name}' gave {events:g} events of {n:g} observations: give (n, events) with events <= n"
            )
        return KpiCounts(n=n, events=events)
    n, total, squares = numbers
    return KpiCounts(n=n, total=total, squares=squares)
