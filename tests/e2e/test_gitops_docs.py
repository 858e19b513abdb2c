"""The commands of docs/gitops.md and docs/many-models.md run as they stand, in order, on the local mesh."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mlflow_istio.adapters.local.mesh import LocalMesh
from tests.contract.model_server import deployment, service
from tests.support.pages import ROOT, blocks, register_example, run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two registered versions, and a mesh that holds what the page says is yours."""
    folder = tmp_path_factory.mktemp("gitops")
    (folder / "examples").symlink_to(ROOT / "examples")
    register_example(folder)
    (shop,) = blocks("yaml", "docs/gitops.md")
    run([str(Path(sys.executable).parent / "mlflow-istio"), "local", "up"], folder)
    mesh = LocalMesh(folder / "home")
    mesh.apply(service("web"))
    mesh.apply(deployment("web", "web-1"))
    mesh.wait_ready("web-1", 60)
    mesh.apply(yaml.safe_load(shop))
    yield folder
    run([str(Path(sys.executable).parent / "mlflow-istio"), "local", "down", "--purge"], folder)


def test_the_commands_about_git_run_and_leave_the_users_object_as_it_was(workshop: Path) -> None:
    adopting, planning, exporting = blocks("bash", "docs/gitops.md")
    (shop,) = blocks("yaml", "docs/gitops.md")
    said = run(["bash", "-ec", adopting], workshop)
    assert "web" in said
    found = LocalMesh(workshop / "home").get("VirtualService", "shop")
    assert found is not None
    assert found["spec"] == yaml.safe_load(shop)["spec"]
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
