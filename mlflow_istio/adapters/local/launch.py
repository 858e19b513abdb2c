"""Start one process of the mesh: note down who it is, then become it.

Run by the supervisor as a plain script, so it imports the standard library only. The note holds the process's id and
its identity (which no later process with the same id has), so that a later command can end exactly this process when
its supervisor was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def identity(pid: int) -> str | None:
    """What tells a living process from any other that has or had its id; None when there is no such process.

    On Linux the boot and the clock tick in which it started, which no change of the wall clock moves; elsewhere the
    start time that ``ps`` gives.
    """
    if sys.platform == "linux":
        try:
            # The name in parentheses may hold anything, so count from behind it: state is field 3, start field 22.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in ("Z", "X") else f"{boot}/{fields[19]}"
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    english = {**os.environ, "LC_ALL": "C"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=english).stdout.split(maxsplit=1)
    return answer[1].strip() if len(answer) == 2 and not answer[0].startswith("Z") else None


def note(path: Path, pid: int) -> None:
    """Write down that the process runs under this name; counts how often one was started."""
    try:
        starts = int(json.loads(path.read_text())["starts"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        starts = 0
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(0o600)
    fresh.write_text(json.dumps({"pid": pid, "identity": identity(pid), "starts": starts + 1}))
    fresh.replace(path)


def main(document: str, noted: str) -> None:
    """Become the process that ``document`` describes (``argv`` and ``env``), noted in ``noted``."""
    wanted = json.loads(Path(document).read_text())
    argv = list(wanted["argv"])
    if argv[0] in ("python", "python3"):
        argv[0] = sys.executable
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
    note(Path(noted), os.getpid())
    try:
        os.execvpe(argv[0], argv, {**inherited, **wanted["env"]})
    except OSError as exc:
        sys.exit(f"can't run {argv[0]!r}: {exc.strerror}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
