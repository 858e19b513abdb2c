"""What other packages bring: an entry point of a group of ours for each thing.

Whoever resumes a release, in another process or years later, must find the same by its name, so it belongs to what is installed
and can't be handed over in one process only. What is installed is part of the program, as an import is: nothing of the world is
read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.errors import InvalidInput


def installed_entry(group: str, name: str, built_in: Iterable[str], what: str) -> EntryPoint:
    """The entry point that an installed package has under this name.

    Args:
        group: Its group.
        name: Its name.
        built_in: The names that are ours, for the message.
        what: What such a thing is called in the message.

    Raises:
        InvalidInput: No package brings it.
    """
    installed: EntryPoints = entry_points(group=group)
    if name not in installed.names:
        raise InvalidInput(f"unknown {what}: {nearest(name, {*built_in, *installed.names})}")
    return installed[name]


def place_of(entry: EntryPoint) -> str:
    """How messages name an entry point."""
    return f"entry point '{entry.name} = {entry.value}' of group '{entry.group}'"


def loaded(entry: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        InvalidInput: It can't be loaded.
    """
    try:
        return entry.load()
    except (Exception, SystemExit) as exc:  # another's code runs here: anything can come out
        raise InvalidInput(f"{place_of(entry)} can't be loaded: {one_line(exc)}") from exc


def one_line(exc: BaseException) -> str:
    """What another's code raised, in one line."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:300]
