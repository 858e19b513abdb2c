"""The wheel holds everything, and its core needs no more than it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"

pytestmark = pytest.mark.e2e


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and its core dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    files = run("git", "ls-files", cwd=ROOT).splitlines()
    for file in files:
        if file.split("/")[0] in (
            "setup.py",
            "pyproject.toml",
            "README.md",
            "mlflow_istio",
            "kfp_components",
            "templates",
        ):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((ROOT / file).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (wheel,) = folder.glob("mlflow_istio-*.whl")
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    locked = folder / "constraints.txt"
    lines = (ROOT / "requirements" / "all.txt").read_text(encoding="utf-8").splitlines()
    locked.write_text("\n".join(line.removesuffix(" \\") for line in lines if "==" in line and line[0].isalnum()))
    run(UV, "pip", "install", "--quiet", "--python", python, "--constraint", locked, wheel, cwd=folder)
    return python


def test_the_templates_are_inside_the_wheel(python: Path, tmp_path: Path) -> None:
    code = "import mlflow_istio, mlflow_istio.wiring.connection as w; print(mlflow_istio.__file__, sorted(w.load_templates(None)))"
    said = run(python, "-c", code, cwd=tmp_path)
    assert str(python.parents[1]) in said
    assert "['Deployment', 'DestinationRule', 'Service', 'VirtualService']" in said


def test_mlflow_finds_both_targets_with_mlflow_skinny_alone(python: Path, tmp_path: Path) -> None:
    for target in ("istio", "istio-local"):
        said = run(python.parent / "mlflow", "deployments", "help", "-t", target, cwd=tmp_path)
        assert "Release MLflow model versions through Istio" in said
    packages = run(UV, "pip", "list", "--python", python, cwd=tmp_path)
    assert "mlflow-skinny" in packages
    assert "\nmlflow " not in packages


@pytest.mark.parametrize("command", ["local up", "demo", "history churn -t istio-local"])
def test_what_needs_the_local_extra_says_so_in_a_line(python: Path, tmp_path: Path, command: str) -> None:
    """The demo's models need scikit-learn; the registry that MLflow takes unasked is a database, which mlflow-skinny can't open."""
    environment = {"MLFLOW_ISTIO_HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(python.parent / "mlflow-istio"), *command.split()],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "mlflow-istio[local]" in done.stderr
    assert "Traceback" not in done.stderr
