"""What a test inside the testbed may do to it: end and restart its programs, cut off pods, read logs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.testbed.errors import TestbedError

SOCKET_VARIABLE = "TESTBED_SOCKET"
HOST_VARIABLE = "TESTBED_HOST"
HOW_TO_RUN = "python -m tests.testbed run --fast -- python -m pytest -m control_plane"
_POLL_SECONDS = 0.05

T = TypeVar("T")


class Testbed:
    """The testbed this process runs in. Programs: etcd, kube-apiserver, kube-controller-manager, istiod, gateway."""

    __test__ = False

    def __init__(self, socket_path: str) -> None:
        self._socket = socket_path

    @classmethod
    def of_this_process(cls) -> Testbed:
        """The testbed that runs this process.

        Raises:
            TestbedError: none does.
        """
        if SOCKET_VARIABLE not in os.environ:
            raise TestbedError(f"this needs the real control plane around it: {HOW_TO_RUN}")
        return cls(os.environ[SOCKET_VARIABLE])

    def programs(self) -> dict[str, dict[str, int | None]]:
        """For each program `pid`, `exit_code` (None while it runs) and `memory` (resident, bytes)."""
        return dict(self._call("programs"))

    def kill(self, program: str) -> None:
        """Ends a program with SIGKILL; returns once it is gone."""
        self.signal(program, signal.SIGKILL)

    def signal(self, program: str, number: int) -> None:
        """Sends a program a signal: SIGSTOP lets it hang, SIGCONT go on."""
        self._call("signal", program=program, number=int(number))

    def start(self, program: str) -> None:
        """Starts a program that has ended; returns once it is ready. One that runs is left alone."""
        self._call("start", program=program)

    def restart(self, program: str) -> None:
        """`kill`, then `start`."""
        self.kill(program)
        self.start(program)

    def cut_off(self, pod: str) -> None:
        """Takes down the cable of the pod `NAMESPACE/NAME`, or of the host `gateway`: its packets vanish."""
        self._call("cut_off", host=pod)

    def reconnect(self, pod: str) -> None:
        """Undoes `cut_off`."""
        self._call("reconnect", host=pod)

    def heal(self) -> None:
        """Undoes every fault: all cables up, all programs running and ready.

        After an outage of the API server or etcd its clients are restarted: they would else ask it again only after a
        wait that grew with the outage, and delay the next tests by half a minute.
        """
        self._call("heal")

    def log(self, program: str, lines: int = 50) -> str:
        """The end of what a program printed."""
        return str(self._call("log", program=program, lines=lines))

    def pod_log(self, pod: str, container: str | None = None, lines: int = 50) -> str:
        """The end of what a container of the pod `NAMESPACE/NAME` printed; by default its first container."""
        return str(self._call("pod_log", pod=pod, container=container, lines=lines))

    def _call(self, verb: str, **arguments: object) -> Any:
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", f"/{verb}", body=json.dumps(arguments))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise TestbedError(answer["error"])
        return answer["result"]


def wait_for(what: str, condition: Callable[[], T], seconds: float = 120.0) -> T:
    """Asks until the answer is true, and returns it.

    Raises:
        TestbedError: it never was in that time; the text has the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TestbedError(f"waited {seconds:.0f} s in vain for {what}; the last answer was {answer!r}")
        time.sleep(_POLL_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("testbed")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)
