"""One call over gRPC, as bytes out and bytes in: what the messages mean is said where they are made.

grpcio is an extra of the package and starts threads, so it is imported by the first call.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.errors import InvalidInput

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """How a call ended.

    Attributes:
        code: The status, by its name, such as ``OK`` or ``UNAVAILABLE``.
        details: What was said beside it.
        body: The answer's message; empty where there is none.
        metadata: Leading and trailing metadata that are text, names in lower case.
    """

    code: str
    details: str = ""
    body: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)


def call_once(url: str, method: str, message: bytes, *, headers: Mapping[str, str], timeout: float) -> Reply:
    """Make one unary call on a connection of its own, so that none that is kept hides what a new caller gets.

    Args:
        url: Base URL of the server or proxy; ``https`` speaks TLS, ``http`` HTTP/2 in plain.
        method: Service and method, such as ``/grpc.health.v1.Health/Check``.
        message: The request's message.
        headers: Metadata; ``host`` is the authority.
        timeout: Seconds.

    Raises:
        InvalidInput: grpcio is not installed.
    """
    with _channel(url, _authority(headers)) as channel:
        return _called(channel, method, message, headers, timeout)


def call(url: str, method: str, message: bytes, *, headers: Mapping[str, str], timeout: float) -> Reply:
    """Make one unary call on a connection that is kept for the next; see ``call_once``.

    Raises:
        InvalidInput: grpcio is not installed.
    """
    return _called(_kept_channel(url, _authority(headers)), method, message, headers, timeout)


def can_call() -> bool:
    """Whether grpcio is installed."""
    return importlib.util.find_spec("grpc") is not None


def _called(channel: Any, method: str, message: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
    grpc = _grpc()
    metadata = [(name.lower(), value) for name, value in headers.items() if name.lower() != "host"]
    unary = channel.unary_unary(method)  # no serializers: bytes as they are
    try:
        body, made = unary.with_call(message, metadata=metadata, timeout=timeout, wait_for_ready=False)
    except grpc.RpcError as exc:
        return Reply(code=exc.code().name, details=exc.details() or "", metadata=_texts(exc))
    return Reply(code="OK", body=body, metadata=_texts(made))


def _texts(made: Any) -> dict[str, str]:
    pairs = [*(made.initial_metadata() or ()), *(made.trailing_metadata() or ())]
    return {name: value for name, value in pairs if isinstance(value, str)}


def _authority(headers: Mapping[str, str]) -> str:
    return next((value for name, value in headers.items() if name.lower() == "host"), "")


@functools.lru_cache(maxsize=16)
def _kept_channel(url: str, authority: str) -> Any:
    return _channel(url, authority)


def _channel(url: str, authority: str) -> Any:
    grpc = _grpc()
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    options: list[tuple[str, Any]] = [
        # Else all channels to one address share a connection, and how long it waits after one that failed.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        *([("grpc.enable_http_proxy", 0)] if proxies_for(url) else []),
        *([("grpc.default_authority", authority)] if authority else []),
    ]
    target = f"{host}:{parts.port or _PORTS[parts.scheme]}"
    if parts.scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return grpc.insecure_channel(target, options=options)


def _grpc() -> Any:
    # Its own log would stand among the answers of a command, and it has no threads to mend in our children.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        import grpc
    except ImportError as exc:
        raise InvalidInput("a gRPC endpoint needs grpcio: install it with pip install 'mlflow-istio[grpc]'") from exc
    return grpc
