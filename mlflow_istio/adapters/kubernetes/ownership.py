"""Field ownership on objects that we have given back: none of it may be left.

The API server remembers who wrote which field. An entry of ours on somebody's ``spec.http`` would make their next server-side apply
fail with a conflict, though nothing of ours is there any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlflow_istio.adapters.kubernetes.api_calls import Call, Caller
from mlflow_istio.core.basics.objects import (
    DOMAIN,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    Object,
    annotations_of,
    labels_of,
)


def given_up(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> bool:
    """Whether an edit took the last of our annotations off an object that is not ours."""
    if before is None or labels_of(after).get(MANAGED_BY_LABEL) == FIELD_MANAGER:
        return False
    return _has_ours(before) and not _has_ours(after)


def disowned(obj: Object) -> Object | None:
    """The object (as the API server gives it) without our field ownership; None when there is none."""
    fields = obj["metadata"].get("managedFields") or []
    kept = [entry for entry in fields if entry.get("manager") != FIELD_MANAGER]
    if len(kept) == len(fields):
        return None
    return {**obj, "metadata": {**obj["metadata"], "managedFields": kept or [{}]}}  # an empty list would change nothing


def disown(caller: Caller, call: Callable[..., Call], kind: str, name: str) -> None:
    """Take our field ownership off an object. Its content stays as it is.

    Args:
        caller: Asks the API server.
        call: Makes a call from a verb, a kind, a name and a body.
        kind: The object's kind.
        name: Its name.
    """

    def attempt() -> None:
        wanted = disowned(caller.send(call("get", kind, name)))
        if wanted is not None:
            caller.send(call("update", kind, name, body=wanted))

    caller.insist(attempt, conflicts=True)


def _has_ours(obj: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"{DOMAIN}/") for key in annotations_of(obj))
