"""A run of pytest that is killed leaves no process behind, whatever it started; one that ends by itself is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.left_processes import MARK

ROOT = Path(__file__).parents[2]
STARTS_ONE = """
import subprocess, time
from pathlib import Path

def test_it():
    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("pid.new").write_text(str(server.pid))
    Path("pid.new").rename("pid")
    {then}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environments of processes")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_there(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def begin(folder: Path, then: str) -> subprocess.Popen[bytes]:
    (folder / "test_it.py").write_text(STARTS_ONE.format(then=then), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    run = begin(tmp_path, "time.sleep(600)")
    until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    assert is_there(pid)
    run.send_signal(number)
    run.wait(timeout=60)
    until(lambda: not is_there(pid))


def test_a_run_that_ends_by_itself_ends_nothing_else(tmp_path: Path) -> None:
    run = begin(tmp_path, "pass")
    assert run.wait(timeout=120) == 0
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    try:
        assert is_there(pid)
        assert MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        os.kill(pid, signal.SIGKILL)
