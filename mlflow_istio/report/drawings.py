"""Which charts a release gets, from its changes and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mlflow_istio.ports.runs import Figure
from mlflow_istio.report.axes import Axis, linear_axis, log_axis, time_axis
from mlflow_istio.report.charts import (
    Chart,
    Line,
    Mark,
    Point,
    band_path,
    line_path,
    points_of,
    sampled,
    seconds,
)
from mlflow_istio.report.data import ReportData
from mlflow_istio.report.words import GUARDS, e_value, guard_name, listed, moment, number, percent, shares, times

USUAL_ALPHA = 0.05
_STYLES = 6
_FURTHEST = 100.0
"""Odds ratios are drawn from 1/100 to 100: the first looks' sequences reach from almost 0 to almost infinity."""


def charts_of(data: ReportData) -> list[Chart]:
    """The charts that the data suffice for."""
    x = _time(data)
    if x is None:
        return []
    charts = [
        _weights(data, x),
        _evidence(data, x),
        *(_arms(data, x, kpi, at) for at, kpi in enumerate(data.arms_kpis)),
    ]
    for number_, guard in enumerate(data.guards):
        charts += [_rates(data, x, guard, number_), _ratio(data, x, guard, number_)]
    return [chart for chart in charts if chart is not None]


def alpha_of(data: ReportData) -> float:
    """The plan's alpha."""
    alpha = data.plan.get("alpha", USUAL_ALPHA)
    return float(alpha) if isinstance(alpha, (int, float)) and 0 < alpha < 1 else USUAL_ALPHA


def _time(data: ReportData) -> Axis | None:
    times_ = [seconds(change.time) for change in data.changes]
    times_ += [
        seconds(point.time)
        for name in data.figures
        if name.startswith(("look/", "arms/"))
        for point in data.series(name)
    ]
    if not times_:
        return None
    end = seconds(data.made) if not data.outcome else max(times_)
    start = min(times_)
    end = max(end, *times_)
    # A little room at the end, so that the state a release ended in can be seen.
    return time_axis(start, end + (max(1.0, 0.04 * (end - start)) if data.outcome else 0.0))


def _weights(data: ReportData, x: Axis) -> Chart | None:
    if not data.changes:
        return None
    points: dict[str, list[Point]] = {}
    states = [(data.changes[0].time, data.changes[0].before)] + [(change.time, change.after) for change in data.changes]
    for time, traffic in states:
        now = {name: float(weight) for name, weight in shares(traffic).items()}
        now |= {f"{m.destination.name} (mirrored)": m.percentage for m in traffic.mirrors} if traffic else {}
        for name in {*points, *now}:
            points.setdefault(name, []).append((seconds(time), now.get(name, 0.0)))
    drawn = {name: line for name, line in points.items() if any(value for _, value in line)}
    if not drawn:
        return None
    y = linear_axis([100.0], lambda value: f"{value:.0f}%", least=100.0)
    order = sorted(drawn, key=lambda name: (name.split(" (")[0] in data.candidates, name))
    lines = tuple(
        Line(
            name=name,
            style=index % _STYLES,
            path=line_path([*drawn[name], (x.high, drawn[name][-1][1])], x, y, steps=True),
            last=f"{drawn[name][-1][1]:g}%",
        )
        for index, name in enumerate(order)
    )
    ends = ", ".join(f"{line.name} {line.last}" for line in lines)
    rows = [
        (moment(time), *(f"{dict(drawn[name]).get(seconds(time), 0.0):g}%" for name in order)) for time, _ in states
    ]
    return Chart(
        id="weights",
        title="Traffic over time",
        note="Percent of the live requests that each version was to get.",
        summary=f"Step chart of the weights of {listed(order)} over {len(data.changes)} changes; at the end {ends}.",
        lines=lines,
        x=x.ticks,
        y=y.ticks,
        columns=("time (UTC)", *order),
        rows=sampled(rows),
        wide=True,
    )


