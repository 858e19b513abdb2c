"""The names of the series that every source of metrics speaks, for one deployment.

=======================  ============================================================================
``requests``             answers given, whatever their status
``errors``               of these, the failed ones (5xx, or no answer at all)
``assignments``          of the requests, those that the split's weights gave the deployment (not an arm's header or cookie)
``le/EDGE_MS``           answers that took at most so many milliseconds; ``le/+Inf`` is their number
``ttft/EDGE_MS``         of streamed answers: those whose first token came within so many milliseconds
``tpot/EDGE_MS``         those that took at most so many milliseconds for each token after the first
``tokens/EDGE``          those that had at most so many tokens
``streams/n``            streamed answers that ended, but for those whose caller left
``streams/unfinished``   of these, the ones that were cut
``kpi/NAME/n``           observations of the KPI called NAME
``kpi/NAME/events``      of a binary KPI, how many of them happened
``kpi/NAME/sum``         of a numeric KPI, the sum of the observations
``kpi/NAME/sum_squares`` of a numeric KPI, the sum of their squares
=======================  ============================================================================

All are raw cumulative counters: `core.analysis.counters` differences them. A source may have some and lack others.
Without ``assignments`` the source can't tell a user who comes back by cookie from a new one.
Latency has a denominator of its own because a histogram may lag its proxy's request counter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_istio.errors import InvalidInput

REQUESTS = "requests"
ERRORS = "errors"
ASSIGNMENTS = "assignments"
LATENCY = "le"
STREAM_MEASURES = ("ttft", "tpot", "tokens")
"""What is measured of streamed answers, as histograms; one is only known of some, and by some sources."""
STREAMS = "streams/n"
UNFINISHED = "streams/unfinished"
_KPI = "kpi/"
_TOTALS = "kpi "
_KPI_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
RESERVED_NAMES = frozenset(
    {"assignments", "errors", "gross", "latency", "requests", "streams", "unfinished", *STREAM_MEASURES}
)
"""Names of the built-in guards and counts, which no KPI may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KpiCounts:
    """One KPI's counts; exactly one of the kinds.

    Attributes:
        n: Observations.
        events: How many of them happened; None for a numeric KPI.
        total: Sum of the observations; None for a binary KPI.
        squares: Sum of their squares; None for a binary KPI.
    """

    n: float
    events: float | None = None
    total: float | None = None
    squares: float | None = None

    def __post_init__(self) -> None:
        if (self.events is None) != (self.total is not None) or (self.total is None) != (self.squares is None):
            raise InvalidInput("a KPI gives events, or a sum and a sum of squares")

    def series(self, name: str) -> dict[str, float]:
        """The counts under their series' names."""
        return {
            f"{_KPI}{name}/{part}": value
            for part, value in (
                ("n", self.n),
                ("events", self.events),
                ("sum", self.total),
                ("sum_squares", self.squares),
            )
            if value is not None
        }


def totals_source(name: str) -> str:
    """The source of a KPI whose counts so far come from a callable or a table: running totals, which no restart takes back."""
    return f"{_TOTALS}{name}"


def totals_of(source: str) -> str | None:
    """The KPI of such a source; None for a source that counts by itself, such as a pod, whose name has more to it."""
    name = source.removeprefix(_TOTALS)
    return name if source.startswith(_TOTALS) and _KPI_NAME.fullmatch(name) else None


def latency_series(edge: float) -> str:
    """The series of answers that took at most `edge` milliseconds (infinity: all).

    Every source writes the same edge the same way, so that their buckets can be compared.
    """
    return bucket_series(LATENCY, edge)


def bucket_series(measure: str, edge: float) -> str:
    """The series of answers of which `measure` (`le` for latency, or one of `STREAM_MEASURES`) is at most `edge`."""
    if edge == math.inf:
        return f"{measure}/+Inf"
    return f"{measure}/{int(edge)}" if edge == int(edge) else f"{measure}/{round(edge, 6)!r}"


_FORMS = re.compile(
    r"requests|errors|assignments|streams/(?:n|unfinished)|(?:le|ttft|tpot|tokens)/(?:\+Inf|[0-9]+(?:\.[0-9]+)?)"
    r"|kpi/[A-Za-z0-9][A-Za-z0-9_.-]{0,62}/(?:n|events|sum|sum_squares)"
)


def is_series(name: object) -> bool:
    """Whether this is the name of a series, as the table above has them."""
    return isinstance(name, str) and _FORMS.fullmatch(name) is not None


def latency_counts(series: Mapping[str, int]) -> dict[str, int]:
    """The histogram among the series, `{"250": count, ..., "+Inf": count}`, as `Buckets.from_cumulative` reads it.

    Empty when the source has no histogram.
    """
    return bucket_counts(LATENCY, series)


def bucket_counts(measure: str, series: Mapping[str, int]) -> dict[str, int]:
    """The histogram of a measure among the series, as `Buckets.from_cumulative` reads it; empty without one."""
    start = f"{measure}/"
    return {name.removeprefix(start): count for name, count in series.items() if name.startswith(start)}


def check_kpi_name(name: str) -> str:
    """Return the name.

    Raises:
        InvalidInput: If it can't be part of a series' and a metric's name, or is a built-in guard's.
    """
    if not _KPI_NAME.fullmatch(name):
        raise InvalidInput(
            f"KPI name {name!r}: use up to 63 letters, digits, '_', '.' and '-', a letter or digit first"
        )
    if name in RESERVED_NAMES:
        raise InvalidInput(f"KPI name {name!r} is taken by a built-in one: choose another")
    return name


def kpi_of(series: str) -> str:
    """The KPI that a series belongs to; empty for one that is none's."""
    return series.removeprefix(_KPI).rpartition("/")[0] if series.startswith(_KPI) else ""


def kpi_counts(series: Mapping[str, float], name: str) -> KpiCounts | None:
    """The counts of a KPI among the series; None when the source has none of it."""
    start = f"{_KPI}{name}/"
    if f"{start}n" not in series:
        return None
    n = series[f"{start}n"]
    if f"{start}sum" in series:
        return KpiCounts(n=n, total=series[f"{start}sum"], squares=series.get(f"{start}sum_squares", 0.0))
    return KpiCounts(n=n, events=series.get(f"{start}events", 0.0))
