"""What must end ends on the local mesh by itself: nobody but its supervisor is left to do it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mlflow_istio.plugin import IstioDeploymentClient
from tests.models import register
from tests.testbed.client import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(tmp_path: Path, _fresh_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IstioDeploymentClient]:
    """A mesh with v1 stable and v2 waiting."""
    import mlflow

    database = tmp_path / "mlflow.db"
    shutil.copy(_fresh_database, database)
    uri = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_ISTIO_HOME", str(tmp_path / "meshes"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    client = IstioDeploymentClient("istio-local")
    try:
        for version in (1, 2):
            register(uri, "m", float(version), tmp_path / "artifacts")
            client.create_deployment(
                f"m-v{version}", f"models:/m/{version}", endpoint="m", config={"ready_timeout": 120}
            )
        yield client
    finally:
        command = [sys.executable, "-m", "mlflow_istio.cli", "local", "down", "--purge"]
        subprocess.run(command, check=True, timeout=120)
        mlflow.set_tracking_uri(before)


def test_a_fault_and_a_kept_version_end_though_every_process_that_knew_of_them_is_dead(
    client: IstioDeploymentClient,
) -> None:
    url = f"{client.get_endpoint('m')['url']}/ping"
    client.update_endpoint("m", {"strategy": "canary", "candidate": "m-v2"})
    client.update_endpoint("m", {"action": "promote", "keep_old": "3s"})
    code = (
        "import os, signal\n"
        "from mlflow_istio.plugin import IstioDeploymentClient\n"
        "IstioDeploymentClient('istio-local').fault('m', abort=503, ttl='6s')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert requests.get(url, timeout=10).status_code == 503
    wait_for("answers without a fault", lambda: requests.get(url, timeout=10).status_code == 200, 90)

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
