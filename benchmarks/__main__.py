"""``make bench``: every benchmark of the local target, one after the other."""

from __future__ import annotations

import subprocess
import sys

PARTS = ("startup", "mesh", "serving", "traffic")


def main() -> int:
    """Run each part in a process of its own, so that none warms up another. Returns the exit code."""
    for part in PARTS:
        print(f"\n== {part}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
