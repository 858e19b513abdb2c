"""The promise of release decisions, row by row with standard errors: ``make bench-decisions``.

``python -m benchmarks.decisions [--runs N] [--hours H] [--only TEXT] [--seed N] [--processes N]``

Every default plan is simulated whole: warm-up, ramp 5-25-50 and then the last step, errors, latency at three edges, gross failure.
The families of traffic are those of real servers (`decisions_families`); the port (`decisions_plan`) is held to the engine that
decides live. Each row says its limit and whether it is met: an estimate within two of its standard errors of the limit is "within
noise". Beside it stand our first rule and the formulas of other products on the same counts, and the same rules in the lab, where
requests are independent and nothing else happens (`decisions_lab`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import decisions_lab, decisions_promise, decisions_speed
from benchmarks.decisions_engine import BUSY, beside, gross_looks
from benchmarks.decisions_families import FAMILIES, HELD_OUT, REQUESTS_PER_SECOND, Family
from benchmarks.decisions_peers import PEERS
from benchmarks.decisions_plan import NEVER
from benchmarks.decisions_promise import BAD, PROMOTED, Found, Share, Task, at_hours

LIMIT = 0.05
ENGINE_LOOKS = 181
"""Half an hour: the engine is asked for whole releases, at 50 ms a look."""

SAMPLE = ("independent", "60 s every 15 min, 3 replicas", "errors 0.2%, bursts of 3 s every 10 min")
"""Families of the sample."""

UNEQUAL = (
    "Where the sides differ in replicas or in load per replica, equal versions are no equal servers: what comes rarely and large\n"
    "on one side comes often and small on the other, and the lighter load is faster. Only a control of the candidate's size\n"
    "mends that."
)

BAD_TITLE = "3. A version with three times the allowed odds (1.5, nothing else accepted) is promoted within a day"

RIVALS = ("first rule", *PEERS)

ROWS = ("equal", "bad", "held-out", "promoted", "speed", "gross", "watch", "engine", "lab")
"""What ``--only`` may name besides families."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a table.

    Attributes:
        cells: What it says.
        met: Whether its limits are met; None: it promises nothing.
    """

    cells: tuple[str, ...]
    met: bool | None = None


def verdict(shares: Sequence[Share], limit: float, *, at_least: bool = False) -> tuple[str, bool]:
    """Return ``met``, ``within noise`` or ``NOT MET``, and whether it isn't the last."""
    sign = -1 if at_least else 1
    over = [sign * (share.rate - limit) / share.error for share in shares]
    if max(over) <= 0:
        return "met", True
    return ("within noise", True) if max(over) <= 2 else ("NOT MET", False)


def equal_lines(found: dict[str, Found], hours: float, what: str) -> list[Line]:
    """Rows 1 and 2: ``rolled back`` and ``missed``, a family a line."""
    lines = []
    for name, hits in found.items():
        shares = [hits.share(f"{what} {hour:g}") for hour in at_hours(hours)]
        word, met = verdict(shares, LIMIT)
        more = hits.share("gross" if what == "rolled back" else "stated")
        lines.append(Line(cells=(name, *map(str, shares), str(more), word), met=met))
    return lines


def bad_lines(found: dict[tuple[str, str], Found]) -> list[Line]:
    """Row 3."""
    lines = []
    for name in dict.fromkeys(name for name, _ in found):
        shares = [found[name, what].share("promoted") for what in BAD]
        word, met = verdict(shares, LIMIT)
        lines.append(Line(cells=(name, *map(str, shares), word), met=met))
    return lines


def promoted_lines(found: Sequence[Found]) -> list[Line]:
    """Row 4."""
    lines = []
    for (family, hours, limit), hits in zip(PROMOTED, found, strict=True):
        share = hits.share("promoted")
        word, met = ("no promise", None) if limit is None else verdict([share], limit, at_least=True)
        events = f"events {100 * family.calm[0]:g}%"
        cells = (
            f"{family.name}, {events}",
            f"{60 * hours:g} min",
            str(share),
            f"{100 * limit:g}%" if limit else "-",
            word,
        )
        lines.append(Line(cells=cells, met=met))
    return lines


