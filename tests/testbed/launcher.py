"""Gives the testbed namespaces of its own, and takes all of it down whatever happens.

    python -m tests.testbed run    the outer process: forwards signals; when it dies, so does the next
    └── unshare                    makes the namespaces (a user namespace too where the caller isn't root)
        └── PID 1 of them          reaps; when it ends, the kernel ends everything else in the namespace
            └── the bed            starts the programs, runs COMMAND, returns its exit code

Everything the bed writes lies on a tmpfs in its mount namespace, so nothing is left over even after SIGKILL.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.testbed.errors import TestbedError

_PR_SET_PDEATHSIG = 1
_NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_USER = ("--user", "--map-root-user")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
# 128 + the signal's number is what shells report.
_SIGNALLED = 128


def run_in_namespaces(argv: Sequence[str]) -> int:
    """Runs a command as the only thing in new namespaces and returns its exit code.

    Raises:
        TestbedError: this machine allows no such namespaces, or lacks the tools for them.
    """
    unshare = [*unshare_command(), "--", *argv]
    parent = os.getpid()
    process = subprocess.Popen(unshare, preexec_fn=lambda: _die_with(parent))
    # The terminal sends SIGINT to the whole foreground group by itself, COMMAND included.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: _signal_children(process.pid, received))
    code = process.wait()
    return code if code >= 0 else _SIGNALLED - code


def run_as_first_process(bed: Callable[[], int]) -> int:
    """Plays PID 1: runs `bed` in a child, reaps every orphan, forwards SIGTERM and SIGHUP.

    Returns twice: in the child with what `bed` returned, in PID 1 with the child's exit code. The caller exits with it.
    """
    child = os.fork()
    if child == 0:
        return bed()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _SIGNALLED - code


def unshare_command() -> list[str]:
    """The command that makes the namespaces.

    Raises:
        TestbedError: this machine allows no such namespaces, or lacks the tools for them.
    """
    missing = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if missing:
        raise TestbedError(f"the testbed needs {' and '.join(missing)}: install util-linux and iproute2")
    # Where the caller is root but may not make namespaces (a container), a user namespace can still be allowed.
    choices = ([], list(_AS_USER)) if os.geteuid() == 0 else (list(_AS_USER),)
    complaints = []
    for extra in choices:
        command = ["unshare", *extra, *_NAMESPACES]
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return command
        complaints.append(f"`{' '.join(command)}`: {tried.stderr.strip()}")
    raise TestbedError(
        "this machine allows the testbed no namespaces of its own: "
        + "; ".join(complaints)
        + ". Run as root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,"
        " kernel.apparmor_restrict_unprivileged_userns)"
    )


def _die_with(parent: int) -> None:
    """In the child before exec: SIGKILL it when its parent dies, however the parent dies."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _signal_children(pid: int, number: int) -> None:
    """Signals the children of `unshare`, which itself ignores SIGTERM: its one child is PID 1 of the namespaces."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if children.exists():
        for child in children.read_text(encoding="ascii").split():
            os.kill(int(child), number)
