"""The commands of docs/gitops.md and docs/many-models.md run as they stand, in order, on the local mesh."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from mlflow_istio.adapters.local.mesh import LocalMesh
from tests.support.free_ports import free_port
from tests.support.pages import ROOT, blocks, run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the examples and what the page says is yours, with the page's process in another terminal."""
    folder = tmp_path_factory.mktemp("gitops")
    (folder / "examples").symlink_to(ROOT / "examples")
    port = str(free_port())  # the page's own may be taken here
    (shop,) = blocks("yaml", "docs/gitops.md")
    (service,) = blocks("shell", "docs/gitops.md")
    (folder / "shop.yaml").write_text(shop.replace("8000", port), encoding="utf-8")
    words = service.replace("8000", port).split()
    assert words[0] == "python"
    terminal = subprocess.Popen([sys.executable, *words[1:]], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield folder
    finally:
        os.killpg(terminal.pid, signal.SIGTERM)
        terminal.wait()
        run([str(Path(sys.executable).parent / "mlflow-istio"), "local", "down", "--purge"], folder)


def test_the_commands_about_git_run_and_leave_the_users_object_as_it_was(workshop: Path) -> None:
    adopting, planning, exporting = blocks("bash", "docs/gitops.md")
    _, shop = yaml.safe_load_all((workshop / "shop.yaml").read_text(encoding="utf-8"))
    said = run(["bash", "-ec", adopting], workshop)
    assert re.search(r"traffic: web 90%, churn-v1 10%|web +\(not ours\) +90%", said)
    mesh = LocalMesh(workshop / "home")
    stored = mesh.get("VirtualService", "shop")
    assert stored is not None
    assert stored["spec"] == shop["spec"]
    answer = requests.get(f"{mesh.address('shop').url}/api/score", timeout=30)
    assert "SimpleHTTP" in answer.headers["server"], "the process of the other terminal has its route back"
    said = run(["bash", "-ec", planning], workshop)
    assert "churn-v1 50%, churn-v2 50%" in said
    run(["bash", "-ec", exporting], workshop)
    kinds = [obj["kind"] for obj in yaml.safe_load_all((workshop / "churn.yaml").read_text(encoding="utf-8"))]
    assert kinds == ["Service", "Deployment", "Deployment", "DestinationRule", "VirtualService"]
    pods = list(yaml.safe_load_all((workshop / "pods.yaml").read_text(encoding="utf-8")))
    assert [obj["kind"] for obj in pods] == kinds[:-1]
    assert "subsets" not in pods[-1]["spec"]
    application = yaml.safe_load((workshop / "application.yaml").read_text(encoding="utf-8"))
    assert "/spec/http" in json.dumps(application["spec"]["ignoreDifferences"])


def test_the_commands_about_many_models_run(workshop: Path) -> None:
    (commands,) = blocks("bash", "docs/many-models.md")
    run(["mlflow-istio", "delete-endpoint", "churn", "--force", "-t", "istio-local"], workshop)  # its release is open
    said = run(["bash", "-ec", commands], workshop)
    assert "chat-v2" in said
    mesh = LocalMesh(workshop / "home")
    assert mesh.get("VirtualService", "models") is None
