"""A release while it goes on: a panel in a terminal, plain lines where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mlflow_istio.showing.foreign import add_row, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_istio.core.release.judgement import GuardFigures
    from mlflow_istio.releases.driving.drive import Seen

_BAR = 30

_DOING = {
    "Wait": "waits",
    "Ask": "waits for a person",
    "Shift": "moves traffic",
    "Promote": "promotes",
    "RollBack": "rolls back",
    "GiveUp": "gives up",
    "Stop": "stops",
}


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Seen], None]]:
    """What to show every look to: it redraws a panel in a terminal, and elsewhere prints a line when there is news."""
    if not console.is_terminal:
        yield _Lines(console).show
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield lambda seen: live.update(panel(seen), refresh=True)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """What to tell how many of how many are done: a bar on a terminal's standard error, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _all: None
        return
    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, all_of: progress.update(task, completed=done, total=all_of)


class _Lines:
    """One line for each look that says something new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def show(self, seen: Seen) -> None:
        """Print the look's line, unless it says what the last one said."""
        line = line_of(seen)
        if line != self._last:
            self._console.print(text_of(line), soft_wrap=True)
            self._last = line


def line_of(seen: Seen) -> str:
    """One look in one line: weight, requests, evidence, and what it does or waits for."""
    progress, plan = seen.progress, seen.progress.plan
    requests, other = progress.evidence.requests, progress.evidence.control or plan.stable
    ours = sum(requests.get(name, 0) for name in plan.candidates)
    parts = [
        f"[{seen.endpoint.name}] {_step(seen)}",
        f"{', '.join(plan.candidates)} {progress.weight:g}%",
        f"{ours:,} requests ({other} {requests.get(other, 0):,})",
    ]
    if plan.guards:
        parts.append(f"evidence {_log_e(seen):.2f} of {_threshold(seen):.2f}")
    return f"{'; '.join(parts)}; {_doing(seen)}: {seen.verdict.reason}"


def panel(seen: Seen) -> Group:
    """One look as a panel: weights, each guard with its interval, a bar of evidence, and what it waits for."""
    progress, plan = seen.progress, seen.progress.plan
    head = Text.assemble(
        text_of((seen.endpoint.name, "bold")),
        text_of(f"  {plan.strategy} of {', '.join(plan.candidates)} against {plan.stable}"),
    )
    control = progress.evidence.control
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("deployment", "weight", "requests"):
        table.add_column(heading, justify="left" if heading == "deployment" else "right")
    for name in (*plan.deployments, *((control,) if control else ())):
        weight = seen.endpoint.traffic.weights.get(name, 0)
        shown = f"{name} (control)" if name == control else name
        add_row(table, shown, f"{weight}%", f"{progress.evidence.requests.get(name, 0):,}")
    lines: list[RenderableType] = [head, Text(_step(seen)), table]
    if plan.guards:
        lines += [_guards(seen), _evidence_bar(_log_e(seen), _threshold(seen))]
    style = {"rollback": "red", "inconclusive": "yellow", "advance": "green"}.get(seen.verdict.word, "")
    return Group(*lines, text_of((f"{_doing(seen)}: {seen.verdict.reason}", style)))


def _doing(seen: Seen) -> str:
    """What the driver does; a watch has no weight to wait for, and ends by what promotes elsewhere."""
    if seen.progress.watch is None:
        return _DOING[seen.doing]
    return {"Wait": "watches", "Promote": "ends the watch"}.get(seen.doing, _DOING[seen.doing])


def _threshold(seen: Seen) -> float:
    """Evidence at which traffic goes back."""
    from mlflow_istio.core.release.watching import alpha_share

    progress = seen.progress
    return -math.log(progress.plan.alpha if progress.watch is None else alpha_share(progress))


def _step(seen: Seen) -> str:
    progress = seen.progress
    steps = progress.plan.steps
    if progress.watch is not None:
        return f"promoted, watched against {progress.plan.stable}"
    if progress.step < 0:
        return "before the first step"
    return f"step {progress.step + 1} of {len(steps)} ({' > '.join(f'{step:g}%' for step in steps)})"


def _log_e(seen: Seen) -> float:
    from mlflow_istio.core.release.judgement import log_evidence

    return log_evidence(seen.progress.plan, seen.progress.evidence)


def _guards(seen: Seen) -> Table:
    from mlflow_istio.core.release.judgement import guard_figures

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in (
        "guard",
        "candidate",
        "control" if seen.progress.evidence.control else "stable",
        "odds ratio",
        "evidence",
    ):
        table.add_column(heading, justify="left" if heading == "guard" else "right")
    for figures in guard_figures(seen.progress.plan, seen.progress.evidence):
        add_row(
            table,
            figures.name,
            _percent(figures.candidate),
            _percent(figures.stable),
            interval_text(figures),
            f"{figures.log_e:.2f}",
        )
    return table


def interval_text(figures: GuardFigures) -> str:
    """``1.2 (0.8 to 1.9)``; a dash where nothing is known."""
    ratio = figures.ratio
    if ratio is None or ratio.estimate is None:
        return "-"
    return f"{ratio.estimate:.3g} ({ratio.lower:.3g} to {ratio.upper:.3g})"


def _evidence_bar(log_e: float, threshold: float) -> Text:
    """How far the evidence is on its way to a rollback, on a log scale."""
    filled = round(_BAR * min(1.0, max(0.0, log_e / threshold)))
    style = "red" if filled == _BAR else "yellow" if filled > _BAR // 2 else "green"
    return Text.assemble(
        "against the candidate  ", ("█" * filled, style), "░" * (_BAR - filled), f"  {log_e:.2f} of {threshold:.2f}"
    )


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.3g}%"
