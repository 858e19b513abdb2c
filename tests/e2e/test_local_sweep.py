"""What must end ends on the local mesh by itself: nobody but its supervisor is left to do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.testbed.client import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(own_mesh: str) -> IstioDeploymentClient:
    """A mesh with v1 stable and v2 waiting."""
    client = IstioDeploymentClient(own_mesh)
    for version in (1, 2):
        name = f"m-v{version}"
        client.create_deployment(name, f"models:/churn/{version}", endpoint="m", config={"ready_timeout": 120})
    return client


def test_a_fault_and_a_kept_version_end_though_every_process_that_knew_of_them_is_dead(
    client: IstioDeploymentClient,
) -> None:
    url = f"{client.get_endpoint('m')['url']}/ping"
    client.update_endpoint("m", {"strategy": "canary", "candidate": "m-v2"})
    client.update_endpoint("m", {"action": "promote", "keep_old": "3s"})
    code = (
        "import os, signal\n"
        "from mlflow_istio.client.plugin import IstioDeploymentClient\n"
        "IstioDeploymentClient('istio-local').fault('m', abort=503, ttl='6s')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert requests.get(url, timeout=60).status_code == 503
    wait_for("answers without a fault", lambda: requests.get(url, timeout=60).status_code == 200)

    stored = Path(os.environ["MLFLOW_ISTIO_HOME"]) / "default" / "objects" / "Deployment" / "m-v1.json"
    wait_for("the end of the replaced version", lambda: not stored.exists(), 90)
    history = client.history("m")
    assert [(one["action"], one["reason"]) for one in history if one["action"] in ("fault-end", "remove")] == [
        ("remove", "its time after the release is over"),
        ("fault-end", "its time is over"),
    ]
    assert [one["sequence"] for one in history] == list(range(1, len(history) + 1)), "each change once, in order"
    assert client.get_endpoint("m")["deadlines"] == []
    assert [one["name"] for one in client.list_deployments("m")] == ["m-v2"]
