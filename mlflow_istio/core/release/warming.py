"""Is a fresh version warm? By how fast it answers the same requests, not by the clock.

A process is slow for its first hundreds of requests, each for reasons of its own (imports, caches, just-in-time compilers, a
thread pool that fills); how long that takes nobody knows beforehand. It is over when the answers stop getting faster: when two
windows, one after the other, agree at the median and at the 90th percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow_istio.core.release.plan import ReleasePlan

WINDOW = 50
"""Requests of a window at least, for each replica: a proxy deals them out."""

AGREEMENT = 0.10
"""By how much the slower window may be slower, as a share of the faster one."""

LEAST = 0.001
"""Seconds below which a difference is the caller's own."""

PART = 6
"""Each of the two windows is a sixth of all answers, where that is more: small ones may differ by a tenth by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How fast the answers of a window were.

    Attributes:
        requests: How many.
        median: Seconds.
        slow: The 90th percentile, in seconds.
    """

    requests: int
    median: float
    slow: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Window:
        """The window of these answers; at least one."""
        ordered = sorted(seconds)
        count = len(ordered)
        return cls(requests=count, median=ordered[math.ceil(0.5 * count) - 1], slow=ordered[math.ceil(0.9 * count) - 1])

    def agrees(self, other: Window) -> bool:
        """Whether two windows are as fast as each other, as far as that can be told."""
        return _alike(self.median, other.median) and _alike(self.slow, other.slow)


def last_windows(seconds: Sequence[float], replicas: int = 1) -> tuple[Window, Window] | None:
    """The two newest windows; None while there are too few answers.

    Args:
        seconds: How long each answer took, in the order they were asked for.
        replicas: How many servers answer.
    """
    size = max(WINDOW * max(1, replicas), len(seconds) // PART)
    if len(seconds) < 2 * size:
        return None
    return Window.of(seconds[-2 * size : -size]), Window.of(seconds[-size:])


def has_settled(seconds: Sequence[float], replicas: int = 1) -> bool:
    """Whether the two newest windows agree; the arguments are those of ``last_windows``."""
    windows = last_windows(seconds, replicas)
    return windows is not None and windows[0].agrees(windows[1])


def counts_after(plan: ReleasePlan, *, warmed: bool) -> float:
    """Seconds of the candidate's traffic that count for nothing.

    A warmed one has but to get its first users: one look in which weights changed, or as long as the source of figures may be late
    (it may have counted the warm-up's requests itself).

    Args:
        plan: The plan.
        warmed: Whether the candidate has settled before its first user.
    """
    return min(plan.warmup, max(plan.interval, plan.settle)) if warmed else plan.warmup


def counted_by(plan: ReleasePlan, *, warmed: bool) -> ReleasePlan:
    """The plan by which looks are taken in: the latency of one that is warm counts from its first answers on."""
    return replace(plan, warm_requests=0) if warmed and plan.warm_requests else plan


def _alike(first: float, second: float) -> bool:
    return abs(first - second) <= max(AGREEMENT * min(first, second), LEAST)
