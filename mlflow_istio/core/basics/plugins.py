"""What other packages bring: an entry point of a group of ours for each thing.

Whoever resumes a release, in another process or years later, must find the same by its name, so it belongs to what is installed
and can't be handed over in one process only. What is installed is part of the program, as an import is: nothing of the world is
read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, EntryPoints, entry_points

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
