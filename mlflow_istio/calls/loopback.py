"""Calls to this machine go to this machine: no proxy of the environment is told of them, nor asked to make them."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit


def proxies_for(url: str) -> dict[str, str]:
    """What ``requests`` is to be given as ``proxies``: none for a loopback address, the environment's for others.

    ``HTTP_PROXY`` without ``NO_PROXY`` would else send requests for 127.0.0.1 to a proxy, to which that is another machine.
    """
    host = urlsplit(url).hostname or ""
    return {"no_proxy": host} if _is_loopback(host) else {}


def is_listening(port: int, timeout: float = 2.0) -> bool:
    """Whether anybody takes connections at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=timeout).close()
    except OSError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
