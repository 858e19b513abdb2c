"""Runs the suites of ``make test``, each as ``make SUITE``: all of them whatever fails, and one verdict at the end.

Suites run side by side where they share nothing; each one's output is shown when it ends, so that no lines are mixed. It needs
the standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SLOWEST = 10
_HEARTBEAT_SECONDS = 60.0
_GRACE_SECONDS = 60.0
_NICE = 10
_PROGRESS = re.compile(r"\[ *(\d+)%\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One target of the Makefile.

    Attributes:
        name: The target.
        has_tests: Whether pytest runs in it, and writes its results where ``RESULTS`` says.
        yields: Whether it leaves the processors to the others, which take longer, and has what they don't use.
        unless: A command that says why the suite is left out here, by its last line, when it doesn't end with 0. What is left
            out is said and makes no run fail: keep it for what a machine may lack, or what takes longer than a run may.
        within: Seconds of the run after which it isn't started any more; None for no limit.
    """

    name: str
    has_tests: bool = True
    yields: bool = False
    unless: tuple[str, ...] = ()
    within: float | None = None


STAGES = (
    (Suite(name="packages", has_tests=False),),
    # Those on real parts take longest, and wait for much of their time; those that only compute have what is left.
    # Where no cache has the control plane yet, all that needs it waits for its build, which therefore comes first.
    (
        Suite(name="testbed", has_tests=False),
        Suite(name="e2e"),
        Suite(name="control-plane"),
        Suite(name="scenarios"),
        Suite(name="check", has_tests=False, yields=True),
        *(Suite(name=name, yields=True) for name in ("unit", "properties", "newest", "mlflow-oldest")),
    ),
    # A real node, by itself: its pods are made by timeouts of a cluster's. Its builds take half an hour and more, so it runs
    # where a cache has them; and CI ends whatever takes longer than 90 minutes.
    (Suite(name="node", unless=(sys.executable, "-m", "tests.node", "check", "--warm"), within=60 * 60),),
)
"""The suites in the order in which they start; a stage begins when the one before has ended, well or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One test that ran: its name as pytest writes it, seconds with its fixtures, and whether it failed."""

    name: str
    seconds: float
    has_failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one suite went.

    Attributes:
        code: Its exit code; None when it was never started.
        cases: Its tests; None when it ended without results.
        closing: The last line of its output.
        left_out: Why it was left out; None when it wasn't.
    """

    suite: Suite
    code: int | None
    seconds: float = 0.0
    cases: tuple[Case, ...] | None = None
    closing: str = ""
    left_out: str | None = None

    @property
    def verdict(self) -> str:
        """One of ``passed``, ``failed``, ``never ran`` (no test of it), ``interrupted``, ``left out``."""
        if self.left_out is not None:
            return "left out"
        if self.code is None:
            return "never ran"
        if self.code < 0:
            return "interrupted"
        if self.suite.has_tests and not self.cases:
            return "never ran"
        return "passed" if self.code == 0 else "failed"


class Runner:
    """Runs suites.

    Args:
        make: The ``make`` to call.
        folder: Where its Makefile lies.
        results: Folder for each suite's output and results.
        places: How many suites run at the same time.
        say: Gets every line of output.
    """

    def __init__(self, make: str, folder: Path, results: Path, *, places: int, say: Callable[[str], None]) -> None:
        self._make, self._folder, self._results = make, folder, results
        self._places, self._say = threading.Semaphore(places), say
        self._lock = threading.Lock()
        self._running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._stopped = threading.Event()
        self._began = time.monotonic()

    def run(self, stages: Sequence[Sequence[Suite]]) -> list[Outcome]:
        """Runs all suites; an interrupt ends those that run, and the others are not started."""
        self._results.mkdir(parents=True, exist_ok=True)
        ended = threading.Event()
        threading.Thread(target=self._beat, args=(ended,), daemon=True).start()
        try:
            for stage in stages:
                self._run_stage(stage)
        except KeyboardInterrupt:
            self._stop()
        finally:
            ended.set()
        suites = [suite for stage in stages for suite in stage]
        return [self._outcomes.get(suite.name, Outcome(suite=suite, code=None)) for suite in suites]

    def _run_stage(self, stage: Sequence[Suite]) -> None:
        threads = []
        for suite in stage:
            self._places.acquire()
            thread = threading.Thread(target=self._run_one, args=(suite,), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _why_not(self, suite: Suite) -> str | None:
        """Why a suite is left out here and now; None when it runs."""
        if suite.within is not None and time.monotonic() - self._began > suite.within:
            return f"the suites before took longer than {_minutes(suite.within)}, and this one would take too long"
        if not suite.unless:
            return None
        asked = subprocess.run(
            suite.unless, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return None if asked.returncode == 0 else closing_line(asked.stdout + asked.stderr) or "no reason was said"

    def _run_one(self, suite: Suite) -> None:
        try:
            if self._stopped.is_set():
                return
            reason = self._why_not(suite)
            if reason is not None:
                self._outcomes[suite.name] = Outcome(suite=suite, code=None, left_out=reason)
                self._say(f"==> {suite.name} LEFT OUT: {reason}")
                return
            self._say(f"==> {suite.name} starts")
            began = time.monotonic()
            log, xml = self._results / f"{suite.name}.log", self._results / f"{suite.name}.xml"
            xml.unlink(missing_ok=True)
            command = [self._make, "--no-print-directory", suite.name, f"RESULTS={xml}"]
            with self._lock, log.open("wb") as output:
                if self._stopped.is_set():
                    return
                process = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running[suite.name] = process, began
                if suite.yields:
                    _yield_to_others(process.pid)
            code = process.wait()
            text = log.read_text(encoding="utf-8", errors="replace")
            outcome = Outcome(
                suite=suite,
                code=-signal.SIGINT if self._stopped.is_set() else code,
                seconds=time.monotonic() - began,
                cases=cases_of(xml),
                closing=closing_line(text),
            )
            with self._lock:
                del self._running[suite.name]
                self._outcomes[suite.name] = outcome
                self._say(f"==> {suite.name} {outcome.verdict} after {_minutes(outcome.seconds)}; it said:\n{text}")
        finally:
            self._places.release()

    def _stop(self) -> None:
        """Interrupts what runs, as a terminal does, so that each test still takes down what it set up."""
        self._stopped.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            with self._lock:
                running = [process for process, _ in self._running.values()]
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + _GRACE_SECONDS
            while self._running and time.monotonic() < deadline:
                time.sleep(0.1)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            with self._lock:
                now = time.monotonic()
                words = [
                    f"{name} {self._progress(name)}{_minutes(now - at)}" for name, (_, at) in self._running.items()
                ]
                if words:
                    self._say(f"... {', '.join(words)}")

    def _progress(self, name: str) -> str:
        shares = _PROGRESS.findall((self._results / f"{name}.log").read_text(encoding="utf-8", errors="replace"))
        return f"{shares[-1]}% " if shares else ""


def _yield_to_others(pid: int) -> None:
    """Let a suite's processes have what others leave; where Linux groups processes by session, the group's weight counts."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PGRP, pid, _NICE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), encoding="ascii")


