"""Startup, readiness and liveness probes: one check, and the verdicts that a row of checks adds up to."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_EAGER_SECONDS = 0.1
_LOWEST_SUCCESS, _LOWEST_FAILURE = 200, 400


def check(
    probe: Mapping[str, Any], container: Mapping[str, Any], address: str, execute: Callable[[list[str], float], bool]
) -> bool:
    """Probes a container once.

    Args:
        execute: runs a command in the container for at most so many seconds; says whether it ended with 0.

    Returns:
        Whether the probe succeeded.
    """
    seconds = float(probe.get("timeoutSeconds", 1))
    if "httpGet" in probe:
        return _http(probe["httpGet"], container, address, seconds)
    if "grpc" in probe:
        return _grpc(probe["grpc"], address, seconds)
    if "tcpSocket" in probe:
        try:
            socket.create_connection((address, _port(probe["tcpSocket"]["port"], container)), timeout=seconds).close()
        except OSError:
            return False
        return True
    return "exec" in probe and execute(list(probe["exec"]["command"]), seconds)


def verdicts(
    probe: Mapping[str, Any], once: Callable[[], bool], stopped: threading.Event, *, eager: bool
) -> Iterator[bool]:
    """Probes again and again and yields a verdict whenever a threshold is reached, until `stopped` is set.

    Args:
        eager: before the first success look much more often than the period says; failures still count once a period.
    """
    period = float(probe.get("periodSeconds", 10))
    needed = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
    stopped.wait(float(probe.get("initialDelaySeconds", 0)))
    row, last, ever = 0, None, False
    counted = float("-inf")
    while not stopped.is_set():
        began = time.monotonic()
        good = once()
        ever = ever or good
        if good or began - counted >= period:
            row = row + 1 if good is last else 1
            last, counted = good, began
            if row >= needed[good]:
                yield good
        pause = period if ever or not eager else min(_EAGER_SECONDS, period)
        stopped.wait(max(0.0, pause - (time.monotonic() - began)))


def _http(get: Mapping[str, Any], container: Mapping[str, Any], address: str, seconds: float) -> bool:
    host, port = get.get("host", address), _port(get["port"], container)
    connection: http.client.HTTPConnection
    if get.get("scheme", "HTTP") == "HTTPS":
        # As the kubelet does: a probe doesn't check certificates.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    headers = {
        "User-Agent": "kube-probe/testbed",
        **{item["name"]: item["value"] for item in get.get("httpHeaders", ())},
    }
    try:
        connection.request("GET", get.get("path", "/"), headers=headers)
        return _LOWEST_SUCCESS <= connection.getresponse().status < _LOWEST_FAILURE
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _grpc(check: Mapping[str, Any], address: str, seconds: float) -> bool:
    """Health by grpc.health.v1, as the kubelet asks for it: SERVING, in plain HTTP/2, at a port by its number."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{address}:{int(check['port'])}", options=options) as channel:
        request = health_pb2.HealthCheckRequest(service=check.get("service") or "")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _port(port: int | str, container: Mapping[str, Any]) -> int:
    """A probe names a port by number or by the name that the container gives it."""
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    return int(port)
