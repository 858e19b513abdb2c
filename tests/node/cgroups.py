"""The node's own cgroup in each hierarchy of the machine, and who removes it when the node is gone, however it went.

Cgroups are the one thing of a node that no namespace takes away with it. A small process outside of all namespaces waits for the
node's end and removes them; should that one be killed, too, the next node does it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from tests.testbed.errors import TestbedError

_MOUNTS = Path("/proc/self/mounts")
_PREFIX = "mlflow-istio-node"
# Held for as long as a node lives: what has no lock is left over.
_LOCKS = Path("/run/lock")
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 30.0


def hierarchies() -> list[Path]:
    """Where the hierarchies of cgroup v1 are mounted.

    Raises:
        TestbedError: there are none.
    """
    found = _mounted("cgroup")
    if not any(path.name.startswith("cpu") for path in found):
        raise TestbedError(
            "the node was made for cgroup v1 (cpu, memory, cpuset, pids), which this machine doesn't mount"
        )
    return found


def _mounted(*kinds: str) -> list[Path]:
    entries = [line.split() for line in _MOUNTS.read_text(encoding="utf-8").splitlines()]
    return [Path(entry[1]) for entry in entries if entry[2] in kinds]


def _all() -> list[Path]:
    """With that of cgroup v2 beside them: runc puts containers there, too, where both are mounted."""
    return _mounted("cgroup", "cgroup2")


def name_of(pid: int) -> str:
    return f"{_PREFIX}-{pid}"


def watch(pid: int) -> str:
    """Makes the cgroups of the node whose outermost process is `pid`, removes those of dead nodes, and starts the watcher.

    Returns:
        The cgroup's name, the same in each hierarchy.
    """
    name = name_of(pid)
    remove_left_over()
    lock = _lock(name)
    if lock is None:
        raise TestbedError(f"{_LOCKS / name}.lock is held by another process")
    for hierarchy in hierarchies():
        folder = hierarchy / name
        folder.mkdir()
        for value in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / value).exists():
                # A new cpuset may use nothing, and no process can be put into it.
                (folder / value).write_text((hierarchy / value).read_text(encoding="ascii"), encoding="ascii")
    alive, kept = os.pipe()
    if os.fork() == 0:
        os.close(kept)
        _outlive(alive, name)
    os.close(alive)
    # `kept` stays open, here and nowhere else: its end is the node's end. So does the lock, in the watcher, too.
    return name


def remove_left_over() -> None:
    """Removes the cgroups of nodes that are gone, and whose watcher was killed with them."""
    names = {folder.name for hierarchy in _all() for folder in hierarchy.glob(f"{_PREFIX}-*")}
    for name in names:
        lock = _lock(name)
        if lock is not None:
            _remove(name)
            (_LOCKS / f"{name}.lock").unlink(missing_ok=True)
            os.close(lock)


def _lock(name: str) -> int | None:
    """The open lock file, None when somebody holds it."""
    _LOCKS.mkdir(exist_ok=True)
    file = os.open(_LOCKS / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _outlive(alive: int, name: str) -> None:
    """In the watcher: waits for the node's end and clears up. Never returns."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # What waits for the output's end mustn't wait for the watcher.
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.read(alive, 1)
        _remove(name)
        (_LOCKS / f"{name}.lock").unlink(missing_ok=True)
    finally:
        os._exit(0)


def _remove(name: str) -> None:
    """Removes the cgroup and all under it; what still runs in them belongs to the node and is ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        tops = [hierarchy / name for hierarchy in _all() if (hierarchy / name).is_dir()]
        if not tops:
            return
        for top in tops:
            # The deepest first: only an empty cgroup can go.
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                with contextlib.suppress(OSError, ValueError):
                    for pid in (Path(folder) / "cgroup.procs").read_text(encoding="ascii").split():
                        os.kill(int(pid), signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
