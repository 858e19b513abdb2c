"""How many replicas a release may have beyond those at its start, as people say it; imports nothing that is slow to import."""

from __future__ import annotations

import math

from mlflow_istio.errors import InvalidInput

EXACT = 1e-9
"""A third of three replicas is one, whatever floating point makes of it."""


def check_surge_words(surge: str) -> str:
    """The surge, if it is a number of replicas or a percent.

    Raises:
        InvalidInput: It is neither.
    """
    number = surge.removesuffix("%")
    if not (number.isascii() and number.isdigit() and len(number) <= 4):
        raise InvalidInput(
            f"surge is a number of replicas, such as 2, or a percent of the stable's, such as 50%, not {surge!r}"
        )
    return surge


def surge_of(surge: str | None, start: int) -> int | None:
    """How many replicas there may be beyond those at the start; None: as many as are needed.

    Args:
        surge: A number, or a percent of the stable's replicas at the start, rounded up as Kubernetes does for ``maxSurge``.
        start: The stable's replicas at the start.
    """
    if surge is None:
        return None
    if surge.endswith("%"):
        return math.ceil(start * int(surge[:-1]) / 100 - EXACT)
    return int(surge)


def replicas_for(start: int, share: float) -> int:
    """Replicas that a share of the traffic needs, where all of it had so many: rounded up, at least one.

    Args:
        start: The stable's replicas when the release began.
        share: Percent of the traffic.
    """
    return max(1, math.ceil(start * share / 100 - EXACT))


def replicas_alike(start: int, share: float, left: float) -> int:
    """Replicas with which each gets about as much of the traffic as each of the stable's, which keeps all of its own.

    As near as whole replicas come to it, never below what the share needs and never more than the stable has.

    Args:
        start: The stable's replicas when the release began.
        share: Percent of the traffic.
        left: Percent that the stable answers beside it.
    """
    alike = start if left <= 0 else math.floor(start * share / left + 0.5)
    return max(replicas_for(start, share), min(start, alike))
