"""Makes a case's gRPC calls: those of one request on one connection, as a gRPC client does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import grpc

from tests.corpus.answers import Reply
from tests.corpus.cases import Request

_TIMEOUT = 30.0
_TIMED_OUT = "upstream request timeout"
"""Envoy's words with UNAVAILABLE. It passes a route's timeout on as the call's deadline, and the model says DEADLINE_EXCEEDED for
the same: who is first is chance."""


class Calls:
    """One connection to a proxy, for calls to one host."""

    def __init__(self, netloc: str, host: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        target = netloc if ":" in netloc else f"{netloc}:80"
        self._channel = grpc.insecure_channel(target, options=[("grpc.default_authority", host), *own])

    def send(self, request: Request, headers: Mapping[str, str]) -> Reply:
        """Make a unary call and wait for its end."""
        metadata = [(name, value) for name, value in headers.items() if name != "host"]
        started = time.monotonic()
        unary = self._channel.unary_unary(request.call)
        timeout = request.deadline or _TIMEOUT
        try:
            body, made = unary.with_call(request.body.encode(), metadata=metadata, timeout=timeout)
            status = "OK"
        except grpc.RpcError as exc:
            # What a proxy says beside a status is its own affair; what the model says is the case's.
            status, made = exc.code().name, exc
            if _TIMED_OUT in str(exc.details()):
                status = grpc.StatusCode.DEADLINE_EXCEEDED.name
            body = str(exc.details()).encode() if "was told" in str(exc.details()) else b""
        seconds = time.monotonic() - started
        return Reply(status=status, headers=_metadata(made), body=body.decode(), seconds=seconds)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def seen_calls(netloc: str, headers: Mapping[str, str], identity: str) -> list[str] | None:
    """What reached one subset of the gRPC model; None where it can't be reached."""
    calls = Calls(netloc, headers["host"])
    try:
        reply = calls.send(Request(call="/echo.Echo/Seen", body=identity), headers)
    finally:
        calls.close()
    return list(json.loads(reply.body)) if reply.status == "OK" else None


def _metadata(made: Any) -> list[tuple[str, str]]:
    leading = [(name, value) for name, value in made.initial_metadata() or ()]
    trailing = [(name, f"{value} (trailing)") for name, value in made.trailing_metadata() or ()]
    return [*leading, *trailing]
