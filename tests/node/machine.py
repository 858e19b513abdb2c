"""What a node needs of the machine, and how its namespaces are made to look like a node's own machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.node import cgroups, debian
from tests.node.errors import run
from tests.testbed.errors import TestbedError
from tests.testbed.network import BRIDGE_ADDRESS

# The kubelet writes these, and they are the whole machine's. It leaves alone what has the value already.
_MACHINE_WIDE = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# These belong to the network namespace.
_NETWORK_WIDE = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
}
_BRIDGE = "br0"
_SYS = Path("/proc/sys")
# Makes what a node uses of the kernel, in namespaces that end with it.
_TRIAL = f"""
set -e
ip link add {_BRIDGE} type bridge
ip link add cable0 type veth peer name cable1
test -e /proc/sys/net/bridge/bridge-nf-call-iptables
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/lower
mount -t overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work overlay /run/lower
"""


def complaint() -> str | None:
    """Why this machine can't have a node, in one line; None when it can, as far as can be seen."""
    if os.geteuid() != 0:
        return "the node needs root: it makes cgroups, mounts and containers"
    missing = [tool for tool in ("unshare", "setpriv", "ip", "mount") if shutil.which(tool) is None]
    if missing:
        return f"the node needs {' and '.join(missing)}: install util-linux and iproute2"
    try:
        cgroups.hierarchies()
    except TestbedError as error:
        return str(error)
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _TRIAL],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        said = " ".join((tried.stderr.strip() or "no bridge-nf-call-iptables").split())
        return f"the node needs namespaces, overlayfs on tmpfs, veth, bridge and br_netfilter of the kernel: {said}"
    return None


def lay_tools(home: Path) -> None:
    """Lays Debian's tools over `/usr` and `/etc`, and gives the node a `/var/lib` and `/var/log` of its own."""
    for part in ("usr", "etc"):
        run(["mount", "-t", "overlay", "-o", f"lowerdir={debian.tools_folder()}/{part}:/{part}", "tools", f"/{part}"])
    upper, work = home / "var-lib", home / "var-lib-work"
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir=/var/lib,upperdir={upper},workdir={work}"
    run(["mount", "-t", "overlay", "-o", options, "var-lib", "/var/lib"])
    run(["mount", "-t", "tmpfs", "-o", "mode=755", "var-log", "/var/log"])


def set_kernel(home: Path) -> None:
    """Sets what the node wants of its network's kernel, and shows it what it wants of the machine's without setting that."""
    for name, value in _NETWORK_WIDE.items():
        (_SYS / name).write_text(value, encoding="ascii")
    shown = home / "sysctl"
    for name, value in _MACHINE_WIDE.items():
        file = shown / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n", encoding="ascii")
        run(["mount", "--bind", str(file), str(_SYS / name)])


def route_all_to_bridge() -> None:
    """Gives the node a default route: without one it can't even begin to send to a Service's own address."""
    run(["ip", "route", "add", "default", "dev", _BRIDGE, "src", BRIDGE_ADDRESS])
