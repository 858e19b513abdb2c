"""Who reaches one version of an endpoint by its header: any caller, or only who has the key."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.pin_guard import OPEN, is_key
from mlflow_istio.releases.context import Context, Outcome
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move


def set_pins(
    context: Context,
    name: str,
    pins: Literal["guarded", "open", "new"],
    *,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Guard an endpoint's pinned routes and its probe, give them another key, or open them to any caller.

    Args:
        context: The ports.
        name: The endpoint.
        pins: ``guarded`` (one that is stays as it is), ``new`` (another key: the old one opens nothing any more), ``open``.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.

    Raises:
        NotFound: There is no such endpoint.
        NotRouted: A proxy did not take the change over in time.
    """
    key = context.new_key()

    def guarded(now: Endpoint) -> Endpoint:
        if pins == "guarded" and is_key(now.guard):
            return now
        return replace(now, guard=OPEN if pins == OPEN else key)

    return move(context, name, guarded, action="pins", reason=reason, timeout=timeout)
