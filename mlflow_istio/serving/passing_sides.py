"""One of the two connections that something passes through, its caller's or the server's: neither takes more than the other."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar, cast

_CONNECT_SECONDS = 10.0
S = TypeVar("S", bound="Side")


class Side(asyncio.Protocol, ABC):
    """A connection, and what its other side asks of it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    @abstractmethod
    def other_side(self) -> Side | None:
        """Where what comes here goes to; None: there is nobody yet."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to write to."""
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        """Nothing more is taken here for now: neither is more taken from the other side."""
        other = self.other_side()
        if other is not None:
            other.hold(True)

    def resume_writing(self) -> None:
        """More is taken here."""
        other = self.other_side()
        if other is not None:
            other.hold(False)

    def write(self, data: bytes) -> None:
        """Send."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def hold(self, still: bool) -> None:
        """Take no more, or take more again."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if still else self._transport.resume_reading)()

    def close(self) -> None:
        """End the connection, once what was sent is out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break off."""
        if self._transport is not None:
            self._transport.abort()


async def connected(make: Callable[[], S], port: int) -> S | None:
    """A connection to the server on this machine; None: nobody takes it."""
    loop = asyncio.get_running_loop()
    try:
        _, server = await asyncio.wait_for(loop.create_connection(make, "127.0.0.1", port), timeout=_CONNECT_SECONDS)
    except (OSError, asyncio.TimeoutError):
        return None
    return server
