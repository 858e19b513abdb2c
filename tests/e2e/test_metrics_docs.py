"""The commands and the Python of docs/metrics.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Path]:
    """A user's folder in which the example has registered its versions."""
    run([sys.executable, str(ROOT / "examples" / "01_register.py")], tmp_path)
    yield tmp_path
    run([str(Path(sys.executable).parent / "mlflow-istio"), "local", "down", "--purge"], tmp_path)


def run(command: list[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ISTIO_HOME": str(folder / "home"),
        "COLUMNS": "150",
    }
    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_ISTIO_TARGET"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_pages_commands_and_python_run_in_the_order_they_stand(workshop: Path) -> None:
    arms, shadow = blocks("bash")
    (python,) = blocks("python")
    said = run(["bash", "-ec", f"{arms}\ncat > client.py <<'END'\n{python}END\npython client.py\n{shadow}"], workshop)
    assert "base line" in said
    assert "declare of churn: done" in said
    assert "winner churn-v1" in said
    assert re.search(r"^(advance|hold|rollback) ", said, re.M)
    assert re.search(r"pairs \d+ .*unmatched", said)
