"""Processes that outlive the command that started them, kept by ``supervisor``.

One ``supervisord`` per mesh holds Envoy and every replica: it restarts what dies, rotates the logs, and ends what it is
told to end. A later command finds it through a unix socket. We speak its XML-RPC interface with the standard library,
so that nothing of supervisor is imported here.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlflow_istio.adapters.local import launch
from mlflow_istio.adapters.local.state import StateDirectory, read_tail
from mlflow_istio.calls.unix_sockets import UnixConnection, check_owner, check_socket, socket_path
from mlflow_istio.errors import ClusterError, NotReady

ENVOY = "envoy"
SWEEPER = "sweeper"
SUPERVISOR = "supervisord"
_CALL_TIMEOUT = 60.0
# In effect without end.
_START_RETRIES = 100_000
# Fault codes of supervisor's interface.
_UNKNOWN, _NOT_RUNNING, _ALREADY_ADDED, _STILL_RUNNING = 10, 70, 90, 91
_POLL = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A process as the supervisor sees it.

    Attributes:
        name: Its name.
        state: The supervisor's word: STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, STOPPED.
        pid: Its process id, 0 when it does not run.
        detail: What the supervisor says of it, such as an exit status.
    """

    name: str
    state: str
    pid: int
    detail: str


def admin_socket(state: StateDirectory) -> Path:
    """Where Envoy's admin interface of a mesh listens; no longer than the supervisor's, so that both have a folder."""
    return socket_path(state.run / "envoy.sock")


def supervisor_config(*, mesh: str, root: Path, socket_path: Path) -> str:
    """The supervisor's configuration file.

    Args:
        mesh: Name of the mesh.
        root: Its state directory, where the file is to stand.
        socket_path: Where the supervisor listens.
    """
    return f"""\
[supervisord]
identifier={mesh}
logfile={root}/logs/{SUPERVISOR}.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile={root}/run/{SUPERVISOR}.pid
childlogdir={root}/logs
nocleanup=true
silent=true

[unix_http_server]
file={socket_path}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files=programs/*.ini
"""


