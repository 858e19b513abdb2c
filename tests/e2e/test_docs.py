"""Every command and example that the documentation shows is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(
    path.name
    for path in (ROOT / "examples").glob("[0-9][0-9]_*.py")
    if not path.stem.endswith("_pipeline")  # tests/kfp runs those
)
ELSEWHERE = {
    "make demo    # sets up": "test_make_demo_runs_the_main_job",
    "make test    # sets up": ".ci/run",
    "pip install 'mlflow-istio[local]'": "tests/e2e/test_wheel.py",
}
"""README lines that are not run by the script made of its blocks, and what runs them instead."""

pytestmark = pytest.mark.e2e


def blocks(language: str, document: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder in which the example has registered its versions."""
    yield from _workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def own_workshop(tmp_path: Path) -> Iterator[Path]:
    """The same for one test alone."""
    yield from _workshop(tmp_path)


def _workshop(folder: Path) -> Iterator[Path]:
    (folder / "examples").symlink_to(ROOT / "examples")
    run([sys.executable, "examples/01_register.py"], folder)
    yield folder
    run([str(Path(sys.executable).parent / "mlflow-istio"), "local", "down", "--purge"], folder)


def run(command: list[str], folder: Path, *, cwd: Path | None = None, timeout: float = 280) -> str:
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
        command, cwd=cwd or folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_readmes_commands_run_in_the_order_they_stand(workshop: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    shown = [line for line in lines if not any(line.startswith(start) for start in ELSEWHERE)]
    assert len(lines) - len(shown) == len(ELSEWHERE)
    commands = [
        line for line in shown if not line.startswith(("export MLFLOW_TRACKING_URI", "python examples/01_register"))
    ]
    said = run(["bash", "-ec", "\n".join(commands)], workshop)
    assert "candidate" in said
    assert re.search(r"rollback\s+churn-v1 100%.*second thoughts", said)
    assert said.count('"predictions"') == 3


def test_the_readmes_python_runs(workshop: Path) -> None:
    (source,) = blocks("python")
    said = run([sys.executable, "-c", source], workshop)
    assert "{'churn-v2': 100}" in said
    assert "rollback {'churn-v1': 100}" in said


def test_the_commands_of_operations_run_in_the_order_they_stand(own_workshop: Path) -> None:
    said = run(["bash", "-ec", "\n".join(blocks("bash", "docs/operations.md"))], own_workshop)
    (shown,) = blocks("text", "docs/operations.md")
    assert shown in said
    assert "answered by: small (not ours) 100%" in said
    assert "dry run: nothing was changed" in said
    assert re.search(r"rollback of churn: done.*churn-v1 90%, churn-v2 10%", said)
    assert '"healthy": true' in said
    assert said.count("nothing is wrong") == 2


@pytest.mark.parametrize("example", [name for name in EXAMPLES if not name.startswith("01_")])
def test_an_example_runs(workshop: Path, example: str) -> None:
    assert run([sys.executable, f"examples/{example}"], workshop)


def test_make_demo_runs_the_main_job(tmp_path: Path) -> None:
    """``make demo`` in a set-up clone; the setting up itself is what CI's fresh clone does."""
    venv = Path(sys.prefix)
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", f"{venv}/.ready", f"VENV={venv}", "demo"],
        cwd=ROOT,
        # A registry of the user's that this demo has nothing to do with: it would fail on trying to reach it.
        env={**environment, "MLFLOW_ISTIO_HOME": str(tmp_path), "MLFLOW_REGISTRY_URI": "sqlite:////nowhere/at.all"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert re.search(r"wine-quality/2 +10% +[0-9.]+%", done.stdout)
    assert re.search(r"6 .* rollback +wine-v1 100%", done.stdout)
    assert "taking the mesh down" in done.stdout
