"""What a test on a node asks the cluster, by the real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.testbed.client import wait_for
from tests.testbed.errors import TestbedError

HOW_TO_RUN = "python -m tests.node run -- python -m pytest -m node"
LOGS_VARIABLE = "NODE_LOGS"
_SECONDS = 120.0
_HARDENED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_TMP = {"name": "tmp", "mountPath": "/tmp"}


def kubectl(*arguments: str, text: str | None = None) -> str:
    """Runs kubectl as the admin and returns what it printed.

    Raises:
        TestbedError: it failed; the text has what it said.
    """
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise TestbedError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def apply(*objects: Mapping[str, Any]) -> None:
    """Applies objects as the admin."""
    kubectl(
        "apply", "--server-side", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )


def read(kind: str, name: str, namespace: str) -> dict[str, Any]:
    """One object."""
    found: dict[str, Any] = json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


def run_pod(where: str, name: str, image: str, command: list[str], env: Mapping[str, str] | None = None) -> str:
    """Runs a command in a hardened pod of the image, only `/tmp` writable, to its end; returns what it printed.

    Raises:
        TestbedError: it failed; the text has what it printed.
    """
    apply(pod(where, name, image, command, env))

    def ended() -> str:
        status = read("pod", name, where)["status"]
        return str(status["phase"]) if status.get("phase") in ("Succeeded", "Failed") else ""

    phase = wait_for(f"pod {name} to end", ended)
    said = kubectl("logs", name, "-n", where)
    if phase != "Succeeded":
        raise TestbedError(f"{command} in {image} failed:\n{said}")
    return said


def pod(
    where: str, name: str, image: str, command: list[str], env: Mapping[str, str] | None = None, **metadata: Any
) -> dict[str, Any]:
    """A hardened pod that runs once."""
    main = {
        "name": "main",
        "image": image,
        "command": command,
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "securityContext": _HARDENED,
        "volumeMounts": [_TMP],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [main],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": where, **metadata}, "spec": spec}


def shell(where: str, name: str, *command: str) -> str:
    """Runs a command in a pod that runs, and returns what it printed."""
    return kubectl("exec", name, "-n", where, "-c", "main", "--", *command)


def gateway_pods() -> list[dict[str, Any]]:
    """The ingress gateway's pods."""
    found = json.loads(kubectl("get", "pods", "-n", "istio-system", "-l", "istio=ingressgateway", "-o", "json"))
    pods: list[dict[str, Any]] = found["items"]
    return pods


def gateway_pod() -> dict[str, Any]:
    """The first of them."""
    return gateway_pods()[0]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of MLflow's and ours, with these variables."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}, **variables}
