"""A Clock that no test waits for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_RETRIES = 10


class StillClock:
    """A Clock that moves only when somebody sleeps."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self._now = start
        self._elapsed = 0.0

    def now(self) -> datetime:
        """See ``ports.Clock``."""
        return self._now

    def monotonic(self) -> float:
        """See ``ports.Clock``."""
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        """See ``ports.Clock``."""
        self._elapsed += seconds
        self._now = self._now + timedelta(seconds=seconds)
