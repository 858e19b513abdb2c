"""Ask a server for its health by gRPC's own protocol, ``grpc.health.v1``: two fields, read and written here by hand."""

from __future__ import annotations

from mlflow_istio.calls.grpc_calls import call_once
from mlflow_istio.core.matching.probe import HEALTH_CHECK

SERVING = b"\x08\x01"
"""The answer's message of a server that is ready: field 1, a whole number, 1."""


def health_request(service: str) -> bytes:
    """The message that asks for a service's health; empty: the whole server's."""
    name = service.encode()
    length, size = bytearray(), len(name)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"\x0a" + bytes(length) + name if name else b""


def serving(target: str, service: str, *, timeout: float) -> bool:
    """Whether a server on this machine says that it is ready.

    Args:
        target: Its address, such as ``127.0.0.1:8080``.
        service: The service that is asked for; empty: the whole server.
        timeout: Seconds.

    Raises:
        InvalidInput: grpcio is not installed.
    """
    reply = call_once(f"http://{target}", HEALTH_CHECK, health_request(service), headers={}, timeout=timeout)
    return reply.code == "OK" and reply.body == SERVING
