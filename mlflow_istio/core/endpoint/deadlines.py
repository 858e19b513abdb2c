"""What must end later, as deadlines that stand on the object: they are kept even when the process that set them is dead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mlflow_istio.core.basics.stored import stored

FAULT = "fault"
KEEP = "keep"
COOKIE = "cookie"
WATCH = "watch"
CONTROL = "control"
"""Kinds: a fault ends; a replaced version is deleted; a stale cookie needs no more expiring; a watch that nobody drives ends; a
control is taken away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """Something that ends at a time.

    Attributes:
        kind: ``fault``, ``keep``, ``cookie``, ``watch`` or ``control``.
        at: When, in UTC.
        what: Which one: a deployment for ``keep`` and ``control``, a release for ``cookie`` and ``watch``; empty for the fault.
    """

    kind: str
    at: datetime
    what: str = field(default="", metadata=stored(sparse=True))


def due(deadlines: Iterable[Deadline], now: datetime) -> tuple[Deadline, ...]:
    """Those that have passed, the earliest first."""
    return tuple(sorted((deadline for deadline in deadlines if deadline.at <= now), key=lambda deadline: deadline.at))


def with_deadline(deadlines: tuple[Deadline, ...], new: Deadline) -> tuple[Deadline, ...]:
    """With a deadline, which takes the place of an older one for the same thing."""
    return (*without_deadline(deadlines, new.kind, new.what), new)


def without_deadline(deadlines: tuple[Deadline, ...], kind: str, *what: str) -> tuple[Deadline, ...]:
    """Without the deadlines of a kind; of these things only, where some are named."""
    return tuple(deadline for deadline in deadlines if deadline.kind != kind or (what and deadline.what not in what))
