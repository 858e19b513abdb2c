"""The commands ``mlflow`` and ``mlflow-istio``, ready: a process that has imported MLflow once, and forks for each call.

MLflow takes five seconds of processor time to import, and the pages' commands do it more often than anything else in a whole run.
Each call is the console script's own function in a process of its own, with the caller's arguments, folder, environment and
streams. What is not shown is that the console scripts start, which tests/e2e/test_wheel.py shows. Whatever MLflow reads from the
environment when it is imported is of the environment of the tests.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

_SOCKET = "socket"
_STREAMS = 3
_COMMANDS = ("mlflow", "mlflow-istio")
_MOST_BYTES = 1 << 20

# It needs nothing of the environment's packages, so that it starts at once.
_SCRIPT = """\
#!{python} -IS
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    call = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    streams = array.array("i", [0, 1, 2])
    server.sendmsg([len(call).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(call)
    code = server.recv(1)
# Nothing comes where the call was killed.
os._exit(code[0] if code else 137)
"""


@functools.cache
def folder_of_commands() -> Path:
    """A folder for the PATH with both commands; the process behind them ends with this one."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = str(folder / _SOCKET)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    # Its own end of the pipe closes when this process ends, however it does.
    alive, held = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", __name__, str(listener.fileno()), str(alive)],
        cwd=Path(__file__).parents[2],
        pass_fds=(listener.fileno(), alive),
        start_new_session=True,
    )
    listener.close()
    os.close(alive)
    atexit.register(process.wait)
    atexit.register(os.close, held)
    # The first line of a script ends its interpreter's name at a blank, which the path of a clone may have.
    python = folder / "interpreter"  # not what the pages call python
    python.symlink_to(os.path.realpath(sys.executable))
    for name in _COMMANDS:
        command = folder / name
        command.write_text(_SCRIPT.format(python=python, socket=path), encoding="utf-8")
        command.chmod(0o755)
    return folder


def _serve(listener: socket.socket, alive: int) -> None:
    """Forks for every call until the other end of ``alive`` is closed."""
    from mlflow.cli import cli

    from mlflow_istio.cli import main

    commands: dict[str, Callable[[], object]] = {"mlflow": cli, "mlflow-istio": main}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, alive], [], [])
        if alive in ready:
            return
        caller, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.close(alive)
            _call(caller, commands)
        caller.close()


def _call(caller: socket.socket, commands: Mapping[str, Callable[[], object]]) -> NoReturn:
    """One call, in a process of its own, which a child of its own serves so that its exit code can be told."""
    (name, *call), streams = _received(caller)
    child = os.fork()
    if child == 0:
        caller.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(commands[name], name, *call)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, caller], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGTERM)  # the caller has gone, who sends nothing more
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        caller.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(
    command: Callable[[], object], name: str, arguments: list[str], folder: str, environment: dict[str, str]
) -> NoReturn:
    """A command as its console script calls it."""
    code = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [name, *arguments]
        # By it click finds the name that it says in its help.
        sys.modules["__main__"].__package__ = None
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter's own end would
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # What Python's own end would do: ends of libraries, such as those that write what they still have.
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        os._exit(code)


def _received(caller: socket.socket) -> tuple[list[Any], list[int]]:
    streams = array.array("i")
    head, ancillary, _, _ = caller.recvmsg(4, socket.CMSG_SPACE(_STREAMS * streams.itemsize))
    for _, _, data in ancillary:
        streams.frombytes(data[: len(data) - len(data) % streams.itemsize])
    text = b"".join(_chunks(caller, int.from_bytes(head, "big")))
    return json.loads(text), list(streams)


def _chunks(caller: socket.socket, size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = caller.recv(min(size, _MOST_BYTES))
        if not chunk:
            raise EOFError("the caller has gone")
        size -= len(chunk)
        yield chunk


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
