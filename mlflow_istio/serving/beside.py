"""A recorder in front of a server that can't record. It listens where the environment says (see ``configuration``).

``python -m mlflow_istio.serving.beside [--env NAME]... -- COMMAND`` runs the server, too: in the command and in the named
variables ``$(MLFLOW_ISTIO_SERVER_PORT)`` stands for the port that is left for it. Both end together: a signal to end is the
server's to obey, and what it still answers passes; a server that ends by itself ends the recorder with its exit code.

``python -m mlflow_istio.serving.beside --server-port PORT`` stands in front of a server that somebody else starts and ends at that
port of this machine, in another container of the pod. Told to end, it takes no new connection and finishes what is being answered.

With ``--grpc`` the server speaks gRPC (see ``grpc_passage``).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.types import ASGIApp

from mlflow_istio.errors import InvalidInput, MlflowIstioError, NotReady
from mlflow_istio.serving.configuration import PREFIX, ServingSettings, read_settings
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.serving.grpc_answers import V2Bodies
from mlflow_istio.serving.listener import bind, listen
from mlflow_istio.serving.record_log import RecordLog, opened_log
from mlflow_istio.serving.recorder import Recorder
from mlflow_istio.serving.recording_proxy import Caller, Passage
from mlflow_istio.serving.records_app import RecordsApp

SERVER_PORT = "$(MLFLOW_ISTIO_SERVER_PORT)"
"""What stands for the server's port: a reference as Kubernetes writes it, which nobody else resolves."""
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.05


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the server and its recorder until the server ends, and exit as it did."""
    parser = argparse.ArgumentParser(prog="mlflow_istio.serving.beside")
    parser.add_argument("--env", action="append", default=[], metavar="NAME")
    parser.add_argument("--server-port", type=int, metavar="PORT")
    parser.add_argument("--grpc", action="store_true")
    parser.add_argument("command", nargs="*")
    asked = parser.parse_args(arguments)
    if (asked.server_port is None) != bool(asked.command):
        parser.error("give either the server's command, or --server-port where somebody else starts it")
    try:
        settings = read_settings(os.environ)
        listener = bind(settings.host, settings.port)
        if asked.server_port is not None:
            code = asyncio.run(_stand_before(settings, listener, asked.server_port, asked.grpc))
        else:
            code = asyncio.run(_run(settings, listener, asked.command, asked.env, asked.grpc))
    except MlflowIstioError as error:
        print(f"mlflow_istio.serving.beside: {error.message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    sys.exit(code if code >= 0 else 128 - code)


def server_process(
    command: Sequence[str], environ: Mapping[str, str], names: Sequence[str], port: int
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the server.

    Args:
        command: The command, with ``SERVER_PORT``.
        environ: The recorder's environment; what is about recording stays there.
        names: Variables with ``SERVER_PORT``.
        port: The server's port.
    """
    argv = [part.replace(SERVER_PORT, str(port)) for part in command]
    if argv[0] in ("python", "python3"):
        argv[0] = sys.executable
    kept = {name: value for name, value in environ.items() if not name.startswith(f"{PREFIX}RECORD")}
    variables = {name: kept[name].replace(SERVER_PORT, str(port)) for name in names if name in kept}
    return argv, {**kept, **variables, f"{PREFIX}HOST": "127.0.0.1", f"{PREFIX}PORT": str(port)}


async def _run(
    settings: ServingSettings, listener: socket.socket, command: Sequence[str], names: Sequence[str], grpc: bool
) -> int:
    loop = asyncio.get_running_loop()
    speaks = speaker(grpc)
    port = _free_port()
    passage = _passage(settings, port, grpc)
    argv, env = server_process(command, os.environ, names, port)
    on_linux = sys.platform == "linux"
    try:
        # In a session of its own, since whoever ends a group would else tell the server twice; it dies with us all the same.
        server = await asyncio.create_subprocess_exec(
            *argv, env=env, start_new_session=on_linux, preexec_fn=_die_with_parent if on_linux else None
        )
    except OSError as error:
        raise NotReady(f"can't run {argv[0]!r}: {error.strerror}") from error

    def stop() -> None:
        if server.returncode is None:
            server.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    door = await _opened_door(passage, listener, speaks)
    code = await server.wait()
    door.close()
    if passage.recorder is not None:
        passage.recorder.close()
    return 0 if code == -signal.SIGTERM else code


async def _stand_before(settings: ServingSettings, listener: socket.socket, port: int, grpc: bool) -> int:
    """Pass on what comes until told to end, and then until nothing is answered any more.

    How long that may take is up to who tells: Kubernetes ends a sidecar after its pod's other containers, and kills it when the
    pod's time is over.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    speaks = speaker(grpc)
    passage = _passage(settings, port, grpc)
    door = await _opened_door(passage, listener, speaks)
    await told.wait()
    door.close()
    for caller in tuple(passage.callers):
        caller.leave()
    while passage.callers:
        await asyncio.sleep(_LOOK_SECONDS)
    if passage.recorder is not None:
        passage.recorder.close()
    return 0


async def _opened_door(
    passage: Passage, listener: socket.socket, speaks: Callable[[Passage], asyncio.Protocol]
) -> asyncio.Server:
    listen(listener)
    return await asyncio.get_running_loop().create_server(lambda: speaks(passage), sock=listener)


def speaker(grpc: bool) -> Callable[[Passage], asyncio.Protocol]:
    """Who takes a caller's connection.

    Raises:
        InvalidInput: What it needs is not installed.
    """
    if not grpc:
        return Caller
    try:
        from mlflow_istio.serving.grpc_passage import Door
    except ImportError as error:
        raise InvalidInput(
            f"recording calls of gRPC needs {error.name}: pip install 'mlflow-istio[grpc]' where the recorder runs"
        ) from error
    return Door


def _passage(settings: ServingSettings, port: int, grpc: bool) -> Passage:
    """The way to the server, with what is answered in its place: the records, to who has the token, and what is counted."""
    if settings.record is None:
        return Passage(port=port, recorder=None)
    metrics = ServerMetrics(
        CollectorRegistry(),
        deployment=settings.deployment,
        model=settings.model_name,
        version=settings.model_version,
    )
    log: RecordLog = opened_log(settings.record.directory, settings.record.max_bytes)
    label = f"{settings.model_name}/{settings.model_version}"
    recorder = Recorder(
        settings.record,
        log,
        metrics,
        deployment=settings.deployment,
        model_version=label,
        bodies=V2Bodies() if grpc else None,
    )
    series, streams = metrics.of_recorder()
    own: dict[bytes, ASGIApp] = {b"/records/metrics": make_asgi_app(series)}
    if settings.record.token is not None:
        own[b"/records"] = RecordsApp(recorder.log, settings.record.token, recorder.dropped)
    return Passage(port=port, recorder=recorder, streams=streams, own=own)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
