"""Tell webhooks of a rollback, at least once: who is still to be told stands on the object until everybody was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.endpoint.endpoint import Endpoint, annotation
from mlflow_istio.core.release.plan import Webhook, shown_address
from mlflow_istio.errors import InvalidInput, NotFound
from mlflow_istio.releases.context import Context, edit_endpoint, endpoint_of

Ask = Callable[[str, Mapping[str, Any], float], str]
"""Asks a webhook (address, payload, seconds); empty for yes."""


def to_be_told(hooks: tuple[Webhook, ...], payload: Mapping[str, Any]) -> str | None:
    """What the edit that rolls back leaves on the object; None where nobody wants to know."""
    if not hooks:
        return None
    asked = [{"url": hook.url, "timeout": hook.timeout} for hook in hooks]
    return json.dumps({"hooks": asked, "payload": dict(payload)}, separators=(",", ":"), sort_keys=True)


def notify(context: Context, ask: Ask, name: str) -> bool:
    """Tell whoever is still to be told of a rollback of this endpoint, and note that it was done.

    What a webhook answers changes nothing: the traffic is back already. A process that dies in between leaves the note, and
    whoever drives or resumes a release of this endpoint next tells again.

    Args:
        context: The ports.
        ask: Asks a webhook.
        name: The endpoint.

    Returns:
        Whether there was anybody to tell.

    Raises:
        ClusterError: The cluster can't be reached; the note stays.
    """
    endpoint = endpoint_of(context.cluster, name)
    pending_notification = endpoint.pending_notification
    if pending_notification is None:
        return False
    for url, payload, timeout in _noted(context, name, pending_notification):
        words = ask(url, payload, timeout)
        if words:
            context.warn(f"webhook {shown_address(url)} was told of the rollback and said: {words}")

    def told(present: Endpoint) -> Endpoint:
        return (
            replace(present, pending_notification=None)
            if present.pending_notification == pending_notification
            else present
        )  # else it is another rollback's

    try:
        edit_endpoint(context.cluster, endpoint.virtual_service, name, told)
    except NotFound:
        context.tell(
            f"endpoint '{name}' was deleted while webhooks were told of its rollback"
        )  # and the note went with it
    return True


def _noted(context: Context, name: str, pending_notification: str) -> list[tuple[str, Mapping[str, Any], float]]:
    """Whom to tell what; nobody where somebody damaged the note: no release may wait for that."""
    try:
        note = parsed(pending_notification, "it")
        return [(str(hook["url"]), dict(note["payload"]), float(hook["timeout"])) for hook in note["hooks"]]
    except (ValueError, TypeError, LookupError, OverflowError, InvalidInput) as exc:
        key = annotation(name, "untold")
        context.warn(
            f"annotation {key} can't be read ({exc!r}), so its webhooks are not told of a rollback; it is taken away"
        )
        return []
