"""Kinds of guards that other packages bring: an entry point of the group ``mlflow_istio.guards`` for each."""

from __future__ import annotations

from functools import cache
from typing import Any

from mlflow_istio.core.basics.plugins import installed_entry, loaded, one_line, place_of
from mlflow_istio.core.release.guards.base import GuardKind
from mlflow_istio.errors import InvalidInput

GROUP = "mlflow_istio.guards"


@cache
def installed_kind(name: str, built_in: tuple[str, ...]) -> GuardKind[Any]:
    """The kind that an installed package brings under this name.

    Args:
        name: Name of the entry point, and of the kind.
        built_in: The other names there are, for the message.

    Raises:
        InvalidInput: No package brings it, or what it brings is no kind of that name. (Not remembered: the next call asks again.)
    """
    entry = installed_entry(GROUP, name, built_in, "kind")
    where = place_of(entry)
    kind = loaded(entry)
    if not (isinstance(kind, type) and issubclass(kind, GuardKind) and kind.name == name):
        raise InvalidInput(f"{where} is not a GuardKind whose name is '{name}'")
    try:
        return kind()
    except Exception as exc:  # another's code: anything can come out
        raise InvalidInput(f"{where} makes no kind: {one_line(exc)}") from exc
