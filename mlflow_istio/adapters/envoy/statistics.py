"""Reading an Envoy's statistics: over HTTP, or over the socket of the local mesh's own."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import requests

from mlflow_istio.calls import unix_sockets
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.basics.grpc_status import class_of_call
from mlflow_istio.errors import ClusterError, MetricsError

CALLS = "envoy_mlflow_istio_calls"
"""The local mesh's counter of calls over gRPC, by cluster, route, status and what the proxy says of its end."""
_LIVE_ROUTE = re.compile(r"mlflow-istio\.[^.]+\.(?:fault\.)?(?P<part>split|arm|expire)(\..*)?")


def read_statistics(admin: str, pattern: str, *, name: str, timeout: float) -> str:
    """The statistics whose names a pattern finds, in Prometheus' text format.

    Args:
        admin: Where they are read: ``http://127.0.0.1:15000``, or ``unix:///PATH``.
        pattern: A regular expression.
        name: What errors call them.
        timeout: Seconds.

    Raises:
        MetricsError: Envoy does not answer, or refuses.
    """
    target = f"/stats/prometheus?filter={quote(pattern)}"
    address = urlsplit(admin)
    try:
        if address.scheme == "unix":
            status, text = unix_sockets.get(Path(unquote(address.path)), target, timeout=timeout)
        else:
            url = admin + target
            answer = requests.get(url, timeout=timeout, proxies=proxies_for(url))
            status, text = answer.status_code, answer.text
    except (OSError, http.client.HTTPException) as exc:  # those of requests are OSErrors
        raise MetricsError(f"{name} can't be read at {admin}: {type(exc).__name__}; is that Envoy running?") from exc
    except ClusterError as exc:
        raise MetricsError(f"{name} can't be read: {exc.message}") from exc
    if status != requests.codes.ok:
        raise MetricsError(f"{name} can't be read at {admin}: it answered {status}")
    return text


def process_of(admin: str) -> str:
    """What tells one Envoy's counters from another's; the local mesh has one."""
    return urlsplit(admin).netloc or "envoy"


def call_of(labels: Mapping[str, str]) -> tuple[str, str] | None:
    """Tree and class of answers of a counter of calls over gRPC (``adapters.local.envoy.stats``); None: it isn't evidence.

    Only routes of live traffic are; not a call that a fault ended.
    """
    route, flags = _LIVE_ROUTE.fullmatch(labels.get("route", "")), labels.get("flags", "")
    answers = class_of_call(labels.get("grpc_status", ""), flags)
    if route is None or not answers or "FI" in flags.split(","):
        return None
    return ("arm" if route["part"] == "arm" else "split"), answers
