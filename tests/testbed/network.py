"""The testbed's own network: one bridge, and one network namespace with one address for each host on it.

Addresses are never used twice in one run, so nobody meets a stale neighbour entry.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.errors import TestbedError

NETWORK = ipaddress.ip_network("10.244.0.0/16")
BRIDGE_ADDRESS = str(NETWORK[1])
_BRIDGE = "br0"
_NAMES = Path("/run/netns")
_FIRST_POD = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """A host on the testbed's network: its address, its network namespace and the bridge's end of its cable."""

    name: str
    address: str
    cable: str

    @property
    def namespace(self) -> Path:
        """The file that stands for the host's network namespace."""
        return _NAMES / self.name


class Network:
    """The bridge and its hosts. Lives in the network namespace of the process that makes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._cut_off: set[Host] = set()
        _NAMES.mkdir(exist_ok=True)
        _ip(
            "link set lo up",
            f"link add {_BRIDGE} type bridge",
            f"addr add {BRIDGE_ADDRESS}/{NETWORK.prefixlen} dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )

    def add(self, *, address: str | None = None) -> Host:
        """Plugs in a new host.

        Args:
            address: its address; by default the next free one of those meant for pods, from 10.244.1.0 on.
        """
        with self._lock:
            number = self._taken
            self._taken += 1
        host = Host(name=f"host{number}", address=address or str(NETWORK[_FIRST_POD + number]), cable=f"cable{number}")
        _ip(
            f"netns add {host.name}",
            f"link add {host.cable} type veth peer name eth0 netns {host.name}",
            f"link set {host.cable} master {_BRIDGE} up",
        )
        _ip(
            "link set lo up",
            f"addr add {host.address}/{NETWORK.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {BRIDGE_ADDRESS}",
            inside=host,
        )
        return host

    def remove(self, host: Host) -> None:
        """Unplugs a host for good. Its processes must have ended."""
        self._cut_off.discard(host)
        _ip(f"link del {host.cable}", f"netns del {host.name}")

    def cut_off(self, host: Host) -> None:
        """Takes the host's cable down: nothing reaches it, and it is told nothing."""
        self._cut_off.add(host)
        _ip(f"link set {host.cable} down")

    def reconnect(self, host: Host) -> None:
        """Undoes `cut_off`."""
        self._cut_off.discard(host)
        _ip(f"link set {host.cable} up")

    def heal(self) -> None:
        """Reconnects every host that is cut off."""
        for host in list(self._cut_off):
            self.reconnect(host)


def processes_in(host: Host) -> list[int]:
    """The pids of all processes in the host's network namespace."""
    wanted = _inode(host.namespace)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _inode(entry / "ns" / "net") == wanted:
            found.append(int(entry.name))
    return found


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # The process has ended meanwhile (a zombie has no namespace either).
        return None


def _ip(*commands: str, inside: Host | None = None) -> None:
    """Runs `ip` commands as one batch."""
    argv = ["ip", *_inside(inside), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise TestbedError(f"`{' '.join(argv)}` failed on {commands}: {done.stderr.strip()}")


def _inside(host: Host | None) -> Iterable[str]:
    return ("-n", host.name) if host else ()
