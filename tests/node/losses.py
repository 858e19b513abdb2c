"""Callers of an endpoint while things are killed, and which of their requests were lost that somebody would have answered.

A request that was on its way to what was killed can't be saved by anybody, and is counted apart: it began before the kill was over,
and ended after that had begun.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.node.endpoint import BODY, JSON, Endpoint
from tests.support.pod_processes import process_of
from tests.testbed.client import wait_for


@dataclass
class Load:
    """What callers got.

    Attributes:
        path: What is asked.
        answers: Deployment (or version) and moment at which the request began.
        failures: What came instead, and when the request began and ended.
        kills: When each kill began and was over.
    """

    endpoint: Endpoint
    path: str = "/invocations"
    body: str = BODY
    answers: list[tuple[str, float]] = field(default_factory=list)
    failures: list[tuple[str, float, float]] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)

    def ask(self, _session: object, _number: int) -> None:
        """One request on a connection of its own; where no gateway takes one, none was sent, and the caller tries again."""
        connection = http.client.HTTPConnection(urlsplit(os.environ["GATEWAY_URL"]).netloc, timeout=60)
        try:
            connection.connect()
        except OSError:
            return
        began = time.monotonic()
        try:
            connection.request("POST", self.path, self.body, {"Host": self.endpoint.host, **JSON})
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append((repr(error), began, time.monotonic()))
        else:
            if answer.status == http.client.OK:
                # Our own server names its deployment, the route of another the version.
                who = answer.headers["x-mlflow-deployment"] or answer.headers["x-mlflow-model-version"]
                self.answers.append((who, began))
            else:
                self.failures.append((f"{answer.status} {said[:200]!r}", began, time.monotonic()))
        finally:
            connection.close()

    def kill(self, pod: str, word: bytes) -> None:
        """Ends a process of a pod as a crash would."""
        began = time.monotonic()
        os.kill(process_of(pod, word), signal.SIGKILL)
        self.kills.append((began, time.monotonic()))

    def goes_on(self, requests: int = 100) -> None:
        """Waits for so many more answers."""
        wanted = len(self.answers) + requests
        wait_for(f"{requests} more answers", lambda: len(self.answers) >= wanted)

    @property
    def lost(self) -> list[str]:
        """What failed though it was on its way when nothing was being killed."""
        return [
            f"{said} {began - max((over for _, over in self.kills if over <= began), default=0.0):.3f} s after a kill"
            for said, began, ended in self.failures
            if not any(began <= over and ended >= start for start, over in self.kills)
        ]

    def __str__(self) -> str:
        return f"{len(self.answers)} requests were answered, {len(self.failures)} were on their way to what was killed"