def program_config(name: str, *, root: Path, document: Path, note: Path, grace: int, start_seconds: int) -> str:
    """One program's section.

    Args:
        name: Its name.
        root: The mesh's state directory.
        document: What to run (see ``launch``).
        note: Where the process notes down who it is.
        grace: Seconds between the request to stop and the kill.
        start_seconds: A process that ends within this time failed to start: it is tried again after a growing pause.
    """
    command = [sys.executable, "-I", launch.__file__, str(document), str(note)]
    # The file's format has '%' for references; quoting protects spaces.
    text = " ".join(shlex.quote(part) for part in command).replace("%", "%%")
    return f"""\
[program:{name}]
command={text}
autostart=true
autorestart=true
startsecs={start_seconds}
startretries={_START_RETRIES}
stopsignal=TERM
stopwaitsecs={max(grace, 1)}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={root}/logs/{name}.log
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = UnixConnection(self._path, timeout=_CALL_TIMEOUT)
        # Where the base class looks for what it is to close.
        self._connection = host, connection
        return connection


class Supervisor:
    """The supervisor of one mesh.

    Args:
        state: The mesh's state directory.
        name: Name of the mesh.
    """

    def __init__(self, state: StateDirectory, name: str) -> None:
        self._state = state
        self._name = name
        self.socket_path = socket_path(state.run / "supervisor.sock")

    def is_alive(self) -> bool:
        """Whether it answers; costs one connection and no call."""
        check_socket(self.socket_path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5.0)
            try:
                probe.connect(str(self.socket_path))
            except OSError:
                return False
        return True

    def start(self) -> None:
        """Start it with all programs whose files stand in the state directory.

        Raises:
            ClusterError: It is not installed.
            NotReady: It did not start; ``detail`` has its last words.
        """
        if find_spec("supervisor") is None:
            raise ClusterError("the local mesh needs supervisor: install it with 'pip install mlflow-istio[local]'")
        self.socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_owner(self.socket_path.parent)
        # It turns itself into a daemon once its socket is open: when this returns, it answers.
        answer = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "supervisor.supervisord",
                "-c",
                str(self._state.root / "supervisord.ini"),
            ],
            cwd=self._state.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CALL_TIMEOUT,
        )
        if answer.returncode != 0 or not self.is_alive():
            log = "\n".join(read_tail(self._state.logs / f"{SUPERVISOR}.log", 10))
            raise NotReady(
                f"the supervisor of mesh '{self._name}' did not start (exit code {answer.returncode}); "
                f"see {self._state.logs / f'{SUPERVISOR}.log'}",
                detail=(answer.stderr or answer.stdout).strip() or log,
            )
        launch.note(self.note_file(SUPERVISOR), int(self._call("getPID")))

    def shut_down(self) -> None:
        """End all programs and the supervisor, and wait until it is gone."""
        pid = int(self._call("getPID"))
        who = launch.identity(pid)
        # All at once, where its own way is one after the other.
        self.end(list(self.programs()))
        self._call("shutdown")
        while who is not None and launch.identity(pid) == who:
            # Each connection wakes it from a wait of up to a second.
            self.is_alive()
            time.sleep(_POLL)

    def programs(self) -> dict[str, Program]:
        """All programs it knows, by name."""
        return {
            str(info["name"]): Program(
                name=str(info["name"]),
                state=str(info["statename"]),
                pid=int(info["pid"]),
                detail=str(info["spawnerr"] or info["description"]),
            )
            for info in self._call("getAllProcessInfo")
        }

    def add(self, names: Sequence[str]) -> None:
        """Take up programs whose files are new, and start them."""
        if not names:
            return
        self._call("reloadConfig")
        for name in names:
            self._attempt("addProcessGroup", name, expected=(_ALREADY_ADDED,))

    def end(self, names: Sequence[str]) -> None:
        """Ask programs to stop, wait until they have, and forget them; unknown ones are no error."""
        left = list(names)
        while left:
            for name in left:
                self._attempt("stopProcess", name, False, expected=(_UNKNOWN, _NOT_RUNNING))
            left = [
                name
                for name in left
                if self._attempt("removeProcessGroup", name, expected=(_UNKNOWN, _STILL_RUNNING)) == _STILL_RUNNING
            ]
            if left:
                time.sleep(_POLL)

    def starts(self, name: str) -> int:
        """How often a program was started since its file was written."""
        return _starts(self.note_file(name))

    def last_ready_start(self, name: str) -> int:
        """The number of the start with which a program was last seen ready; 0 for never."""
        return _starts(self._ready_file(name))

    def note_ready(self, name: str) -> None:
        """Note down that a program is ready as it now runs."""
        starts = self.starts(name)
        if self.last_ready_start(name) != starts:
            self._ready_file(name).touch(0o600)
            self._ready_file(name).write_text(json.dumps({"starts": starts}))

    def is_noted(self, name: str) -> bool:
        """Whether a program's process lives."""
        note = _read_note(self.note_file(name))
        return bool(note) and launch.identity(int(note["pid"])) == note["identity"]

    def forget(self, names: Sequence[str]) -> None:
        """Remove the notes of programs that are no more."""
        for name in names:
            self.note_file(name).unlink(missing_ok=True)
            self._ready_file(name).unlink(missing_ok=True)

    def end_leftovers(self) -> None:
        """End what a killed supervisor left behind: exactly the processes that were noted down."""
        notes = {path: _read_note(path) for path in self._state.run.glob("*.json")}
        supervisor = notes.pop(self.note_file(SUPERVISOR), {})
        # A supervisor that lost its socket still ends its programs properly.
        _end_noted([supervisor], seconds=3600, group=False)
        _end_noted(list(notes.values()), seconds=10, group=True)
        self.forget([SUPERVISOR, *(path.name.removesuffix(".json") for path in notes)])

    def note_file(self, name: str) -> Path:
        """Where a program notes down who it is."""
        return self._state.run / f"{name}.json"

    def _ready_file(self, name: str) -> Path:
        return self._state.run / f"{name}.ready"

    def _attempt(self, method: str, *arguments: object, expected: Sequence[int]) -> int | None:
        """One call; the code of its fault when that is an expected one, else None."""
        try:
            self._call(method, *arguments)
        except ClusterError as exc:
            if isinstance(exc.__cause__, xmlrpc.client.Fault) and exc.__cause__.faultCode in expected:
                return exc.__cause__.faultCode
            raise
        return None

    def _call(self, method: str, *arguments: object) -> Any:
        transport = _UnixTransport(self.socket_path)
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as exc:
            raise ClusterError(f"the supervisor of mesh '{self._name}' refused {method}: {exc.faultString}") from exc
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as exc:
            raise ClusterError(
                f"the supervisor of mesh '{self._name}' does not answer ({exc}): run the same command again"
            ) from exc
        finally:
            transport.close()


def _read_note(path: Path) -> dict[str, Any]:
    """Who runs, as ``launch.note`` wrote it; nothing where that can't be read."""
    note = _read_numbers(path)
    return note if isinstance(note.get("pid"), int) and isinstance(note.get("identity"), str) else {}


def _starts(path: Path) -> int:
    starts = _read_numbers(path).get("starts", 0)
    return starts if isinstance(starts, int) else 0


def _read_numbers(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _end_noted(notes: Sequence[Mapping[str, Any]], *, seconds: float, group: bool) -> None:
    """End the noted processes that still live: ask first, then kill.

    Args:
        notes: What ``launch.note`` wrote.
        seconds: How long they may take.
        group: Whether each leads a group of processes that ends with it.
    """
    living = {
        int(note["pid"]): str(note["identity"])
        for note in notes
        if note and launch.identity(int(note["pid"])) == note["identity"]
    }

    def send(pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if group and os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    for pid in living:
        send(pid, signal.SIGTERM)
    for pid in _await_end(living, seconds=seconds):
        send(pid, signal.SIGKILL)
    _await_end(living, seconds=seconds)


def _await_end(living: Mapping[int, str], *, seconds: float) -> list[int]:
    """Wait until the processes are gone; those that are left after that time."""
    deadline = time.monotonic() + seconds
    left = list(living)
    while True:
        left = [pid for pid in left if launch.identity(pid) == living[pid]]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_POLL)