def speed_lines(runs: int, seed: int) -> list[Line]:
    """Row 5."""
    lines = []
    for name, figures in decisions_speed.measured(runs, seed).items():
        words, good = [], []
        for figure, limit in zip(figures, decisions_speed.LIMITS[name], strict=True):
            over = (figure.median - limit) / max(figure.median_error, 1e-9)
            words.append(f"{figure.median:,.0f} ±{figure.median_error:,.0f} (limit {limit:,.0f})")
            good.append(over)
        word = "met" if max(good) <= 0 else "within noise" if max(good) <= 2 else "NOT MET"
        lines.append(Line(cells=(name, *words, word), met=max(good) <= 2))
    return lines


def gross_lines(runs: int, seed: int) -> list[Line]:
    """Row 6, and what it is where a look has too few requests for it."""
    lines = []
    for rate in (BUSY, REQUESTS_PER_SECOND):
        for name, looks in gross_looks(runs, seed, rate).items():
            median, latest = float(np.median(looks)), max(looks)
            said = "never" if latest == NEVER else f"{latest:g}"
            promised = rate == BUSY
            word = "no promise" if not promised else "met" if median <= 2 else "NOT MET"
            line = Line(
                cells=(f"{name}, {rate:g} requests/s", f"{median:g}", said, word), met=not promised or median <= 2
            )
            lines.append(line)
    return lines


def watch_lines(found: dict[str, Found]) -> list[Line]:
    """Row 7."""
    lines = []
    for name, hits in found.items():
        share = hits.share("stays equal")
        word, met = verdict([share], LIMIT)
        lines.append(Line(cells=(name, str(share), word, str(hits.share(decisions_promise.TURNS_BAD))), met=met))
    return lines


def engine_lines(families: Sequence[Family], runs: int, seed: int) -> list[Line]:
    """Whole releases by the engine and by the port: equal versions, and ones whose errors are three times the allowed."""
    lines = []
    for family in families:
        for what, odds in (("equal", None), ("three times the allowed odds", BAD["errors"])):
            pairs = beside(family, runs, ENGINE_LOOKS, seed, odds)
            same, agree = sum(pair.at_once for pair in pairs), sum(pair.agrees for pair in pairs)
            cells = (family.name, what, f"{same} of {runs}", f"{agree} of {runs}")
            lines.append(Line(cells=cells, met=agree == runs))
    return lines


def printed(title: str, heading: Sequence[str], lines: Sequence[Line]) -> bool:
    """Print a table; whether no line of it says that its limit is not met."""
    print(f"\n{title}\n")
    print(decisions_lab.table(heading, [line.cells for line in lines]), flush=True)
    return all(line.met is not False for line in lines)


def simulated(tasks: Sequence[Task], seed: int, processes: int) -> list[Found]:
    """Simulate all tasks, the longest first, and return what each found, in their order."""
    order = sorted(range(len(tasks)), key=lambda place: -tasks[place].hours * tasks[place].runs)
    found: list[Found | None] = [None] * len(tasks)
    work = partial(decisions_promise.run, seed=seed)
    if processes == 1:
        return [work(task) for task in tasks]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for place, hits in zip(order, pool.imap(work, [tasks[place] for place in order]), strict=True):
            found[place] = hits
    return [hits for hits in found if hits is not None]


