"""Ends what a run of pytest has started, where the run itself was killed and could not.

Meshes and servers of tests live in sessions of their own, and outlive what started them. Each run has a mark in its environment,
which all that it starts inherits; a process beside it waits until the run is gone, and then ends whatever still has the mark.
Only Linux shows others' environments; elsewhere nothing is started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "MLFLOW_ISTIO_TEST_RUN"
_OVER = b"over\n"
_SECONDS_TO_END = 10.0
_PROCESSES = Path("/proc")


class Guardian:
    """The process beside a run of pytest."""

    def __init__(self) -> None:
        run = uuid.uuid4().hex
        # A run inside a run's test is ended with the outer one, too.
        os.environ[MARK] = f"{os.environ.get(MARK, '')} {run}".strip()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, run, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},  # without the mark
            start_new_session=True,
        )

    def leave(self) -> None:
        """The run ends by itself, and has taken down what it set up."""
        self._process.communicate(_OVER)


def pids_of(run: str) -> list[int]:
    """The processes that a run has started and that are still there."""
    pids = []
    for folder in _PROCESSES.glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or somebody else's
            continue
        if any(word.startswith(f"{MARK}=".encode()) and run.encode() in word for word in variables):
            pids.append(int(folder.name))
    return pids


def end(run: str) -> None:
    """Ends them: first those that end others, which would start them again."""
    deadline = time.monotonic() + _SECONDS_TO_END
    number = signal.SIGTERM
    while pids := pids_of(run):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(0.5)


def ends_by_itself(run: int) -> bool:
    """Wait until a run is over; whether it said so. A child that it forked may still have its end of the pipe."""
    try:
        gone = os.pidfd_open(run)
    except ProcessLookupError:
        return False
    select.select([gone, 0], [], [])
    said, _, _ = select.select([0], [], [], 0)
    return bool(said) and os.read(0, len(_OVER)) == _OVER


if __name__ == "__main__" and not ends_by_itself(int(sys.argv[2])):
    end(sys.argv[1])
