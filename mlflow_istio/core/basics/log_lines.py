"""Which lines of a log tell why a process ended: the newest, and those before them that speak of an error."""

from __future__ import annotations

import re
from collections.abc import Sequence

READ = 400
"""How many of a log's newest lines are looked through."""
_OLDER = 5
_MOST_CHARACTERS = 500
_ERROR = re.compile(
    r"error|exception|fail(ed|ure)|fatal|panic|unavailable|denied|can ?no?t\b|can't|no such|not found", re.IGNORECASE
)


def telling(lines: Sequence[str], newest: int) -> list[str]:
    """The lines of a log to show: some servers print pages of settings after the line that says what is wrong.

    Args:
        lines: The log's lines, the newest last.
        newest: How many of the newest are shown, whatever they say.

    Returns:
        At most five older lines about an error, ``...`` where lines are left out after them, then the newest.
    """
    cut = max(len(lines) - newest, 0)
    older = [line for line in lines[:cut] if _ERROR.search(line)][-_OLDER:]
    shown = [*older, *(["..."] if older and lines[cut - 1] != older[-1] else []), *lines[cut:]]
    return [line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 3]}..." for line in shown]
