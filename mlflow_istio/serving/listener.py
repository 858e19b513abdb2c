"""The socket that a model server listens on."""

from __future__ import annotations

import socket

from mlflow_istio.errors import NotReady
from mlflow_istio.serving.configuration import PREFIX

_BACKLOG = 2048  # uvicorn's own


def bind(host: str, port: int) -> socket.socket:
    """Take an address, without listening on it yet.

    Done before the model is loaded: a taken port shows at once, and nobody is answered too early.

    Args:
        host: IP address.
        port: Port.

    Raises:
        NotReady: The address is taken, or is not this machine's.
    """
    # Without the explicit protocol asyncio does not set TCP_NODELAY on the connections: 40 ms more per answer.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Let connections come.

    Raises:
        NotReady: Another process that was loading at the same time took the address first.
    """
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> NotReady:
    return NotReady(f"can't listen on {host} port {port}: {error.strerror}; set {PREFIX}HOST and {PREFIX}PORT")
