"""Brings the testbed up inside its namespaces, runs COMMAND, and returns COMMAND's exit code.

Nothing is taken down here: when this process ends, PID 1 does, and the kernel ends and unmounts the rest.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import control, control_plane, gateway
from tests.testbed.client import HOST_VARIABLE, SOCKET_VARIABLE
from tests.testbed.errors import TestbedError
from tests.testbed.kubelet import image
from tests.testbed.kubelet.enter import Kept
from tests.testbed.network import BRIDGE_ADDRESS, Host, Network
from tests.testbed.processes import Processes, tail

if TYPE_CHECKING:
    from tests.testbed.kubelet.runner import Runner

_RUN = Path("/run")
_HOME = _RUN / "mlflow-istio-testbed"
_SOCKET = _HOME / "control.sock"
# A ceiling, not a reservation: etcd's data, logs and volumes lie there.
_ROOM = "4g"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
_SIGNALLED = 128
_CANNOT_RUN = 127
_FAILED = 1
_GRACE_SECONDS = 10.0


def run(command: Sequence[str], programs: Path, *, fast: bool, logs: Path | None) -> int:
    """Brings everything up and runs the command in it.

    Args:
        programs: the folder that `builder.build` returned.
        fast: shorten the waits that a real cluster has for the sake of its size.
        logs: where to write the programs' logs; by default they vanish with the testbed.

    Returns:
        The command's exit code; 128 + its signal's number when a signal ended it.
    """
    return run_in("testbed", lambda: _bring_up(programs, fast=fast, logs=logs), command)


def run_in(label: str, bring_up: Callable[[], Mapping[str, str]], command: Sequence[str]) -> int:
    """Brings a world up and runs the command in it with the variables that lead there.

    Args:
        label: begins each line that is said.
        bring_up: returns the variables; may raise `TestbedError`.

    Returns:
        The command's exit code; 128 + its signal's number when a signal ended it.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(_SIGNALLED + number))
    signal.signal(signal.SIGHUP, lambda number, _frame: sys.exit(_SIGNALLED + number))
    began = time.monotonic()
    try:
        variables = bring_up()
    except TestbedError as error:
        print(f"{label}: {error}", file=sys.stderr)
        return _FAILED
    print(f"{label}: up in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return _run_command(label, command, variables)


def make_own(home: Path, seen: Sequence[str], *, room: str = _ROOM) -> None:
    """Puts an empty file system in memory on `/run`, makes the folder `home` in it, and forgets the machine's proxies.

    Args:
        seen: absolute paths that stay as they are, also where they lie under `/run`.
        room: the file system's size, as mount takes it.
    """
    for name in list(os.environ):
        # Nothing here is behind a proxy, and no proxy could reach it.
        if name.lower() in _PROXIES:
            del os.environ[name]
    kept = Kept(seen)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755,size={room}", "testbed", str(_RUN)], check=True)
    kept.show_again(under=os.path.realpath(_RUN), read_only=False)
    home.mkdir()


def _bring_up(programs: Path, *, fast: bool, logs: Path | None) -> Mapping[str, str]:
    """Starts everything, waits until it is ready, and returns the variables that lead COMMAND to it."""
    make_own(_HOME, [*image.paths(), str(programs)])
    logs = logs or _HOME / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    network = Network()
    processes = Processes(_HOME, logs)
    files = control_plane.prepare(programs, _HOME, fast=fast)
    processes.add(control_plane.etcd(files))
    processes.add(control_plane.api_server(files))
    # Slow to import, so while the API server starts.
    from kubernetes import config

    from tests.testbed import objects
    from tests.testbed.kubelet import logs as container_logs
    from tests.testbed.kubelet.runner import Runner

    processes.wait_ready("kube-apiserver")
    control_plane.write_kubeconfigs(files)
    api = config.new_client_from_config(str(files.admin_kubeconfig))
    processes.add(control_plane.controller_manager(files))
    objects.install_definitions(api, control_plane.crds(files))
    processes.add(control_plane.istiod(files))
    gateway_host = network.add(address=gateway.ADDRESS)
    processes.add(gateway.gateway(gateway_host, _HOME, fast=fast))
    runner = Runner(files.admin_kubeconfig, network, _HOME / "pods", api_port=control_plane.API_PORT, fast=fast)
    runner.start()
    container_logs.serve(lambda pod, name: runner.pod(pod).log(name), files.authority, files.authority_key)
    processes.wait_ready("istiod")
    objects.install_istio(api)
    processes.wait_ready("kube-controller-manager")
    processes.wait_ready("gateway")
    control.serve(_SOCKET, _verbs(network, processes, runner, gateway_host))
    return {
        "KUBECONFIG": str(files.admin_kubeconfig),
        "KUBECONFIG_LEAST": str(files.least_kubeconfig),
        "GATEWAY_URL": f"http://{gateway.ADDRESS}",
        "GATEWAY_ADMIN_URL": f"http://{gateway.ADDRESS}:{gateway.ADMIN_PORT}",
        "MLFLOW_ISTIO_GATEWAY": gateway.NAME,
        HOST_VARIABLE: BRIDGE_ADDRESS,
        SOCKET_VARIABLE: str(_SOCKET),
    }


def _verbs(
    network: Network, processes: Processes, runner: Runner, gateway_host: Host
) -> Mapping[str, Callable[..., object]]:
    """What COMMAND may ask for through the control socket; `client.Testbed` says what each does."""

    def find(host: str) -> Host:
        return gateway_host if host == "gateway" else runner.host(host)

    def heal() -> None:
        network.heal()
        processes.heal(control_plane.CLIENTS)

    return {
        "programs": processes.status,
        "signal": lambda program, number: processes.signal(program, number),
        "start": lambda program: processes.start(program),
        "cut_off": lambda host: network.cut_off(find(host)),
        "reconnect": lambda host: network.reconnect(find(host)),
        "heal": heal,
        "log": lambda program, lines: tail(processes.log(program), lines),
        "pod_log": lambda pod, container, lines: tail(runner.pod(pod).log(container), lines),
    }


def _run_command(label: str, command: Sequence[str], variables: Mapping[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env={**os.environ, **variables})
    except OSError as error:
        print(f"{label}: cannot run {command[0]!r}: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN
    # The terminal sends it to COMMAND too; COMMAND decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    except SystemExit:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return code if code >= 0 else _SIGNALLED - code
