"""Tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_istio.showing.foreign import add_row, say, text_of

View = dict[str, Any]

_SHOWN = 5
_CELL = 4000
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
        say(out, f"no endpoints on {target}: create one with 'mlflow deployments create -t {target} ...'")
        return
    for view in views:
        if "problem" in view:
            say(out, (view["name"], "bold"), "  ", (view["problem"], "red"))
            continue
        _print_endpoint(out, view)


def _print_endpoint(out: Console, view: View) -> None:
    say(out, (view["name"], "bold"), f"  {view['url']}")
    if "unreachable" in view:
        say(out, "  ", (view["unreachable"], "red"))
    release = view["release"]
    if release:
        say(
            out,
            f"  release {release['id']}: {release['strategy']} of {', '.join(release['candidates'])}, {release['state']}, "
            f"since {release['opened']} by {release['who']}",
        )
        if "watching" in release:
            watching = release["watching"]
            out.print(
                f"  watching {watching['promoted']} until {watching['until']}, {watching['holdback']}% on {watching['previous']}",
                highlight=False,
            )
    elif view["last_release"]:
        last = view["last_release"]
        say(out, f"  no open release; the last ({last['strategy']} {last['id']}) was {last['outcome']}")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  deployment", "version", "role", "weight", "mirror", "ready"):
        table.add_column(heading, justify="right" if heading in ("weight", "mirror", "ready") else "left")
    listed = {deployment["name"] for deployment in view["deployments"]}
    for deployment in view["deployments"]:
        healthy = deployment["ready"] >= deployment["replicas"] > 0
        mirror = view["mirrors"].get(deployment["name"])
        add_row(
            table,
            f"  {deployment['name']}",
            deployment["model_version"],
            deployment["role"],
            f"{deployment['weight']}%",
            f"{mirror:g}%" if mirror else "",
            (f"{deployment['ready']}/{deployment['replicas']}", "green" if healthy else "red"),
        )
    for name, weight in view["traffic"].items():
        if name not in listed:
            add_row(table, f"  {name}", "(not ours)", "", f"{weight}%", "", "")
    out.print(table)
    change = view["change"]
    waiting = f", {view['unrecorded']} not in the registry yet" if view["unrecorded"] else ""
    say(out, f"  last change: {change['sequence']} ({change['id']}){waiting}")
    out.print()


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
            "action": change["action"] + (" (forged)" if change.get("forged") else ""),
            "traffic": traffic_text(change),
            "release": change["release"] or "",
            "who": change["who"],
            "reason": change["reason"],
        }
        add_row(table, *(cells[column] for column in columns))
    say(out, (endpoint, "bold"), f": {len(changes)} routing changes")
    out.print(table)


def traffic_text(change: View) -> str:
    """``churn-v1 90%, churn-v2 10%``, with mirrors; what it became, not what it was."""
    if change["after"] is None:
        return "(deleted)"
    control = change.get("control")
    parts = [f"{name} {weight}%{' (control)' if name == control else ''}" for name, weight in change["after"].items()]
    parts += [f"{name} mirrored {share:g}%" for name, share in change["mirrors"].items()]
    parts += [f"{name} added" for name in change["added"] if name not in change["after"]]
    parts += [f"{name} removed" for name in change["removed"]]
    return ", ".join(parts)


def print_mesh(status: Any, console: Console | None = None) -> None:
    """Processes of the local mesh, with ports and logs."""
    out = console or a_console()
    say(out, "mesh ", (status.name, "bold"), f": {'up' if status.running else 'down'}  ({status.directory})")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  process", "state", "pid", "port", "log"):
        table.add_column(heading, justify="right" if heading in ("pid", "port") else "left", no_wrap=True)
    for process in status.processes:
        add_row(
            table,
            f"  {process.name}",
            process.state,
            str(process.pid or ""),
            str(process.port or ""),
            str(process.log),
        )
    out.print(table)
    for endpoint, port in status.endpoints.items():
        say(out, f"  endpoint {endpoint}: http://127.0.0.1:{port}")


def print_arms(view: View, console: Console | None = None) -> None:
    """Every arm with its interval, then the outcome."""
    out = console or a_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("arm", "role", "weight", "requests", view["kpi"], "interval"):
        table.add_column(text_of(heading), justify="left" if heading in ("arm", "role", "interval") else "right")
    for arm in view["arms"]:
        known = arm["estimate"] is not None
        add_row(
            table,
            arm["name"],
            arm["role"],
            f"{arm['weight']}%",
            f"{arm['requests']:,}",
            f"{arm['estimate']:.4g}" if known else "",
            f"{_end(arm['lower'])} to {_end(arm['upper'])}" if known else "",
        )
    out.print(table)
    words = view["outcome"] + (f": {view['winner']}" if view["winner"] else "")
    say(out, (words, "bold"), f" (look {view['looks']})")
    say(out, view["reason"])


def print_comparison(view: View, console: Console | None = None) -> None:
    """The verdict, the figures, and the most different requests."""
    out = console or a_console()
    figures = view["figures"]
    say(out, (view["verdict"]["word"], "bold"), f"  {view['verdict']['reason']}")
    say(out, view["terms"])
    counts = "  ".join(
        f"{name} {figures[f'shadow/{name}']:g}"
        for name in ("pairs", "compared", "candidate_failed", "stable_failed", "both_failed")
    )
    out.print(f"{counts}  unmatched {figures['shadow/unmatched_share']:.1%}", highlight=False)
    for deployment, reasons in view["dropped"].items():
        if reasons:
            kinds = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
            say(out, f"not recorded by '{deployment}' since its recorders started: {kinds}")
    if "shadow/similarity" in figures:
        mean, lower, upper = (figures.get(f"shadow/similarity{end}") for end in ("", "_lower", "_upper"))
        out.print(f"mean similarity {_end(mean)} ({_end(lower)} to {_end(upper)})", highlight=False)
    if view["partial"]:
        out.print(
            "only a part of the traffic is mirrored: lost copies can't be told from requests that were not copied"
        )
    if view["most_different"]:
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for heading in ("request", "difference", "what", view["stable"], view["candidate"]):
            table.add_column(text_of(heading), overflow="fold")
        for row in view["most_different"][:_SHOWN]:
            size = row["difference"]
            add_row(
                table,
                row["request_id"],
                "" if size is None else f"{size:.4g}",
                row["note"],
                *(_answer(row[f"{side}_output"]) for side in ("stable", "candidate")),
            )
        out.print(table)


def _answer(value: Any) -> str:
    """An answer in full; one that would fill screens says how long it is."""
    text = json.dumps(value, ensure_ascii=False)
    rest = len(text) - _CELL
    return text if rest <= 0 else f"{text[:_CELL]} ... and {rest} characters more: --json has all"


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g}"


def print_rehearsal(view: View, console: Console | None = None) -> None:
    """What the rehearsal rests on, then each kind of version: its shares with their standard errors, and how long it took."""
    out = console or a_console()
    history, phase = view["history"], view["phase"]
    gaps = f", {len(history['gaps'])} gaps of up to {span(max(history['gaps']))}" if history["gaps"] else ""
    known = "too little to tell" if phase is None else f"up to {span(phase)}" if phase else "none seen"
    say(
        out,
        f"{span(history['seconds'])} of '{view['stable']}' from {view['source']}{gaps}: "
        f"{history['requests']:,} requests, {history['errors']:,} errors; "
        f"slow phases: {known}; dealt out by blocks of {span(view['block'])}",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("version", "releases", "promoted", "rolled back", "inconclusive", "half within", "9 of 10 within"):
        table.add_column(heading, justify="left" if heading == "version" else "right")
    longer = f"> {span(view['horizon'])}"
    for case in view["cases"]:
        ends = [longer if case[key] is None else span(case[key]) for key in ("median", "in_nine_of_ten")]
        shares = [_share(case[key]) for key in ("promoted", "rolled_back", "inconclusive")]
        add_row(table, version_of(case), f"{case['runs']:,}", *shares, *ends)
    out.print(table)
    equal = view["cases"][0]
    out.print(
        f"An equal version would be rolled back in {_share(equal['rolled_back'])} of releases; the times are those to its "
        "promotion, and to the rollback of a worse one.",
        highlight=False,
    )
    if len(view["cases"]) == 1:
        out.print("There was no error, so no version could be rehearsed that has more of them.", highlight=False)


def version_of(case: View) -> str:
    """What kind of version a case of a rehearsal is about."""
    return "the same" if case["odds"] == 1 else f"errors, odds x{case['odds']:g}"


def span(seconds: float) -> str:
    """A time in words, such as `90 s`, `45 min` or `20 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _share(value: View) -> str:
    return f"{value['share']:.1%} ± {value['error']:.1%}"


def print_runtimes(views: Sequence[View], console: Console | None = None) -> None:
    """The kinds of model servers, with how each is seen to be ready, where it is asked, and how it can be released."""
    out = console or a_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("runtime", "ready at", "asked at", "strategies", "shadows recorded by", "about"):
        table.add_column(heading)
    for view in views:
        strategies, recorded_by = ", ".join(view["strategies"]), view["recorded by"] or "nobody"
        add_row(table, view["name"], view["readiness"], view["scoring"], strategies, recorded_by, view["about"])
    out.print(table)
