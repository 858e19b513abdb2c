"""Pods that can't run are told of by the kubelet's and the scheduler's first word, long before the time for them is up."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator

import pytest

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.control_plane.namespaces import fresh_namespace, give_least_rights
from tests.node.client import apply, kubectl, pod, read
from tests.node.endpoint import SLEEP, Endpoint
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

# Longer than the test waits: whoever only hears of it at the end hears too late.
PATIENT = ("-C", "ready_timeout=3000")


@pytest.fixture(scope="module")
def endpoint(server: str) -> Iterator[Endpoint]:
    with fresh_namespace("cannot") as name:
        give_least_rights(name)
        yield Endpoint(name, server)


def created(version: int, *options: str) -> tuple[str, ...]:
    name, model = f"churn-v{version}", f"models:/churn/{version}"
    return ("mlflow", "deployments", "create", "--endpoint", "churn", "--name", name, "-m", model, *PATIENT, *options)


def test_a_server_that_needs_more_memory_than_it_may_have_is_told_so(endpoint: Endpoint) -> None:
    said = endpoint.run(*created(1, "-C", 'resources={"limits": {"memory": "64Mi"}}'), expect=1)
    assert "OOMKilled" in said
    assert "container 'model-server' needs more memory than its limit of 64Mi" in said
    assert "no traffic has changed" in said


def test_a_node_that_is_full_is_told_of_at_once_and_waited_for(endpoint: Endpoint) -> None:
    """A node may get free, or be added: the command goes on waiting, and finishes when it has."""
    cores = float(read("node", "node", "default")["status"]["allocatable"]["cpu"])
    most = f"{int(cores * 600)}m"
    filler = pod(endpoint.namespace, "filler", DEFAULT_IMAGE, SLEEP)
    filler["spec"]["containers"][0]["resources"] = {"requests": {"cpu": most}}
    apply(filler)
    kubectl("wait", "--for=condition=Ready", "pod/filler", "-n", endpoint.namespace, "--timeout=100s")
    resources = json.dumps({"requests": {"cpu": most}})
    lines: list[str] = []
    with subprocess.Popen(
        endpoint.command(*created(1, "-C", f"resources={resources}")),
        env=endpoint.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        reader = threading.Thread(target=lambda: lines.extend(command.stdout or ()))
        reader.start()
        try:
            (said,) = wait_for("a word on it", lambda: [line for line in lines if "waits for a node" in line])
            assert "deployment 'churn-v1'" in said
            assert "Insufficient cpu" in said
            assert command.poll() is None
            kubectl("delete", "pod", "filler", "-n", endpoint.namespace, "--wait=false")
            assert command.wait(timeout=200) == 0, lines
        finally:
            command.kill()
            reader.join()
