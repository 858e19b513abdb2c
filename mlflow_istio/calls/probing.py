"""Send a probe to one address until its answer proves it. The only place that sends probes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow_istio.calls.denial import NEED, is_denied
from mlflow_istio.calls.grpc_calls import call_once, can_call
from mlflow_istio.calls.grpc_health import SERVING, health_request
from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.matching.probe import Probe
from mlflow_istio.errors import NotRouted

_PAUSES = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05)
_ROW_SECONDS = 1.0
"""For so long at most a proof is repeated: far away each takes its time, and the change is there for all that is known."""
_ADVICE = "the change is stored: run the same command again, or look at 'mlflow-istio status'"


def confirm(probe: Probe, *, url: str, headers: Mapping[str, str], timeout: float, in_a_row: int = 1) -> None:
    """Ask ``url`` until the answer proves the probe.

    A fresh connection is used for each attempt, so that no long-lived connection to one worker hides the others.

    Args:
        probe: What to ask and what to expect.
        url: Base URL of the endpoint.
        headers: Headers every request to this endpoint needs; the probe's own win.
        timeout: Seconds in all.
        in_a_row: How many answers must prove it one after the other, as far as they come within a second: behind an address may
            stand several proxies, of which each answers its share.

    Raises:
        NotRouted: The answer did not come in time; names what was seen last.
    """
    from urllib3.util import SKIP_HEADER  # kept out of start-up: 60 ms that help texts need not pay

    deadline = time.monotonic() + timeout
    seen = "no answer"
    # What a client adds by itself: a route might match on it, and the probe was made up without.
    unsent = {"accept": None, "user-agent": SKIP_HEADER, "accept-encoding": SKIP_HEADER}
    attempt = row = 0
    first = 0.0
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0 and attempt:
            advice = f"{NEED}, then run the same command again" if is_denied(seen) else _ADVICE
            raise NotRouted(f"{url} did not confirm {probe.purpose} within {timeout:g} s (last seen: {seen}); {advice}")
        patience = max(0.05, min(5.0, remaining))
        if probe.service is not None:
            proved, seen = _health(probe, url, headers, patience)
        elif probe.call and can_call():
            proved, seen = _call(probe, url, headers, patience)
        else:  # without grpcio by HTTP/1.1, which most proxies take beside HTTP/2
            proved, seen = _answer(probe, url, {**unsent, **headers, **probe.headers, "connection": "close"}, patience)
        row = row + 1 if proved else 0
        if row == 1:
            first = time.monotonic()
        if row and (row >= in_a_row or time.monotonic() >= min(first + _ROW_SECONDS, deadline)):
            return
        attempt += 1
        if proved:
            continue
        time.sleep(_PAUSES[min(attempt - 1, len(_PAUSES) - 1)])


def _answer(probe: Probe, url: str, headers: Mapping[str, str | None], timeout: float) -> tuple[bool, str]:
    """Whether a request's answer proves it, and what was seen."""
    import requests

    try:
        answer = requests.request(
            probe.method,
            url.rstrip("/") + probe.path,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            proxies=proxies_for(url),
        )
    except requests.RequestException as exc:
        return False, type(exc).__name__
    proved = probe.proved_by(answer.status_code, answer.headers, answer.text)
    return proved, f"status {answer.status_code}, body {answer.text.strip()[:80]!r}"


def _health(probe: Probe, url: str, headers: Mapping[str, str], timeout: float) -> tuple[bool, str]:
    """The same of a server's health over gRPC: its metadata are the headers."""
    reply = call_once(
        url, probe.path, health_request(probe.service or ""), headers={**headers, **probe.headers}, timeout=timeout
    )
    ready = reply.code == "OK" and reply.body == SERVING
    health = "SERVING" if ready else " ".join(reply.details.split())[:80]
    return probe.proved_by(200 if ready else 503, reply.metadata, ""), f"gRPC status {reply.code}, {health!r}"


def _call(probe: Probe, url: str, headers: Mapping[str, str], timeout: float) -> tuple[bool, str]:
    """The same of a call over gRPC that a proxy answers itself: what it would say as a body is the status's message.

    Envoy makes the status of HTTP's (``Grpc::Utility::httpToGrpcStatus``), which has none for 200: it is UNKNOWN.
    """
    reply = call_once(url, probe.path, b"", headers={**headers, **probe.headers}, timeout=timeout)
    answered = 200 if reply.code == "UNKNOWN" else 503
    details = " ".join(reply.details.split())[:80]
    return probe.proved_by(answered, reply.metadata, reply.details), f"gRPC status {reply.code}, {details!r}"
