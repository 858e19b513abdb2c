"""Every command and example that the documentation shows is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import ROOT, blocks, run, user_folder

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


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder in which the example has registered its versions."""
    with user_folder(tmp_path_factory.mktemp("workshop")) as folder:
        yield folder


@pytest.fixture
def own_workshop(tmp_path: Path) -> Iterator[Path]:
    """The same for one test alone."""
    with user_folder(tmp_path) as folder:
        yield folder


def test_the_readmes_commands_run_in_the_order_they_stand(workshop: Path) -> None:
    lines = [line for block in blocks("bash", "README.md") for line in block.splitlines()]
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
    (source,) = blocks("python", "README.md")
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
    # A path with a space, where this clone may lie, can't be a target of make.
    venv = tmp_path / "venv"
    venv.symlink_to(sys.prefix)
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", f"{venv}/.ready", f"VENV={venv}", "demo"],
        cwd=ROOT,
        # A registry of the user's that this demo has nothing to do with: it would fail on trying to reach it.
        env={
            **environment,
            "MLFLOW_ISTIO_HOME": str(tmp_path / "home"),
            "MLFLOW_REGISTRY_URI": "sqlite:////nowhere/at.all",
        },
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert re.search(r"wine-quality/2 +10% +[0-9.]+%", done.stdout)
    assert re.search(r"6 .* rollback +wine-v1 100%", done.stdout)
    assert "taking the mesh down" in done.stdout
