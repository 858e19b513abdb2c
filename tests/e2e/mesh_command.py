"""Commands on a mesh for tests that need several processes.

``python -m tests.e2e.mesh_command VERB HOME MESH STEP [ARGUMENT ...]``: when STEP is not 0, the process kills itself
with SIGKILL before its STEP-th step towards the outside: a file staged, put in place or removed, a process started, a
call to the supervisor.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object, annotations_of, with_annotations
from mlflow_istio.errors import ClusterError
from tests.contract.model_server import deployment, virtual_service, with_spec

_STEPS = frozenset({"os.link", "os.rename", "os.remove", "os.kill", "subprocess.Popen"})


def die_before(step: int) -> None:
    """Kill this process before a step."""
    taken = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal taken
        to_supervisor = event == "socket.connect" and str(arguments[1]).endswith("supervisor.sock")
        staged = event == "open" and "/staging/" in str(arguments[0])
        # A copy counts only where the file that was put in place before it is damaged: no step of its own.
        is_step = event in _STEPS and "/kept/" not in str(arguments)
        taken += is_step or to_supervisor or staged
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def count(mesh: LocalMesh, endpoint: str) -> None:
    """Add 50 to a counter on an object, one by one."""

    def add(obj: Object | None) -> Object:
        assert obj is not None
        return with_annotations(obj, {"count": str(int(annotations_of(obj).get("count", "0")) + 1)})

    for _ in range(50):
        mesh.edit("VirtualService", endpoint, add)


def up(mesh: LocalMesh) -> None:
    """Bring the mesh up."""
    mesh.up()


def traffic(mesh: LocalMesh, endpoint: str, change_id: str) -> None:
    """Change an endpoint's traffic."""
    mesh.edit("VirtualService", endpoint, with_spec(virtual_service(endpoint, change_id, {f"{endpoint}-a": 100})))


def cramped(mesh: LocalMesh, endpoint: str, change_id: str) -> None:
    """Change an endpoint's traffic in a process that can write no file longer than 100 bytes; print the error."""
    mesh.status()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        traffic(mesh, endpoint, change_id)
    except ClusterError as exc:
        print(exc)


def roll(mesh: LocalMesh, endpoint: str, version: str, replicas: str) -> None:
    """Give a deployment another version and another number of replicas."""
    mesh.apply(deployment(endpoint, f"{endpoint}-a", version=version, replicas=int(replicas)))
    mesh.wait_ready(f"{endpoint}-a", 120)


def remove(mesh: LocalMesh, deployment_name: str) -> None:
    """Delete a deployment."""
    mesh.delete("Deployment", deployment_name)


if __name__ == "__main__":
    verb, home, name, step, *rest = sys.argv[1:]
    its_mesh = LocalMesh(Path(home), name, pause=0.05)
    verbs = {"count": count, "up": up, "traffic": traffic, "roll": roll, "cramped": cramped, "remove": remove}
    if int(step):
        die_before(int(step))
    verbs[verb](its_mesh, *rest)
