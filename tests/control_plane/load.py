"""Callers that keep asking an endpoint through the gateway, and count who answered in which phase of a test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from scipy import stats

from mlflow_istio.ports.cluster import Address

CONNECTIONS = 8
MOVING = "moving"


@dataclass
class Load:
    """What the callers saw so far.

    Attributes:
        answers: Phase to version to count; a request counts in the phase in which it was sent and answered, or as moving.
        failures: Everything but a 200, and connections that broke.
    """

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _phase: str = MOVING
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def total(self) -> int:
        """Requests so far."""
        return sum(sum(counts.values()) for counts in list(self.answers.values())) + len(self.failures)

    def settled(self, phase: str, count: int) -> Counter[str]:
        """Wait until so many requests were sent and answered from now on, and say by whom."""
        self.answers[phase] = Counter()
        self._phase = phase
        deadline = time.monotonic() + 120
        with self._changed:
            while sum(self.answers[phase].values()) < count and not self.failures:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{sum(self.answers[phase].values())} of {count} requests in 120 s")
        self._phase = MOVING
        return self.answers[phase]

    def count(self, sent_in: str, answer: str | None, failure: str) -> None:
        """Note one answer, or what came instead of it."""
        with self._changed:
            if answer is None:
                self.failures.append(failure)
            else:
                phase = sent_in if sent_in == self._phase else MOVING
                self.answers.setdefault(phase, Counter())[answer] += 1
            self._changed.notify_all()


@contextmanager
def load_on(address: Address, headers: Mapping[str, str] | None = None) -> Iterator[Load]:
    """Keep asking until the block ends; whatever was sent is answered before that."""
    load, stop = Load(), threading.Event()

    async def all_callers() -> None:
        await asyncio.gather(*(_caller(address, headers or {}, load, stop) for _ in range(CONNECTIONS)))

    thread = threading.Thread(target=lambda: asyncio.run(all_callers()))
    thread.start()
    try:
        yield load
    finally:
        stop.set()
        thread.join()


async def _caller(address: Address, headers: Mapping[str, str], load: Load, stop: threading.Event) -> None:
    parts = urlsplit(address.url)
    lines = [f"{name}: {value}" for name, value in {**address.headers, **headers}.items()]
    request = "\r\n".join(["POST /invocations HTTP/1.1", *lines, "content-length: 0", "", ""]).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    while not stop.is_set():
        phase = load._phase
        try:
            writer.write(request)
            status, answered = await asyncio.wait_for(_answer(reader), 20)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.TimeoutError) as exc:
            load.count(phase, None, repr(exc))
            break
        load.count(phase, answered.get("x-mlflow-model-version", "?") if status == 200 else None, f"status {status}")
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers


def is_split(counts: Counter[str], shares: Mapping[str, int]) -> bool:
    """Whether each count is inside all but a millionth of its binomial distribution, and nobody else answered."""
    total = sum(counts.values())
    bounds = {name: stats.binom.interval(1 - 1e-6, total, share / 100) for name, share in shares.items()}
    inside = all(low <= counts[name] <= high for name, (low, high) in bounds.items())
    return inside and set(counts) <= {name for name, share in shares.items() if share}
