"""Brings the node up inside its namespaces, in which `tests.testbed.bed` then runs COMMAND.

As with the testbed, nothing is taken down here: the kernel ends and unmounts all with PID 1. Only the cgroups are left to the
watcher outside: see `cgroups.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.node import cluster, debian, machine, store
from tests.node.kubernetes import API_AUTHORIZATION, API_FLAGS, CONTROLLERS, Node, Users
from tests.node.programs import NODE
from tests.testbed import bed, builder, control, control_plane, gateway
from tests.testbed.client import HOST_VARIABLE, SOCKET_VARIABLE
from tests.testbed.kubelet import image
from tests.testbed.network import BRIDGE_ADDRESS, Network
from tests.testbed.processes import Processes, tail

_HOME = Path("/run/mlflow-istio-node")
CONTAINERD = _HOME / "containerd.sock"
_SOCKET = _HOME / "control.sock"
# A ceiling, not a reservation: images lie elsewhere, but what pods write and download lies here.
_ROOM = "12g"


def bring_up(cgroup: str, *, logs: Path | None) -> Mapping[str, str]:
    """Starts everything, waits until it is ready, and returns the variables that lead COMMAND to it."""
    control_programs, programs = builder.cache_folder(), builder.cache_folder(NODE)
    caches = (control_programs, programs, store.folder(), debian.tools_folder())
    bed.make_own(_HOME, [*image.paths(), *map(str, caches), *([str(logs)] if logs else [])], room=_ROOM)
    logs = logs or _HOME / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    machine.lay_tools(_HOME)
    Network()
    machine.set_kernel(_HOME)
    machine.route_all_to_bridge()
    processes = Processes(_HOME, logs)
    users = Users()
    files = control_plane.prepare(control_programs, _HOME, fast=False, users=users.lines())
    node = Node(home=_HOME, programs=programs, files=files, users=users, cgroup=cgroup)
    processes.add(control_plane.etcd(files))
    processes.add(control_plane.api_server(files, authorization=API_AUTHORIZATION, flags=API_FLAGS))
    store.lay(node.containerd_root)
    processes.add(node.containerd())
    processes.wait_ready("kube-apiserver")
    control_plane.write_kubeconfigs(files)
    node.write_kubeconfigs()
    processes.add(control_plane.controller_manager(files, controllers=CONTROLLERS))
    processes.wait_ready("containerd")
    for program in (node.kubelet(), node.scheduler(), node.proxy()):
        processes.add(program)
    kubectl = cluster.Kubectl(programs, files.admin_kubeconfig)
    cluster.install_dns(kubectl)
    for name in ("kubelet", "kube-scheduler", "kube-proxy", "kube-controller-manager"):
        processes.wait_ready(name)
    cluster.wait_ready(kubectl)
    cluster.install_istio(kubectl, programs)
    # What `tests.testbed.client.Testbed` asks for, but for hosts: pods are the kubelet's here.
    verbs = {
        "programs": processes.status,
        "signal": lambda program, number: processes.signal(program, number),
        "start": lambda program: processes.start(program),
        "heal": lambda: processes.heal(control_plane.CLIENTS),
        "log": lambda program, lines: tail(processes.log(program), lines),
    }
    control.serve(_SOCKET, verbs)
    return {
        "KUBECONFIG": str(files.admin_kubeconfig),
        "KUBECONFIG_LEAST": str(files.least_kubeconfig),
        "GATEWAY_URL": f"http://{cluster.GATEWAY_ADDRESS}",
        "MLFLOW_ISTIO_GATEWAY": gateway.NAME,
        HOST_VARIABLE: BRIDGE_ADDRESS,
        SOCKET_VARIABLE: str(_SOCKET),
        "NODE_LOGS": str(logs),
        # kubectl and istioctl
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