def _evidence(data: ReportData, x: Axis) -> Chart | None:
    combined = data.series("look/evidence")
    if not combined:
        return None
    limit = 1 / alpha_of(data)
    named = [("all guards together", combined)] if len(data.guards) > 1 else []
    named += [(guard_name(guard), data.series(f"look/{guard}/log_e")) for guard in data.guards]
    named = [(name, line) for name, line in named if line] or [("evidence", combined)]
    values = {name: [(at, _exp(value)) for at, value in points_of(line)] for name, line in named}
    every = [value for line in values.values() for _, value in line]
    y = log_axis(every, number, low=0.01, high=limit * 1e4, include=limit)
    highest = max(point.value for point in combined)
    crossed = highest >= math.log(limit)
    return Chart(
        id="evidence",
        wide=True,
        title="Evidence against the candidate",
        note=(
            f"How strongly the figures speak for the candidate being worse (an e-value). At {number(limit)} the traffic goes "
            f"back; a candidate as good as stable ever gets there with a probability of at most {percent(1 / limit)}, however "
            "often one looks."
        ),
        summary=(
            f"Line chart of the evidence over {len(combined)} looks; it ended at {e_value(combined[-1].value)}, its highest was "
            f"{e_value(highest)}, {'at or above' if crossed else 'below'} the rollback line at {number(limit)}."
        ),
        lines=tuple(
            Line(
                name=name,
                style=index % _STYLES if len(named) > 1 else 1,
                path=line_path(line, x, y),
                last=e_value(dict(named)[name][-1].value),
            )
            for index, (name, line) in enumerate(values.items())
        ),
        x=x.ticks,
        y=y.ticks,
        marks=(Mark(at=y.at(limit), text=f"roll back at {number(limit)}"),),
        columns=("time (UTC)", "look", *values),
        rows=_table([line for _, line in named], e_value),
    )


def _rates(data: ReportData, x: Axis, guard: str, index: int) -> Chart | None:
    sides = [(name, data.series(f"look/{guard}/{name}")) for name in ("stable", "candidate")]
    sides = [(name, line) for name, line in sides if line]
    if not sides:
        return None
    every = [point.value for _, line in sides for point in line]
    shown = percent if all(0 <= value <= 1 for value in every) else number
    y = linear_axis(every, shown, floor=min(0.0, *every), least=max(1e-4, 1.2 * max(every)))
    what = {
        "errors": "Error rate",
        "latency": "Share of slow answers",
        "ttft": "Share of late first tokens",
        "tpot": "Share of answers with slow tokens",
        "tokens": "Share of long answers",
        "unfinished": "Share of unfinished streams",
    }.get(guard, guard)
    note = {
        "errors": "Failed requests as a share of all, summed up since the release began.",
        "latency": "Answers slower than the edge of the latency histogram that was chosen at the start, as a share of all.",
        "ttft": "Streams whose first token came later than the edge that was chosen at the start, as a share of all.",
        "tpot": "Streams slower for each token after the first than the edge that was chosen at the start, as a share of all.",
        "tokens": "Streams of more tokens than the edge that was chosen at the start, as a share of all.",
        "unfinished": "Streams that were cut, as a share of all but those whose caller left.",
    }.get(guard, "The KPI, summed up since the release began.")
    ends = ", ".join(f"{name} {shown(line[-1].value)}" for name, line in sides)
    return Chart(
        id=f"rate-{index}",
        title=what,
        note=note,
        summary=f"Line chart of {what.lower()} by version over {len(sides[0][1])} looks; at the end {ends}.",
        lines=tuple(
            Line(
                name=name,
                style=0 if name == "stable" else 1,
                path=line_path(points_of(line), x, y),
                last=shown(line[-1].value),
            )
            for name, line in sides
        ),
        x=x.ticks,
        y=y.ticks,
        columns=("time (UTC)", "look", *(name for name, _ in sides)),
        rows=_table([line for _, line in sides], shown),
    )


