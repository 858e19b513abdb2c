"""What every pod finds where it lies on this machine, as it would find it in its image: Python, its packages and our code."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def paths() -> list[str]:
    """The absolute paths, as they are written here: through symbolic links, some inside of others."""
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    # A virtual environment's interpreter is a symbolic link, perhaps to another one.
    programs = (sys.executable, getattr(sys, "_base_executable", sys.executable))
    # Packages may lie outside all of them: a user's own site packages, editable installations.
    packages = (entry for entry in sys.path if entry.startswith("/"))
    return list(dict.fromkeys((str(REPOSITORY), *prefixes, *programs, *packages)))
