"""``make bench``: every benchmark of both targets, one after the other."""

from __future__ import annotations

import subprocess
import sys

PARTS = (
    "startup",
    "mesh",
    "serving",
    "streams",
    "grpc_calls",
    "recorder",
    "grpc_recorder",
    "traffic",
    "release",
    "cluster",
)
_IN_TESTBED = {"cluster": [sys.executable, "-m", "tests.testbed", "run", "--"]}
"""What a part runs in: the real control plane with its own waits, not the tests' shorter ones."""


def main() -> int:
    """Run each part in a process of its own, so that none warms up another. Returns the exit code."""
    for part in PARTS:
        print(f"\n== {part}", flush=True)
        done = subprocess.run([*_IN_TESTBED.get(part, ()), sys.executable, "-m", f"benchmarks.{part}"], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
