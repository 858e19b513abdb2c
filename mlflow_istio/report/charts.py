"""Charts as values: lines, bands and marks in positions from 0 to 1, which the page draws as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mlflow_istio.ports.runs import Figure
from mlflow_istio.report.axes import Axis, Tick

MOST_POINTS = 300
"""Points of one line; more can't be told apart, and the page must stay small."""

_SIZE = 1000

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        style: Number of its colour and dash pattern.
        path: SVG path in a square of 1000.
        band: SVG path of the area around it; empty: none.
        last: Its last value as text.
    """

    name: str
    style: int
    path: str
    band: str = ""
    last: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A horizontal line that means something.

    Attributes:
        at: Position from the bottom, 0 to 1.
        text: What it means.
    """

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        id: Unique in the page.
        title: Its heading.
        note: What it shows and how to read it.
        summary: The same in words, for those who can't see it.
        lines: Its lines.
        x: Marks on the time axis.
        y: Marks on the other axis.
        marks: Horizontal lines.
        columns: Headings of its table of values.
        rows: Its values as text, at most 40.
        wide: Whether it takes the whole width.
    """

    id: str
    title: str
    note: str
    summary: str
    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    wide: bool = False


def seconds(time: datetime) -> float:
    """Seconds since 1970."""
    return time.timestamp()


def points_of(figures: Sequence[Figure]) -> list[Point]:
    """(seconds, value) of each figure."""
    return [(seconds(figure.time), figure.value) for figure in figures]


def line_path(points: Sequence[Point], x: Axis, y: Axis, *, steps: bool = False) -> str:
    """An SVG path through the points.

    Args:
        points: (x, y) by x.
        x: The time axis.
        y: The other axis.
        steps: Whether a value holds until the next one.
    """
    parts: list[str] = []
    for index, (at, value) in enumerate(thinned(points)):
        across, down = _place(x, at), _place(y, value, flip=True)
        if not parts:
            parts.append(f"M{across} {down}")
        else:
            parts.append(f"H{across}V{down}" if steps else f"L{across} {down}")
        if len(points) == 1 and index == 0:
            parts.append("h0.01")  # a dot: the round end of a line without length
    return "".join(parts)


def band_path(lower: Sequence[Point], upper: Sequence[Point], x: Axis, y: Axis) -> str:
    """An SVG path around the area between two lines; empty when there is none."""
    high, low = dict(upper), dict(lower)
    both = sorted(high.keys() & low.keys())
    if len(both) < 2:
        return ""
    kept = [at for at, _ in _strided([(at, 0.0) for at in both])]
    there = [f"{_place(x, at)} {_place(y, high[at], flip=True)}" for at in kept]
    back = [f"{_place(x, at)} {_place(y, low[at], flip=True)}" for at in reversed(kept)]
    return f"M{'L'.join([*there, *back])}Z"


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most ``MOST_POINTS`` points, with the highest and the lowest of each stretch, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    kept: list[Point] = []
    size = len(points) / (MOST_POINTS // 4)
    for number in range(MOST_POINTS // 4):
        stretch = points[round(number * size) : round((number + 1) * size)]
        chosen = {0, len(stretch) - 1}
        chosen.add(max(range(len(stretch)), key=lambda index: stretch[index][1]))
        chosen.add(min(range(len(stretch)), key=lambda index: stretch[index][1]))
        kept += [stretch[index] for index in sorted(chosen)]
    return kept


def sampled(rows: Sequence[tuple[str, ...]], most: int = 40) -> tuple[tuple[str, ...], ...]:
    """At most so many rows, evenly, with the first and the last."""
    if len(rows) <= most:
        return tuple(rows)
    return tuple(rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most))


def _strided(points: Sequence[Point]) -> list[Point]:
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(index * (len(points) - 1) / (MOST_POINTS - 1))] for index in range(MOST_POINTS)]


def _place(axis: Axis, value: float, *, flip: bool = False) -> str:
    at = axis.at(value)
    return f"{_SIZE * (1 - at if flip else at):.1f}".removesuffix(".0")
