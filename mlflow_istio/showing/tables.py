"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

View = dict[str, Any]

_PIPE_WIDTH = 200
"""Columns where nothing says how wide the output is: a line that is grepped must not be cut."""

_NARROW = 110
"""Columns below which a history leaves out who and which release."""


def a_console() -> Console:
    """The terminal, or a wide page where the output is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def print_status(views: Sequence[View], target: str, console: Console | None = None) -> None:
    """Endpoints with their split, release and health; says what to do where there is none."""
    out = console or a_console()
    if not views:
        out.print(
            f"no endpoints on {target}: create one with 'mlflow deployments create -t {target} ...'", highlight=False
        )
        return
    for view in views:
        if "problem" in view:
            out.print(f"[bold]{view['name']}[/bold]  [red]{view['problem']}[/red]", highlight=False)
            continue
        _print_endpoint(out, view)


def _print_endpoint(out: Console, view: View) -> None:
    out.print(f"[bold]{view['name']}[/bold]  {view['url']}", highlight=False)
    release = view["release"]
    if release:
        out.print(
            f"  release {release['id']}: {release['strategy']} of {', '.join(release['candidates'])}, {release['state']}, "
            f"since {release['opened']} by {release['who']}",
            highlight=False,
        )
    elif view["last_release"]:
        last = view["last_release"]
        out.print(
            f"  no open release; the last ({last['strategy']} {last['id']}) was {last['outcome']}", highlight=False
        )
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  deployment", "version", "role", "weight", "mirror", "ready"):
        table.add_column(heading, justify="right" if heading in ("weight", "mirror", "ready") else "left")
    listed = {deployment["name"] for deployment in view["deployments"]}
    for deployment in view["deployments"]:
        healthy = deployment["ready"] >= deployment["replicas"] > 0
        mirror = view["mirrors"].get(deployment["name"])
        table.add_row(
            f"  {deployment['name']}",
            deployment["model_version"],
            deployment["role"],
            f"{deployment['weight']}%",
            f"{mirror:g}%" if mirror else "",
            f"[{'green' if healthy else 'red'}]{deployment['ready']}/{deployment['replicas']}[/]",
        )
    for name, weight in view["traffic"].items():
        if name not in listed:
            table.add_row(f"  {name}", "(not ours)", "", f"{weight}%", "", "")
    out.print(table)
    change = view["change"]
    waiting = f", {view['unrecorded']} not in the registry yet" if view["unrecorded"] else ""
    out.print(f"  last change: {change['sequence']} ({change['id']}){waiting}\n", highlight=False)


def print_history(endpoint: str, changes: Sequence[View], console: Console | None = None) -> None:
    """One row per routing change, oldest first."""
    out = console or a_console()
    columns = ["#", "time (UTC)", "action", "traffic", "release", "who", "reason"]
    if out.width < _NARROW:
        columns = [column for column in columns if column not in ("release", "who")]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in columns:
        fixed = column in ("#", "time (UTC)", "action")
        table.add_column(column, justify="right" if column == "#" else "left", no_wrap=fixed, overflow="fold")
    for change in changes:
        cells = {
            "#": str(change["sequence"]),
            "time (UTC)": change["time"][:19].replace("T", " "),
            "action": change["action"],
            "traffic": traffic_text(change),
            "release": change["release"] or "",
            "who": change["who"],
            "reason": change["reason"],
        }
        table.add_row(*(cells[column] for column in columns))
    out.print(f"[bold]{endpoint}[/bold]: {len(changes)} routing changes", highlight=False)
    out.print(table)


def traffic_text(change: View) -> str:
    """``churn-v1 90%, churn-v2 10%``, with mirrors; what it became, not what it was."""
    if change["after"] is None:
        return "(deleted)"
    parts = [f"{name} {weight}%" for name, weight in change["after"].items()]
    parts += [f"{name} mirrored {share:g}%" for name, share in change["mirrors"].items()]
    parts += [f"{name} added" for name in change["added"] if name not in change["after"]]
    parts += [f"{name} removed" for name in change["removed"]]
    return ", ".join(parts)


def print_mesh(status: Any, console: Console | None = None) -> None:
    """Processes of the local mesh, with ports and logs."""
    out = console or a_console()
    out.print(
        f"mesh [bold]{status.name}[/bold]: {'up' if status.running else 'down'}  ({status.directory})", highlight=False
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  process", "state", "pid", "port", "log"):
        table.add_column(heading, justify="right" if heading in ("pid", "port") else "left", no_wrap=True)
    for process in status.processes:
        table.add_row(
            f"  {process.name}",
            process.state,
            str(process.pid or ""),
            str(process.port or ""),
            str(process.log),
        )
    out.print(table)
    for endpoint, port in status.endpoints.items():
        out.print(f"  endpoint {endpoint}: http://127.0.0.1:{port}", highlight=False)
