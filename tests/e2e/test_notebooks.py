"""The example notebooks run in a real kernel against a real local mesh, and show what they promise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.test_docs import workshop
from tests.support.pages import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

__all__ = ["workshop"]


@pytest.fixture
def user(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with the environment of a kernel that is started there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workshop / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_ISTIO_HOME", str(workshop / "home"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_ISTIO_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return workshop


def executed(name: str, folder: Path) -> list[Any]:
    """The code cells after a run."""
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs: they change every time"
    NotebookClient(notebook, timeout=560, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any, kind: str) -> str:
    """All of a cell's output of one MIME type."""
    return "\n".join(str(output.data.get(kind, "")) for output in cell.outputs if "data" in output)


def cell_with(cells: list[Any], start: str) -> Any:
    return next(cell for cell in cells if cell.source.startswith(start))


def test_a_release_is_made_watched_drawn_and_told_in_a_notebook(user: Path) -> None:
    cells = executed("06_release.ipynb", user)
    released = next(cell for cell in cells if "client.release" in cell.source)
    html = shown(released, "text/html")
    assert "✓ promoted" in html
    assert "churn-v2" in html
    assert "promoted" in shown(released, "text/plain")
    history = [cell for cell in cells if cell.source.startswith('client.history("churn")')]
    assert "promote" in shown(history[0], "text/html")
    assert "churn-v2 (100%)" in shown(history[1], "image/svg+xml")
    report = shown(cell_with(cells, "client.report"), "text/html")
    assert "churn-v2 was promoted and answers users instead of churn-v1." in report
    assert "id=&quot;chart-evidence&quot;" in report


def test_a_shadow_is_compared_in_a_notebook(user: Path) -> None:
    cells = executed("07_shadow.ipynb", user)
    assert "reason" in shown(cell_with(cells, "time.sleep(2)"), "text/plain")
    report = shown(cell_with(cells, "client.report"), "text/html")
    assert "Shadow comparison" in report
    assert "agreement" in report
    assert "It only ever got copies of requests." in report


def test_an_error_of_ours_is_one_line_and_names_complete(user: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(user))
    try:
        client.execute_interactive(
            'from mlflow.deployments import get_deploy_client; client = get_deploy_client("istio-local")', timeout=300
        )
        seen: list[dict[str, Any]] = []
        client.execute_interactive('client.get_endpoint("nothing")', timeout=300, output_hook=seen.append)
        (error,) = [message["content"] for message in seen if message["msg_type"] == "error"]
        assert len(error["traceback"]) == 1
        assert "there is no endpoint 'nothing'" in error["traceback"][0]
        assert "\n" not in error["traceback"][0]
        completed = client.complete("client.ro", reply=True, timeout=300)["content"]["matches"]
        assert any(match.endswith("rollback") for match in completed)
        told = client.inspect("client.release", reply=True, timeout=300)["content"]["data"]["text/plain"]
        assert "Release a version step by step" in told
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
