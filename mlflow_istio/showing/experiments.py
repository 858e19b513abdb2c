"""What an open release's data say, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlflow_istio.showing.tables import a_console

View = dict[str, Any]

_SHOWN = 5
_CELL = 60


def print_arms(view: View, console: Console | None = None) -> None:
    """Every arm with its interval, then the outcome."""
    out = console or a_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("arm", "role", "weight", "requests", view["kpi"], "interval"):
        table.add_column(heading, justify="left" if heading in ("arm", "role", "interval") else "right")
    for arm in view["arms"]:
        known = arm["estimate"] is not None
        table.add_row(
            arm["name"],
            arm["role"],
            f"{arm['weight']}%",
            f"{arm['requests']:,}",
            f"{arm['estimate']:.4g}" if known else "",
            f"{_end(arm['lower'])} to {_end(arm['upper'])}" if known else "",
        )
    out.print(table)
    words = view["outcome"] + (f": {view['winner']}" if view["winner"] else "")
    out.print(f"[bold]{words}[/bold] (look {view['looks']})", highlight=False)
    out.print(escape(view["reason"]), highlight=False)


def print_comparison(view: View, console: Console | None = None) -> None:
    """The verdict, the figures, and the most different requests."""
    out = console or a_console()
    figures = view["figures"]
    out.print(f"[bold]{view['verdict']['word']}[/bold]  {escape(view['verdict']['reason'])}", highlight=False)
    counts = "  ".join(
        f"{name} {figures[f'shadow/{name}']:g}"
        for name in ("pairs", "compared", "candidate_failed", "stable_failed", "both_failed")
    )
    out.print(f"{counts}  unmatched {figures['shadow/unmatched_share']:.1%}", highlight=False)
    if view["partial"]:
        out.print(
            "only a part of the traffic is mirrored: lost copies can't be told from requests that were not copied"
        )
    if view["most_different"]:
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for heading in ("request", "difference", "what", view["stable"], view["candidate"]):
            table.add_column(heading)
        for row in view["most_different"][:_SHOWN]:
            size = row["difference"]
            table.add_row(
                row["request_id"],
                "" if size is None else f"{size:.4g}",
                escape(row["note"]),
                *(escape(str(row[f"{side}_output"]))[:_CELL] for side in ("stable", "candidate")),
            )
        out.print(table)


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"
