"""An endpoint on a node as its users see it: released by the shipped commands, asked at the gateway and from pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.control_plane.namespaces import fresh_namespace, give_least_rights, kubeconfig
from tests.node.client import apply, environment, kubectl, shell

BODY = json.dumps({"dataframe_records": [{"tenure": 3.0, "calls": 12.0, "spend": 30.5}]})
JSON = {"content-type": "application/json"}
# Asks from inside the mesh and prints which deployment answered how often; a failure counts by its name.
ASK = f"""
import collections, sys, urllib.request
seen = collections.Counter()
for _ in range(int(sys.argv[2])):
    request = urllib.request.Request(sys.argv[1], data={BODY.encode()!r}, headers={JSON!r})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            seen[answer.headers.get("x-mlflow-deployment", "?")] += 1
    except urllib.error.HTTPError as error:
        seen[str(error.code)] += 1
    except OSError as error:
        seen[type(getattr(error, "reason", error)).__name__] += 1
import json
print(json.dumps(seen))
"""
SLEEP = ["python", "-c", "import time; time.sleep(3600)"]


class Endpoint:
    """The endpoint `churn` of a namespace, released by the user with the least rights through the shipped commands."""

    def __init__(self, namespace: str, server: str) -> None:
        self.namespace, self._server = namespace, server
        self.host = f"churn.{namespace}.svc.cluster.local"

    def command(self, program: str, *arguments: str) -> list[str]:
        """One of our commands or MLflow's, on this namespace."""
        return [str(Path(sys.executable).parent / program), *arguments, "-t", f"istio:/{self.namespace}"]

    def environment(self) -> dict[str, str]:
        """What such a command runs in."""
        return environment(
            KUBECONFIG=kubeconfig("least"),
            MLFLOW_TRACKING_URI=self._server,
            MLFLOW_ISTIO_GATEWAY=os.environ["MLFLOW_ISTIO_GATEWAY"],
        )

    def run(self, *command: str, expect: int = 0) -> str:
        """Runs such a command, which has to end with that code; returns what it printed."""
        done = subprocess.run(
            self.command(*command),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def deploy(self, version: int, *options: str) -> None:
        """Creates `churn-vVERSION`; what else is given are options, each with its `-C`."""
        name, model = f"churn-v{version}", f"models:/churn/{version}"
        self.run("mlflow", "deployments", "create", "--endpoint", "churn", "--name", name, "-m", model, *options)

    def move(self, option: str) -> None:
        """Updates the endpoint by one option."""
        self.run("mlflow", "deployments", "update-endpoint", "--endpoint", "churn", "-C", option)

    def ask(self, times: int) -> Counter[str]:
        """Which deployment answered how often, asked through the gateway; failures by their status."""
        seen: Counter[str] = Counter()
        with requests.Session() as session:
            session.trust_env = False
            for _ in range(times):
                reply = session.post(
                    f"{os.environ['GATEWAY_URL']}/invocations",
                    data=BODY,
                    headers={"Host": self.host, **JSON},
                    timeout=60,
                )
                seen[reply.headers["x-mlflow-deployment"] if reply.ok else str(reply.status_code)] += 1
        return seen

    def ask_from(self, caller: str, times: int) -> Counter[str]:
        """The same, asked from a pod of the namespace."""
        url = f"http://{self.host}/invocations"
        return Counter(json.loads(shell(self.namespace, caller, "python", "-c", ASK, url, str(times))))

    def pods(self) -> dict[str, Any]:
        """The models' pods by name."""
        found = json.loads(kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        return {one["metadata"]["name"]: one for one in found if one["metadata"]["name"].startswith("churn-")}


@contextmanager
def strict_namespace(prefix: str) -> Iterator[str]:
    """A namespace in which every pod gets a sidecar, only mTLS is let in, and the user with the least rights has theirs."""
    with fresh_namespace(prefix) as name:
        kubectl("label", "namespace", name, "istio-injection=enabled")
        strict = {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "spec": {"mtls": {"mode": "STRICT"}},
        }
        apply({**strict, "metadata": {"name": "default", "namespace": name}})
        give_least_rights(name)
        yield name


@contextmanager
def bound(namespace: str, account: str) -> Iterator[None]:
    """Gives a service account of the namespace the roles of deploy/rbac.yaml, there and in the gateway's namespace."""
    name = f"{account}-of-{namespace}"
    for role, where in (("mlflow-istio", namespace), ("mlflow-istio-gateway", "istio-system")):
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": where},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        apply(binding)
    yield
    kubectl("delete", "rolebinding", name, "-n", "istio-system")
