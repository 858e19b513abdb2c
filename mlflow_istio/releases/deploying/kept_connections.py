"""Connections are closed by the proxies before their server does it.

Envoy keeps an idle connection for an hour, and one in use for any number of requests. A server that closes it after seconds, or
after a number of requests, does so just when a request is on its way there, once in a while; that request is lost, and is not
tried again, since the server may have begun with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.releases.context import Context, Outcome
from mlflow_istio.releases.moving.policy import set_policy

_SHARE = 0.8
"""Of the time or the requests after which the server closes it: the rest is for a proxy and a server that are late."""


def close_before_server(
    context: Context, outcome: Outcome, runtime: Runtime, destination_rule: Mapping[str, Any], *, timeout: float
) -> Outcome:
    """Limit the time for which connections may be idle, and what they carry, unless somebody has said something about them.

    Args:
        context: The ports.
        outcome: What came of pinning the server's deployment.
        runtime: The server that gets its connections.
        destination_rule: The endpoint's rule.
        timeout: Seconds for the proxies to take the change over.

    Returns:
        What came of both; the outcome as it is where nothing is to be done.

    Raises:
        MlflowIstioError: As for ``set_policy``.
    """
    given = (destination_rule.get("spec", {}).get("trafficPolicy") or {}).get("connectionPool")
    endpoint = outcome.endpoint
    limits = _limits(runtime)
    if not limits or runtime.protocol != "http" or given not in (None, {"http": limits}):
        return outcome
    if endpoint is None or endpoint.adopted is not None:  # its owner's objects are the owner's
        return outcome
    if endpoint.traffic.policy.destination.connection_pool is not None:
        return outcome
    limited = set_policy(
        context,
        endpoint.name,
        PolicyRequest(changes={"connection_pool": {"http": limits}}),
        reason="its server closes connections that Envoy would use again",
        timeout=timeout,
    )
    return replace(limited, changed=True, warnings=(*outcome.warnings, *limited.warnings))


def _limits(runtime: Runtime) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if runtime.keep_alive:
        limits["idleTimeout"] = f"{round(runtime.keep_alive * _SHARE, 3):g}s"
    if runtime.connection_requests:
        limits["maxRequestsPerConnection"] = max(int(runtime.connection_requests * _SHARE), 1)
    return limits
