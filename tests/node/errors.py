"""Runs a tool and says what it said when it fails; `TestbedError` is the testbed's."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.testbed.errors import TestbedError

_LAST_LINES = 15


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    seconds: float | None = None,
) -> str:
    """Runs a command to its end and returns what it printed.

    Args:
        text: what it reads on standard input.
        seconds: how long it may take.

    Raises:
        TestbedError: it can't be run, failed or took longer; the text has its last lines.
    """
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=env, input=text, text=True, capture_output=True, check=False, timeout=seconds
        )
    except OSError as error:
        raise TestbedError(f"can't run `{argv[0]}`: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"`{' '.join(argv)}` took longer than {seconds:.0f} s") from error
    if done.returncode != 0:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST_LINES:])
        raise TestbedError(f"`{' '.join(argv)}` failed with code {done.returncode}:\n{last}")
    return done.stdout