def cases_of(xml: Path) -> tuple[Case, ...] | None:
    """The tests in a results file of pytest's (JUnit's format); None when there is no whole one."""
    try:
        document = ElementTree.parse(xml)
    except (FileNotFoundError, ElementTree.ParseError):
        return None
    return tuple(
        Case(
            name=_node_id(case.get("classname", ""), case.get("name", "")),
            seconds=float(case.get("time", "0")),
            has_failed=any(child.tag in ("failure", "error") for child in case),
        )
        for case in document.iter("testcase")
    )


def _node_id(class_name: str, name: str) -> str:
    """``tests.e2e.test_x.TestY`` and ``test_z`` as ``tests/e2e/test_x.py::TestY::test_z``, which pytest takes."""
    words = class_name.split(".")
    is_module = [word.startswith("test_") for word in words]
    end = len(words) - is_module[::-1].index(True) if any(is_module) else len(words)
    return "::".join(["/".join(words[:end]) + ".py", *words[end:], name])


def closing_line(text: str) -> str:
    """The last line that pytest or another tool wrote, not make."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("make")), "")


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """What to read when all is over: the slowest tests, each suite, and all that failed."""
    cases = [(outcome.suite.name, case) for outcome in outcomes for case in outcome.cases or ()]
    lines = []
    if cases:
        lines.append(f"The {SLOWEST} slowest tests, with their fixtures:")
        slowest = sorted(cases, key=lambda pair: -pair[1].seconds)[:SLOWEST]
        lines += [f"  {case.seconds:6.1f} s  {suite}  {case.name}" for suite, case in slowest]
    lines.append("Suites:")
    lines += [
        f"  {outcome.suite.name:<14} {outcome.verdict:<12} {_minutes(outcome.seconds):>7}  {outcome.closing}"
        for outcome in outcomes
    ]
    left_out = [outcome for outcome in outcomes if outcome.left_out is not None]
    lines += [f"NOT RUN  {outcome.suite.name}  {outcome.left_out}" for outcome in left_out]
    bad = [outcome for outcome in outcomes if outcome.verdict not in ("passed", "left out")]
    for outcome in bad:
        failed = [case.name for case in outcome.cases or () if case.has_failed]
        lines += [f"FAILED  {outcome.suite.name}  {name}" for name in failed]
        if not failed:
            lines.append(f"{outcome.verdict.upper()}  {outcome.suite.name}  see its output above")
    names = ", ".join(f"{outcome.suite.name} ({outcome.verdict})" for outcome in bad)
    but = f" but {', '.join(outcome.suite.name for outcome in left_out)}, NOT RUN" if left_out else ""
    lines.append(f"make test: not passed: {names}" if bad else f"make test: all suites passed{but}")
    return lines


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def processor_ticks() -> tuple[int, int] | None:
    """Ticks that the processors were idle, and all their ticks, since the machine started; None where Linux doesn't say."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return ticks[3] + ticks[4], sum(ticks)  # idle, and waiting for a disk


def _idle_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> str:
    """How much of the processors nobody wanted: where there is none, only less work makes a run shorter."""
    if before is None or after is None or after[1] <= before[1]:
        return ""
    return f", which were idle for {(after[0] - before[0]) / (after[1] - before[1]):.0%} of it"


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    """Run all; 0 when every suite passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", default="make", help="the make to call")
    parser.add_argument("--places", type=int, default=4, help="how many suites run at the same time")
    options = parser.parse_args(arguments)
    # SIGINT, too: a shell starts what it runs in the background with that one ignored, and so would every suite be.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    runner = Runner(options.make, ROOT, ROOT / "build" / "test-results", places=options.places, say=_say)
    began, ticks = time.monotonic(), processor_ticks()
    outcomes = runner.run(STAGES)
    for line in summary(outcomes):
        _say(line)
    _say(
        f"It took {_minutes(time.monotonic() - began)} at a load of {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores"
        f"{_idle_share(ticks, processor_ticks())}."
    )
    return 0 if all(outcome.verdict in ("passed", "left out") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