def _ratio(data: ReportData, x: Axis, guard: str, index: int) -> Chart | None:
    names = ("ratio", "ratio_lower", "ratio_upper")
    ratio, lower, upper = (data.series(f"look/{guard}/{name}") for name in names)
    if not (ratio or lower or upper):
        return None
    low, high = 1 / _FURTHEST, _FURTHEST
    # The first looks know little: they are drawn as far as the scale goes that the later ones need.
    settled = [point.value for line in (lower, upper) for point in line[len(line) // 3 :]]
    settled += [point.value for point in ratio[len(ratio) // 10 :]]
    y = log_axis(settled, times, low=low, high=high, include=1.0)
    main = points_of(ratio) or [(at, math.sqrt(a * b)) for (at, a), (_, b) in _paired(lower, upper)]
    what = guard_name(guard)
    between = f"{times(lower[-1].value) if lower else '0x'} to {times(upper[-1].value) if upper else 'unlimited'}"
    confidence = percent(1 - alpha_of(data))
    return Chart(
        id=f"ratio-{index}",
        title=f"{what}: candidate against stable",
        note=(
            f"Odds ratio with its {confidence} confidence sequence (the shaded range, valid at every look)."
            + (" Above 1x the candidate is worse." if guard in GUARDS else "")
        ),
        summary=(
            f"Line chart of the odds ratio over {len(main)} looks; at the end "
            f"{times(main[-1][1]) if main else 'unknown'}, with {confidence} confidence {between}."
        ),
        lines=(
            Line(
                name="odds ratio",
                style=1,
                path=line_path(main, x, y),
                band=band_path(points_of(lower), points_of(upper), x, y),
                last=f"{times(main[-1][1])} ({between})" if main else between,
            ),
        ),
        x=x.ticks,
        y=y.ticks,
        marks=(Mark(at=y.at(1.0), text="as stable"),),
        columns=("time (UTC)", "look", "odds ratio", "lower bound", "upper bound"),
        rows=_table([ratio, lower, upper], times),
    )


def _arms(data: ReportData, x: Axis, kpi: str, index: int) -> Chart | None:
    """One line for each arm of an A/B/n test, with the confidence sequence of its rate or mean."""
    ends = {arm: data.series(f"arms/{kpi}/{arm}") for arm in data.arms(kpi)}
    drawn = {arm: line for arm, line in ends.items() if line}
    if not drawn:
        return None
    bounds = {arm: (data.series(f"arms/{kpi}_lower/{arm}"), data.series(f"arms/{kpi}_upper/{arm}")) for arm in drawn}
    every = [point.value for line in drawn.values() for point in line]
    # The first looks' sequences reach far: the scale is that of the later ones.
    every += [point.value for pair in bounds.values() for line in pair for point in line[len(line) // 3 :]]
    shown = percent if all(0 <= value <= 1 for value in every) else number
    y = linear_axis(every, shown, floor=min(0.0, *every), least=max(1e-4, 1.1 * max(every)))
    what = "Error rate" if kpi == "errors" else kpi
    confidence = percent(1 - alpha_of(data))
    last = {arm: shown(line[-1].value) for arm, line in drawn.items()}
    return Chart(
        id=f"arms-{index}",
        wide=True,
        title=f"{what} of each arm",
        note=f"Summed up since the first look, with its {confidence} confidence sequence (the shaded range, valid at every look).",
        summary=(
            f"Line chart of {what.lower() if kpi == 'errors' else kpi} by arm; at the end "
            f"{', '.join(f'{arm} {text}' for arm, text in last.items())}."
        ),
        lines=tuple(
            Line(
                name=arm,
                style=at % _STYLES,
                path=line_path(points_of(line), x, y),
                band=band_path(points_of(bounds[arm][0]), points_of(bounds[arm][1]), x, y),
                last=last[arm],
            )
            for at, (arm, line) in enumerate(drawn.items())
        ),
        x=x.ticks,
        y=y.ticks,
        columns=("time (UTC)", "look", *drawn),
        rows=_table(list(drawn.values()), shown),
    )


def _paired(lower: Sequence[Figure], upper: Sequence[Figure]) -> list[tuple[Point, Point]]:
    above = dict(points_of(upper))
    return [((at, value), (at, above[at])) for at, value in points_of(lower) if at in above and value * above[at] > 0]


def _table(lines: Sequence[Sequence[Figure]], text: Callable[[float], str]) -> tuple[tuple[str, ...], ...]:
    steps = {point.step: point.time for line in lines for point in line}
    by_step = [{point.step: point.value for point in line} for line in lines]
    rows = [
        (moment(steps[step]), str(step), *(text(line[step]) if step in line else "-" for line in by_step))
        for step in sorted(steps)
    ]
    return sampled(rows)


def _exp(log_value: float) -> float:
    return math.exp(min(700.0, max(-700.0, log_value)))
