"""The promise of release decisions, row by row with standard errors: ``make bench-decisions``.

``python -m benchmarks.decisions [--runs N] [--hours H] [--only TEXT] [--seed N] [--processes N] [--file FILE]``

Every default plan is simulated whole: warm-up, ramp 5-25-50 and then the last step, errors, latency at three edges, gross failure.
The families of traffic are those of real servers (`decisions_families`); the port (`decisions_plan`) is held to the engine that
decides live. Each row says its limit and whether it is met: an estimate within two of its standard errors of the limit is "within
noise". Beside it stand our first rule and the formulas of other products on the same counts, and the same rules in the lab, where
requests are independent and nothing else happens (`decisions_lab`). Each table is printed when it is complete; what was simulated
is kept in a file, so that a run that died goes on where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks import decisions_lab, decisions_promise, decisions_speed, decisions_watch
from benchmarks.decisions_engine import BUSY, beside, gross_looks
from benchmarks.decisions_families import FAMILIES, HELD_OUT, REQUESTS_PER_SECOND, Family
from benchmarks.decisions_peers import PEERS
from benchmarks.decisions_plan import NEVER
from benchmarks.decisions_promise import BAD, PROMOTED, Found, Share, Task, at_hours
from benchmarks.decisions_results import Results

Key = TypeVar("Key")

LIMIT = 0.05
WATCHES = 20
"""One watch for so many releases: the engine itself runs it, which takes seconds."""
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
    """Row 7; all families together have the watches for a verdict."""
    together = Found()
    for hits in found.values():
        together.merge(hits)
    word, met = verdict([together.share("stays equal")], LIMIT)
    lines = []
    for name, hits in {**found, "all of them": together}.items():
        words = (str(hits.share("stays equal")), str(hits.share(decisions_promise.TURNS_BAD)))
        last = hits is together
        lines.append(Line(cells=(name, words[0], word if last else "", words[1]), met=met if last else None))
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


def simulated(tasks: Sequence[Task], seed: int, processes: int, results: Results) -> list[Found]:
    """Simulate all tasks that no run before has, the longest first, and return what each found, in their order."""
    missing = [task for task in tasks if task not in results]
    missing.sort(key=lambda task: -task.hours * task.runs)
    work = partial(decisions_promise.run, seed=seed)
    if processes == 1:
        for task in missing:
            results.keep(task, work(task))
    elif missing:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for task, found in zip(missing, pool.imap(work, missing), strict=True):
                results.keep(task, found)
    return [results[task] for task in tasks]


def main(arguments: Sequence[str]) -> int:
    """Print the tables. Returns the exit code: 1 when a row is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=250, help="simulated releases for each figure (default 250)")
    parser.add_argument("--hours", type=float, default=24.0, help="how long rows 1 and 2 go on (default 24)")
    parser.add_argument("--only", default="", help=f"only families with this text, or one of {', '.join(ROWS)}")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulation (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="how many processes (default 2)")
    parser.add_argument(
        "--file", default="build/bench-decisions.jsonl", help="what was simulated (default build/bench-decisions.jsonl)"
    )
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
    """Simulate and print the parts, each when it is complete; whether every row is met."""
    results = Results(Path(options.file), options.seed)
    found = partial(simulated, seed=options.seed, processes=options.processes, results=results)
    tuned = [family for family in families if family in FAMILIES]
    others = [family for family in families if family in HELD_OUT]
    good: list[bool] = []
    equal: dict[str, Found] = {}
    if "equal" in parts and tuned:
        equal |= _equal_found(tuned, options, found)
        good += _equal_tables(equal, options.hours)
        print(f"\n{UNEQUAL}")
    if "bad" in parts and tuned:
        good.append(_bad_table(tuned, options, found))
    if "held-out" in parts and others:
        print("\nRows 1 to 3 again, on families that no constant of the rules was chosen on:")
        apart = _equal_found(others, options, found)
        good += [*_equal_tables(apart, options.hours), _bad_table(others, options, found)]
        equal |= apart
    if "promoted" in parts:
        tasks = decisions_promise.promoted_tasks(options.runs)
        promoted = list(_merged(tasks, found(tasks), lambda task: task.what).values())
        title = "4. An equal version is promoted: odds allowed 1.5 and nothing else, 30 requests a second, 20%"
        good.append(printed(title, ["family", "within", "promoted", "at least", ""], promoted_lines(promoted)))
    if "speed" in parts:
        title = "5. Candidate requests until rollback (median): 10% of 20 requests a second, a look every 10 s"
        heading = ["errors", "phase=0", "nothing known", ""]
        good.append(printed(title, heading, speed_lines(options.runs, options.seed)))
    if "gross" in parts:
        title = "6. Gross failure, by the engine: looks after the warm-up until rollback, at 5%"
        good.append(printed(title, ["the candidate's", "median", "latest", "two looks"], gross_lines(20, options.seed)))
    if "watch" in parts:
        tasks = decisions_promise.watch_tasks(max(options.runs // WATCHES, 10))
        title = f"7. A promoted version is taken back by a watch of {decisions_watch.HOURS:g} h with 5% held back"
        heading = ["family", "stays equal", "at most 5%", decisions_promise.TURNS_BAD]
        good.append(printed(title, heading, watch_lines(_merged(tasks, found(tasks), lambda task: task.family.name))))
    if "engine" in parts:
        title = "Whole releases by the engine beside the port, half an hour: the same end and look; or the engine waits longer"
        sample = [family for family in FAMILIES if family.name in SAMPLE]
        good.append(printed(title, ["family", "version", "same", "agree"], engine_lines(sample, 4, options.seed)))
    if equal:
        lines = [Line(cells=(name, *(str(hits.share(rule)) for rule in RIVALS))) for name, hits in equal.items()]
        title = (
            "Beside it: an equal version rolled back within the first hour by our first rule and by the peers' formulas"
        )
        printed(title, ["family", *RIVALS], lines)
    return all(good)


def _merged(tasks: Sequence[Task], found: Sequence[Found], key: Callable[[Task], Key]) -> dict[Key, Found]:
    """What the tasks of each key found together."""
    together: dict[Key, Found] = {}
    for task, hits in zip(tasks, found, strict=True):
        together.setdefault(key(task), Found()).merge(hits)
    return together


def _equal_found(
    families: Sequence[Family], options: argparse.Namespace, found: Callable[[Sequence[Task]], list[Found]]
) -> dict[str, Found]:
    tasks = decisions_promise.equal_tasks(options.runs, options.hours, families)
    return _merged(tasks, found(tasks), lambda task: task.family.name)


def _bad_table(
    families: Sequence[Family], options: argparse.Namespace, found: Callable[[Sequence[Task]], list[Found]]
) -> bool:
    """Simulate and print row 3; whether it is met."""
    tasks = decisions_promise.bad_tasks(max(options.runs // 4, 10), families)
    bad = _merged(tasks, found(tasks), lambda task: (task.family.name, task.what))
    return printed(BAD_TITLE, ["family", *BAD, "at most 5%"], bad_lines(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
