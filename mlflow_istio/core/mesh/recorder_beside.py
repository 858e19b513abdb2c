"""A recorder beside a model server that can't record: the process that starts the server and stands in front of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.runtime.runtime import Runtime

_COMMAND = ("python", "-m", "mlflow_istio.serving.beside")
_PORT = re.compile(r"\$\$|\$\(MLFLOW_ISTIO_PORT\)")
_SERVER_PORT = "$(MLFLOW_ISTIO_SERVER_PORT)"
"""Nobody sets this variable, so the reference arrives as it is; the recorder knows the port."""


def has_recorder_beside(runtime: Runtime, env: Mapping[str, str], pod: PodSettings | None) -> bool:
    """Whether a recorder goes beside the server: where one is asked for, and the server is none itself.

    Args:
        runtime: The kind of server.
        env: What the user has put into its environment.
        pod: Settings of pods; None on the local mesh, which alone can do it so far.
    """
    runs = bool(runtime.command or runtime.args)
    return pod is None and runs and runtime.protocol == "http" and not runtime.records and _asks_for_records(env)


def recorded_beside(
    command: Sequence[str], env: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Command, arguments and environment of a server with a recorder in front of it.

    Args:
        command: The server's command and arguments, with references as Kubernetes writes them.
        env: The variables that its runtime needs, likewise.
    """
    inner = tuple(map(_behind, command))
    moved = {name: _behind(value) for name, value in env.items()}
    names = [f"--env={name}" for name in moved if moved[name] != env[name]]
    return (*_COMMAND, *names, "--", *inner), (), moved


def _asks_for_records(env: Mapping[str, str]) -> bool:
    try:
        return float(env.get("MLFLOW_ISTIO_RECORD") or 0) > 0
    except ValueError:
        return True  # the recorder says what is wrong with it


def _behind(text: str) -> str:
    return _PORT.sub(lambda found: found[0] if found[0] == "$$" else _SERVER_PORT, text)
