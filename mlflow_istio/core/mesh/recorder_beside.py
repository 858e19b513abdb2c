"""A recorder beside a model server that can't record.

On the local mesh it is the process that starts the server and stands in front of it. In a pod it is a native sidecar: an init
container that Kubernetes starts before the server, starts again when it dies, and ends after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.pods import PodSettings, sidecars_in
from mlflow_istio.core.runtime.runtime import Runtime

CONTAINER = "recorder"
"""Name of its container."""
PAGE = "/records/metrics"
"""Where it shows what it counts."""
V2_METHOD = "/inference.GRPCInferenceService/ModelInfer"
"""The one method over gRPC whose calls are recorded."""
_COMMAND = ("python", "-m", "mlflow_istio.serving.beside")
_PORT = re.compile(r"\$\$|\$\(MLFLOW_ISTIO_PORT\)")
_SERVER_PORT = "$(MLFLOW_ISTIO_SERVER_PORT)"
"""Nobody sets this variable, so the reference arrives as it is; the recorder knows the port."""
_PORTS = (8790, 8791)
"""Where it listens in a pod: the first that is not its server's."""
_ABOUT = "MLFLOW_ISTIO_RECORD"
"""How the names of all variables begin that are about recording."""
_NEEDED = ("MLFLOW_ISTIO_MODEL_URI", "MLFLOW_ISTIO_MODEL_VERSION", "MLFLOW_ISTIO_DEPLOYMENT")
_FOLDER = "/tmp/mlflow-istio/records"
_AMOUNTS = {"cpu": "500m", "memory": "256Mi"}
"""What it gets where its server's amounts are said: a small request took it 0.28 ms of CPU, and it held 29 MB; each that is
answered holds up to a record's megabyte more."""


def has_recorder_beside(runtime: Runtime, env: Mapping[str, str], pod: PodSettings | None) -> bool:
    """Whether a recorder goes beside the server: where one is asked for, and the server is none itself.

    Args:
        runtime: The kind of server.
        env: What the user has put into its environment.
        pod: Settings of pods, whose images may have a command of their own; None on the local mesh.
    """
    runs = pod is not None or bool(runtime.command or runtime.args)
    return runs and is_recordable(runtime) and not runtime.records and asks_for_records(env)


def is_recordable(runtime: Runtime) -> bool:
    """Whether a recorder can tell what a server answers: any over HTTP, over gRPC the V2 protocol's ModelInfer."""
    return runtime.protocol == "http" or runtime.scoring == V2_METHOD


def asks_for_records(env: Mapping[str, str]) -> bool:
    """Whether a server's environment asks for records."""
    try:
        return float(env.get(_ABOUT) or 0) != 0  # of -1 or nan, too, the recorder says what is wrong
    except ValueError:
        return True  # the recorder says what is wrong with it


def entrance(runtime: Runtime, *, beside: bool) -> int:
    """The port of a pod that takes requests: the server's, or that of the recorder beside it."""
    return next(port for port in _PORTS if port != runtime.port) if beside else runtime.port


def recorded_beside(
    runtime: Runtime, command: Sequence[str], env: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Command, arguments and environment of a server with a recorder in front of it, as one process.

    Args:
        runtime: The kind of server.
        command: The server's command and arguments, with references as Kubernetes writes them.
        env: The variables that its runtime needs, likewise.
    """
    inner = tuple(map(_behind, command))
    moved = {name: _behind(value) for name, value in env.items()}
    names = [f"--env={name}" for name in moved if moved[name] != env[name]]
    return (*_COMMAND, *_speaks(runtime), *names, "--", *inner), (), moved


def is_recorded_beside(command: Sequence[str]) -> bool:
    """Whether a process is a recorder that starts the server behind it."""
    return tuple(command[: len(_COMMAND)]) == _COMMAND


def sidecar_values(
    runtime: Runtime, env: Sequence[Object], resources: Mapping[str, Mapping[str, str]], image: str
) -> tuple[Object, list[Object]]:
    """What the Deployment template gets as ``recorder``, and what is left of the server's environment.

    What is about recording is the recorder's alone: a model's code has no business with its token.

    Args:
        runtime: The kind of server.
        env: The server's environment entries.
        resources: ``requests`` and ``limits`` of the server.
        image: Our serving image.
    """
    port = entrance(runtime, beside=True)
    own = [entry for entry in env if _is_about_records(entry) or entry["name"] in _NEEDED]
    given = {"HOME": "/tmp", "MLFLOW_ISTIO_PORT": str(port)}
    if not any(entry["name"] == f"{_ABOUT}_DIR" for entry in own):
        given[f"{_ABOUT}_DIR"] = _FOLDER
    values: Object = {
        "image": image,
        "command": [*_COMMAND, *_speaks(runtime), f"--server-port={runtime.port}"],
        "env": [*({"name": name, "value": value} for name, value in given.items()), *own],
        "port": port,
        "resources": {
            part: {name: amount for name, amount in _AMOUNTS.items() if name in amounts}
            for part, amounts in resources.items()
            if _AMOUNTS.keys() & amounts.keys()
        },
    }
    return values, [entry for entry in env if not _is_about_records(entry)]


def with_variables(pod: Object, entries: Sequence[Object]) -> Object:
    """A pod whose model server gets these environment entries, or its recorder those that are about recording."""
    has_recorder = any(sidecar["name"] == CONTAINER for sidecar in sidecars_in(pod))
    of_records = [entry for entry in entries if has_recorder and _is_about_records(entry)]
    rest = [entry for entry in entries if entry not in of_records]
    first, *others = pod["containers"]
    changed = {**pod, "containers": [_with_entries(first, rest), *others]}
    if of_records:
        changed["initContainers"] = [
            _with_entries(container, of_records) if container["name"] == CONTAINER else container
            for container in pod["initContainers"]
        ]
    return changed


def _speaks(runtime: Runtime) -> tuple[str, ...]:
    return ("--grpc",) if runtime.protocol == "grpc" else ()


def _with_entries(container: Object, entries: Sequence[Object]) -> Object:
    if not entries:
        return container
    names = {entry["name"] for entry in entries}
    return {**container, "env": [*entries, *(old for old in container.get("env", []) if old["name"] not in names)]}


def _is_about_records(entry: Mapping[str, Any]) -> bool:
    return str(entry["name"]).startswith(_ABOUT)


def _behind(text: str) -> str:
    return _PORT.sub(lambda match: match[0] if match[0] == "$$" else _SERVER_PORT, text)
