"""Ports of this machine: which are free, and which are promised to whom."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from mlflow_istio.errors import ClusterError

# Below what systems give to outgoing connections, so that a restarted server finds its port again.
_FIRST, _LAST = 20_000, 32_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PortBook:
    """The ports that stay the same over restarts.

    Attributes:
        statistics: Port of Envoy's statistics.
        endpoints: Port of each VirtualService that there is or was, by its name.
    """

    statistics: int
    endpoints: Mapping[str, int] = field(default_factory=dict)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        # As servers do it: connections that are only waiting to be forgotten don't count.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
            server.listen(1)
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """Whether somebody listens on the port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def port_source(promised: Collection[int]) -> Callable[[], int]:
    """A function that gives a free port at each call, never one that is promised or was given before.

    Raises:
        ClusterError: From the function, when it finds none.
    """
    given = set(promised)
    choice = random.Random()

    def new_port() -> int:
        count = _LAST - _FIRST + 1
        start = choice.randrange(count)
        for step in range(count):
            port = _FIRST + (start + step) % count
            if port not in given and is_free(port):
                given.add(port)
                return port
        raise ClusterError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1: end programs that hold them")

    return new_port