def main(arguments: Sequence[str]) -> int:
    """Print the tables. Returns the exit code: 1 when a row is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulated releases for each figure (default 1000)")
    parser.add_argument("--hours", type=float, default=24.0, help="how long rows 1 and 2 go on (default 24)")
    parser.add_argument("--only", default="", help=f"only families with this text, or one of {', '.join(ROWS)}")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="how many processes (default 2)")
    options = parser.parse_args(arguments)
    if options.runs < 10:
        parser.error("--runs must be at least 10")
    if not 0.1 <= options.hours <= 24:
        parser.error("--hours must be from 0.1 to 24")
    named = options.only in ROWS
    every = (*FAMILIES, *HELD_OUT)
    families = [family for family in every if named or options.only in family.name]
    if not families:
        parser.error(f"--only {options.only}: no such family; there are: {'; '.join(family.name for family in every)}")
    parts = {options.only} if named else {"equal", "bad", "held-out"} if options.only else set(ROWS)
    started = time.perf_counter()
    print(f"{options.runs:,} runs, seed {options.seed}; ± is one standard error of the simulation.")
    good = _promise(parts, families, options)
    if "lab" in parts:
        print("\nIn the lab: requests that are independent given their version's rate.\n")
        print(decisions_lab.report(options.runs, options.seed))
    print(f"\n{time.perf_counter() - started:.0f} s")
    return 0 if good else 1


def _equal_tables(equal: dict[str, Found], hours: float) -> list[bool]:
    """Print rows 1 and 2; whether each is met."""
    times = [f"{hour:g} h" for hour in at_hours(hours)]
    return [
        printed(
            "1. An equal version is ever rolled back",
            ["family", *times, "gross rule", "at most 5%"],
            equal_lines(equal, hours, "rolled back"),
        ),
        printed(
            "2. What is proven excludes the truth",
            ["family", *times, "stated at a promotion", "at most 5%"],
            equal_lines(equal, hours, "missed"),
        ),
    ]


def _promise(parts: set[str], families: Sequence[Family], options: argparse.Namespace) -> bool:
    """Simulate and print the parts; whether every row is met."""
    tasks: list[Task] = []
    tuned = [family for family in families if family in FAMILIES]
    others = [family for family in families if family in HELD_OUT and "held-out" in parts]
    equals = [*(tuned if "equal" in parts else ()), *others]
    bads = [*(tuned if "bad" in parts else ()), *others]
    tasks += decisions_promise.equal_tasks(options.runs, options.hours, equals)
    tasks += decisions_promise.bad_tasks(max(options.runs // 4, 10), bads)
    if "promoted" in parts:
        tasks += decisions_promise.promoted_tasks(options.runs)
    if "watch" in parts:
        tasks += decisions_promise.watch_tasks(max(options.runs // 10, 10))
    equal: dict[str, Found] = {}
    bad: dict[tuple[str, str], Found] = {}
    watched: dict[str, Found] = {}
    promoted = [Found() for _ in PROMOTED]
    for task, hits in zip(tasks, simulated(tasks, options.seed, options.processes), strict=True):
        if task.kind == "equal":
            equal.setdefault(task.family.name, Found()).merge(hits)
        elif task.kind == "watch":
            watched.setdefault(task.family.name, Found()).merge(hits)
        elif task.kind == "bad":
            bad.setdefault((task.family.name, task.what), Found()).merge(hits)
        else:
            promoted[int(task.what)].merge(hits)
    good = []
    held_out = {family.name for family in others}
    apart = {name: equal.pop(name) for name in list(equal) if name in held_out}
    bad_apart = {key: bad.pop(key) for key in list(bad) if key[0] in held_out}
    if equal:
        good += _equal_tables(equal, options.hours)
        print(f"\n{UNEQUAL}")
    if bad:
        good.append(printed(BAD_TITLE, ["family", *BAD, "at most 5%"], bad_lines(bad)))
    if apart:
        print("\nRows 1 to 3 again, on families that no constant of the rules was chosen on:")
        good += _equal_tables(apart, options.hours)
        good.append(printed(BAD_TITLE, ["family", *BAD, "at most 5%"], bad_lines(bad_apart)))
    if "promoted" in parts:
        title = "4. An equal version is promoted: odds allowed 1.5 and nothing else, 30 requests a second, 20%"
        good.append(printed(title, ["family", "within", "promoted", "at least", ""], promoted_lines(promoted)))
    if "speed" in parts:
        title = "5. Candidate requests until rollback (median): 10% of 20 requests a second, a look every 10 s"
        heading = ["errors", "phase=0", "nothing known", ""]
        good.append(printed(title, heading, speed_lines(options.runs, options.seed)))
    if "gross" in parts:
        title = "6. Gross failure, by the engine: looks after the warm-up until rollback, at 5%"
        good.append(printed(title, ["the candidate's", "median", "latest", "two looks"], gross_lines(20, options.seed)))
    if watched:
        title = f"7. A promoted version is taken back by a watch of {decisions_promise.HOURS:g} h with 5% held back"
        heading = ["family", "stays equal", "at most 5%", decisions_promise.TURNS_BAD]
        good.append(printed(title, heading, watch_lines(watched)))
    if "engine" in parts:
        title = "Whole releases by the engine beside the port, half an hour: the same end and look; or the engine waits longer"
        sample = [family for family in FAMILIES if family.name in SAMPLE]
        good.append(printed(title, ["family", "version", "same", "agree"], engine_lines(sample, 4, options.seed)))
    if equal or apart:
        beside_it = {**equal, **apart}
        lines = [Line(cells=(name, *(str(hits.share(rule)) for rule in RIVALS))) for name, hits in beside_it.items()]
        title = (
            "Beside it: an equal version rolled back within the first hour by our first rule and by the peers' formulas"
        )
        printed(title, ["family", *RIVALS], lines)
    return all(good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
