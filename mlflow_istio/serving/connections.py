"""Connections of callers who take their time: none is held for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_PROGRESS_BYTES = 64 * 1024
"""Bytes of an answer that a caller must at least take in each spell of the timeout."""


def patient_protocol(timeout: float) -> type[H11Protocol]:
    """Uvicorn's HTTP protocol with limits on the caller's side.

    Uvicorn limits only how long a connection rests between two requests. Here a request's line and headers must have come within
    the timeout, counted from the connection or from their first byte, and a caller must take the answer at more than a trickle.
    (Their size is h11's limit of 64 KiB; ``BodyGate`` limits the body.)

    Args:
        timeout: Seconds.
    """

    class PatientProtocol(H11Protocol):
        """One connection."""

        _request_timer: asyncio.TimerHandle | None = None
        _answer_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._request_timer = self.loop.call_later(timeout, self._give_up_request)

        def data_received(self, data: bytes) -> None:
            if self._request_timer is None and not self._is_answering():
                self._request_timer = self.loop.call_later(timeout, self._give_up_request)
            super().data_received(data)
            if self._is_answering():
                _cancel(self._request_timer)
                self._request_timer = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_progress()

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._answer_timer)
            self._answer_timer = None

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._request_timer)
            self._request_timer = None
            _cancel(self._answer_timer)
            self._answer_timer = None
            super().connection_lost(exc)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _give_up_request(self) -> None:
            self._request_timer = None
            if not self.transport.is_closing():
                self.transport.close()

        def _expect_progress(self) -> None:
            waiting = self.transport.get_write_buffer_size()
            self._answer_timer = self.loop.call_later(timeout, self._check_progress, waiting)

        def _check_progress(self, waited: int) -> None:
            if self.transport.get_write_buffer_size() > waited - _PROGRESS_BYTES:
                self.transport.abort()
            else:
                self._expect_progress()

    return PatientProtocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
