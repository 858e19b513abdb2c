"""The testbed as a whole: starts beside another, passes exit codes and signals on, and leaves nothing behind.

Each test starts a testbed of its own inside the one that runs the tests.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

_REPOSITORY = Path(__file__).parents[2]
# Prints which PID namespace it is in, then waits for its end.
_WAITING = "import os, time; print(os.stat('/proc/self/ns/pid').st_ino, flush=True); time.sleep(300)"
# Creates a namespace, waits until the other testbed has done so too, and prints what it sees.
_LISTING = """
import os, sys, time
from kubernetes import client, config
config.load_kube_config(os.environ["KUBECONFIG"])
core = client.CoreV1Api()
core.create_namespace({"metadata": {"name": sys.argv[1]}})
print("created", flush=True)
sys.stdin.readline()
print(",".join(sorted(one.metadata.name for one in core.list_namespace().items if one.metadata.name.startswith("bed"))))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_runs_on_after_the_outer_process_was_ended(number: signal.Signals) -> None:
    with _testbed("-c", _WAITING) as outer:
        namespace = int(_line(outer.stdout))
        assert len(_processes_in(namespace)) >= 8

        outer.send_signal(number)

        assert outer.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
        wait_for("every process to end", lambda: not _processes_in(namespace))


def test_two_testbeds_side_by_side_do_not_see_each_other_and_return_their_commands_codes() -> None:
    with _testbed("-c", _LISTING, "bed-one", "5") as one, _testbed("-c", _LISTING, "bed-two", "6") as two:
        assert (_line(one.stdout), _line(two.stdout)) == ("created", "created")

        assert one.communicate("go\n", timeout=60)[0].strip() == "bed-one"
        assert two.communicate("go\n", timeout=60)[0].strip() == "bed-two"

        assert (one.returncode, two.returncode) == (5, 6)


@contextmanager
def _testbed(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A testbed that runs Python with these arguments; its output can be read line by line."""
    command = [sys.executable, "-m", "tests.testbed", "run", "--fast", "--", sys.executable, *arguments]
    with subprocess.Popen(
        command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def _processes_in(namespace: int) -> list[str]:
    """The processes of a PID namespace, by its inode."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inode = (entry / "ns" / "pid").stat().st_ino
            except (FileNotFoundError, ProcessLookupError):
                continue
            if inode == namespace:
                found.append(entry.name)
    return found
