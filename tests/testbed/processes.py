"""The programs of the testbed: each in a session of its own, with a log file, ended by its pid and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.errors import TestbedError
from tests.testbed.network import Host

_POLL_SECONDS = 0.05
_READY_SECONDS = 120.0
_TAIL_LINES = 20
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to start and when it counts as ready.

    Attributes:
        ready: asked again and again while the program starts; must not raise.
        host: the network host it runs on; by default the testbed's own.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    host: Host | None = None


class Processes:
    """The running programs by name. Safe to use from several threads."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder, self._logs = folder, logs
        self._lock = threading.RLock()
        self._programs: dict[str, Program] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._broken: set[str] = set()

    def add(self, program: Program) -> None:
        """Starts a program without waiting for it."""
        with self._lock:
            self._programs[program.name] = program
            self._spawn(program)

    def start(self, name: str) -> None:
        """Starts a program that has ended, and waits until it is ready. Does nothing when it runs."""
        with self._lock:
            program = self._known(name)
            if self._running[name].poll() is not None:
                self._spawn(program)
        self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Waits until a program is ready.

        Raises:
            TestbedError: it ended, or wasn't ready in time; the text has the end of its log.
        """
        program, process = self._known(name), self._running[name]
        deadline = time.monotonic() + _READY_SECONDS
        while not program.ready():
            failure = None
            if process.poll() is not None:
                failure = f"ended with code {process.returncode} while starting"
            elif time.monotonic() > deadline:
                failure = f"was not ready after {_READY_SECONDS:.0f} s"
            if failure:
                words = tail(self._logs / f"{name}.log", _TAIL_LINES)
                raise TestbedError(f"{name} {failure}. The end of its log:\n{words}")
            time.sleep(_POLL_SECONDS)

    def heal(self, clients: Mapping[str, Collection[str]]) -> None:
        """Makes every program run again that a signal ended or stopped; returns once all are ready.

        Args:
            clients: for some programs those that wait longer and longer to ask it again after it failed them. They are
                restarted with it, so that they don't sit that wait out.
        """
        with self._lock:
            broken, self._broken = self._broken, set()
        for name in sorted(broken):
            self._running[name].send_signal(signal.SIGCONT)
        for name in self._programs:
            self.start(name)
        for name in sorted({client for one in broken for client in clients.get(one, ())}):
            self.signal(name, signal.SIGKILL)
            self.start(name)
        with self._lock:
            self._broken = set()

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a program; waits for its end when the signal is SIGKILL or SIGTERM."""
        self._known(name)
        self._broken.add(name)
        process = self._running[name]
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait()

    def status(self) -> dict[str, dict[str, int | None]]:
        """For each program its pid, its exit code (None while it runs) and its resident memory in bytes."""
        with self._lock:
            return {
                name: {"pid": process.pid, "exit_code": process.poll(), "memory": resident_memory(process.pid)}
                for name, process in self._running.items()
            }

    def log(self, name: str) -> Path:
        """The file with everything a program printed."""
        self._known(name)
        return self._logs / f"{name}.log"

    def _known(self, name: str) -> Program:
        if name not in self._programs:
            raise TestbedError(f"the testbed has no program {name!r}, only {', '.join(sorted(self._programs))}")
        return self._programs[name]

    def _spawn(self, program: Program) -> None:
        argv = list(program.argv)
        if program.host is not None:
            argv = ["nsenter", f"--net={program.host.namespace}", "--", *argv]
        with open(self._logs / f"{program.name}.log", "ab") as log:
            self._running[program.name] = subprocess.Popen(
                argv,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **program.environment},
                start_new_session=True,
            )


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file, looking at its last 64 KiB only; empty when there is no such file."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def resident_memory(pid: int) -> int | None:
    """The memory a process has in RAM, in bytes; None when it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
