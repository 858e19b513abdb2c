"""Connections are closed by the proxies before their server does it.

Envoy keeps an idle connection for an hour, and one in use for any number of requests. A server that closes it after seconds, or
after a number of requests, does so just when a request is on its way there, once in a while; that request is lost, and is not
tried again, since the server may have begun with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.objects import name_of
from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.context import Context, Outcome, deployments_of
from mlflow_istio.releases.moving.policy import set_policy

_SHARE = 0.8
"""Of the time or the requests after which the server closes it: the rest is for a proxy and a server that are late."""


def close_before_server(
    context: Context, outcome: Outcome, deployment: str, destination_rule: Mapping[str, Any], *, timeout: float
) -> Outcome:
    """Limit the time for which connections may be idle, and what they carry, unless somebody has said something about them.

    Args:
        context: The ports.
        outcome: What came of pinning the server's deployment.
        deployment: Its name.
        destination_rule: The endpoint's rule.
        timeout: Seconds for the proxies to take the change over.

    Returns:
        What came of both; the outcome as it is where nothing is to be done.

    Raises:
        MlflowIstioError: As for ``set_policy``.
    """
    endpoint = outcome.endpoint
    if endpoint is None or endpoint.adopted is not None:  # its owner's objects are the owner's
        return outcome
    runtimes = _runtimes(context, endpoint.name)
    wanted = _pool(runtimes.values())
    before = _pool(runtime for name, runtime in runtimes.items() if name != deployment)
    pool = endpoint.traffic.policy.destination.connection_pool
    # Who died within this change has written the rule, and the endpoint's policy not.
    written = (destination_rule.get("spec", {}).get("trafficPolicy") or {}).get("connectionPool")
    # What we have said for the other servers may be too long for this one; what somebody else has said stays.
    if pool not in (None, before) or written not in (None, before, wanted):
        return outcome
    if wanted is None or pool == wanted or not _limits(runtimes.get(deployment, MLFLOW)):
        return outcome
    if before is not None and pool is None and written is None:
        return replace(outcome, warnings=(*outcome.warnings, _taken_away(deployment, wanted)))
    limited = set_policy(
        context,
        endpoint.name,
        PolicyRequest(changes={"connection_pool": wanted}),
        reason="its server closes connections that Envoy would use again",
        timeout=timeout,
    )
    return replace(limited, changed=True, warnings=(*outcome.warnings, *limited.warnings))


def _taken_away(deployment: str, wanted: Mapping[str, Any]) -> str:
    """What to say where others of these servers are there and nothing limits connections: that is somebody's will."""
    return (
        f"the server of {deployment!r} closes connections that Envoy would use again, and connection_pool was taken away: "
        f"now and then a request may be lost; policy connection_pool='{json.dumps(wanted)}' keeps them"
    )


def _runtimes(context: Context, endpoint: str) -> dict[str, Runtime]:
    runtimes = {}
    for deployment in deployments_of(context.cluster, endpoint):
        with suppress(InvalidInput):  # a damaged word on another's server is no matter of this one's
            runtimes[name_of(deployment)] = runtime_of_deployment(deployment)
    return runtimes


def _pool(runtimes: Iterable[Runtime]) -> dict[str, Any] | None:
    """The pool that suits them all; None for servers that close no connection."""
    limits = list(filter(None, map(_limits, runtimes)))
    if not limits:
        return None
    idle = min((limit.idle for limit in limits if limit.idle), default=0.0)
    requests = min((limit.requests for limit in limits if limit.requests), default=0)
    return {
        "http": {
            **({"idleTimeout": f"{idle:g}s"} if idle else {}),
            **({"maxRequestsPerConnection": requests} if requests else {}),
        }
    }


def _limits(runtime: Runtime) -> _Limits | None:
    if runtime.protocol != "http" or not (runtime.keep_alive or runtime.connection_requests):
        return None
    requests = max(int(runtime.connection_requests * _SHARE), 1) if runtime.connection_requests else 0
    return _Limits(idle=round(runtime.keep_alive * _SHARE, 3), requests=requests)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limits:
    """Seconds of idleness and requests of a connection; 0: no limit."""

    idle: float
    requests: int
