"""List, check and (as root, with apt) install the system packages that ``make test`` needs beside Python.

Only the standard library is used: this runs before anything else.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable


def _command(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _library(name: str) -> Callable[[], bool]:
    return lambda: ctypes.util.find_library(name) is not None


# Debian package -> (how to see that it is there, what for)
NEEDED: dict[str, tuple[Callable[[], bool], str]] = {
    "util-linux": (_command("unshare"), "namespaces of the testbed"),
    "iproute2": (_command("ip"), "the testbed's network"),
    "prometheus": (_command("prometheus"), "a real Prometheus for the tests of its adapter"),
    "chromium": (_command("chromium"), "the report, in a real browser"),
    "libgomp1": (_library("gomp"), "LightGBM, a model flavor in the tests"),
}


def main() -> int:
    """Check all; install what is missing where that is possible. Returns the exit code."""
    if not sys.platform.startswith("linux"):
        print("make test needs Linux: it runs Envoy, network namespaces and a Kubernetes control plane")
        return 1
    missing = {package: why for package, (there, why) in NEEDED.items() if not there()}
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-q", "update"], check=True, env=environment, stdin=subprocess.DEVNULL)
        subprocess.run(
            ["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing],
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        missing = {package: why for package, (there, why) in NEEDED.items() if not there()}
    for package, why in missing.items():
        print(f"missing Debian package '{package}' ({why}): apt-get install {package}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
