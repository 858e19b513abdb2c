"""People who call an endpoint: the frame that every suite's callers share. What they ask and note is the suite's own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

PAUSE = 0.02
"""Seconds between two requests of a caller. Callers without a pause take both processors of a small machine, and whatever a test
waits for, a server's start above all, waits with it."""

Ask = Callable[[requests.Session, int], None]
"""Sends one request and notes what came of it; gets the caller's session and the request's number, from 1."""


@contextmanager
def calling(ask: Ask, *, workers: int, seconds: float, pause: float = PAUSE) -> Iterator[None]:
    """Callers who ask one after the other until the block ends.

    Args:
        ask: One request.
        workers: How many callers.
        seconds: When they stop at the latest, should the block hang.
        pause: Seconds each waits between two requests; 0 for those whose requests take long by themselves.
    """
    numbers, stop = itertools.count(1), threading.Event()

    def caller() -> None:
        with requests.Session() as session:
            while not stop.wait(pause):
                ask(session, next(numbers))

    with _stopped_at_the_end(stop, [caller] * workers, seconds):
        yield


@contextmanager
def repeating(work: Callable[[], None], *, every: float, seconds: float) -> Iterator[None]:
    """Do something every so many seconds until the block ends."""
    stop = threading.Event()

    def worker() -> None:
        while not stop.wait(every):
            work()

    with _stopped_at_the_end(stop, [worker], seconds):
        yield


@contextmanager
def _stopped_at_the_end(stop: threading.Event, works: list[Callable[[], None]], seconds: float) -> Iterator[None]:
    ending = threading.Timer(seconds, stop.set)
    threads = [threading.Thread(target=work) for work in works]
    ending.start()
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        ending.cancel()
        for thread in threads:
            thread.join()
