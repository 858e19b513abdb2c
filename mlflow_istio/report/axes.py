"""Scales and ticks: purely from a range of values to positions and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: Position, 0 (left or bottom) to 1.
        text: Its label.
    """

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A range with its ticks.

    Attributes:
        low: The lowest value shown.
        high: The highest value shown, above ``low``.
        log: Whether the scale is logarithmic.
        ticks: Its marks, low to high.
    """

    low: float
    high: float
    log: bool = False
    ticks: tuple[Tick, ...] = ()

    def at(self, value: float) -> float:
        """Position of a value, 0 to 1; what is outside stands at the edge."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if self.log:
            value = math.log(value) if value > 0 else -math.inf
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear_axis(values: Iterable[float], text: Callable[[float], str], *, floor: float = 0.0, least: float) -> Axis:
    """An axis from ``floor`` to a round number above all values.

    Args:
        values: What must fit.
        text: Writes a label.
        floor: Where it begins.
        least: The highest value is at least this, so that a flat line at the floor still has a scale.
    """
    top = max([least, *values])
    step = _round_up((top - floor) / 4)
    count = max(1, math.ceil((top - floor) / step - 1e-9))
    high = floor + count * step
    ticks = [floor + index * step for index in range(count + 1)]
    return _axis(floor, high, ticks, text, log=False)


def log_axis(values: Iterable[float], text: Callable[[float], str], *, low: float, high: float, include: float) -> Axis:
    """A logarithmic axis that fits the values as far as they are between ``low`` and ``high``, and ``include`` in any case."""
    inside = [min(high, max(low, value)) for value in values]
    bottom, top = min([include, *inside]) / 1.15, max([include, *inside]) * 1.15
    if top / bottom < 4:  # at least two doublings, so that noise does not fill the whole height
        middle = math.sqrt(top * bottom)
        bottom, top = middle / 2, middle * 2
    decades = math.log10(top / bottom)
    spacing = {3.0: (1.0,), 1.7: (1.0, 3.0), 0.9: (1.0, 2.0, 5.0), 0.0: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)}
    marks = next(marks for least_decades, marks in spacing.items() if decades > least_decades)
    ticks = [
        mark * 10.0**power
        for power in range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
        for mark in marks
    ]
    if decades > 6:
        ticks = ticks[:: math.ceil(decades / 6)]
    return _axis(bottom, top, [tick for tick in ticks if bottom <= tick <= top], text, log=True)


def time_axis(start: float, end: float) -> Axis:
    """An axis from one time to another.

    Args:
        start: Seconds since 1970.
        end: Seconds since 1970; an empty range is widened.
    """
    if end - start < 1:
        start, end = start - 0.5, end + 0.5
    wanted = (end - start) / 4
    step = next((step for step in _STEPS if step >= wanted), math.ceil(wanted / _DAY) * _DAY)
    form = "%H:%M:%S" if step < 60 else "%H:%M" if end - start < _DAY else "%d %b %H:%M" if step < _DAY else "%d %b"
    first = math.ceil(start / step)
    ticks = [index * step for index in range(first, math.floor(end / step) + 1)]
    return _axis(start, end, ticks, lambda value: datetime.fromtimestamp(value, timezone.utc).strftime(form), log=False)


def _axis(low: float, high: float, ticks: Iterable[float], text: Callable[[float], str], *, log: bool) -> Axis:
    bare = Axis(low=low, high=high, log=log)
    return Axis(low=low, high=high, log=log, ticks=tuple(Tick(at=bare.at(value), text=text(value)) for value in ticks))


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(mark * power for mark in (1, 2, 2.5, 5, 10) if mark * power >= value * (1 - 1e-9))
