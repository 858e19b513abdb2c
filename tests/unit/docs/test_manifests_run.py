"""Each command of a shipped manifest runs in an image that has mlflow-istio and what it requires, and nothing else."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
BLOCK = """
from importlib.machinery import PathFinder
BLOCKED = frozenset({blocked!r})
find = PathFinder.find_spec
def find_in_the_image(name, path=None, target=None):
    return None if name.partition(".")[0] in BLOCKED else find(name, path, target)
PathFinder.find_spec = staticmethod(find_in_the_image)
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u, namespace: models}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
"""


def required(distribution: str, known: set[str] | None = None) -> set[str]:
    """Names of a distribution and of all that it requires, without extras of its own."""
    known = set() if known is None else known
    name = re.sub(r"[-_.]+", "-", distribution).lower()
    if name in known:
        return known
    try:
        wanted = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return known  # for another platform
    known.add(name)
    for line in wanted:
        requirement = Requirement(line)
        extras = requirement.extras or {""}
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            required(requirement.name, known)
            for extra in extras - {""}:
                for more in metadata.requires(requirement.name) or []:
                    inner = Requirement(more)
                    if inner.marker is not None and inner.marker.evaluate({"extra": extra}):
                        required(inner.name, known)
    return known


def not_in_the_image() -> set[str]:
    """Top-level modules of this environment that such an image has not."""
    there = required("mlflow-istio")
    modules = metadata.packages_distributions()
    return {
        module
        for module, owners in modules.items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in there for owner in owners)
    } - {"_virtualenv", "distutils-precedence"}


def commands() -> Iterator[tuple[str, list[str]]]:
    for file in sorted((ROOT / "deploy").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            pod = document.get("spec", {})
            for key in ("jobTemplate", "spec", "template", "spec"):
                pod = pod.get(key, {}) if isinstance(pod, dict) else {}
            for container in pod.get("containers", ()):
                yield f"{file.name}: {container['name']}", [*container["command"], *container.get("args", ())]


COMMANDS = dict(commands())


def test_the_image_of_each_shipped_command_is_built_with_what_the_package_requires() -> None:
    recipe = (ROOT / "docker" / "command.Dockerfile").read_text()
    (built,) = re.findall(r"-t (\S+) \.", recipe)
    assert set(re.findall(r"image: (\S+)", "".join(file.read_text() for file in (ROOT / "deploy").glob("*.yaml")))) == {
        built
    }
    # The extra is for endpoints that speak gRPC; the commands below run without it, too.
    assert 'RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[grpc]" ' in recipe


def test_there_is_a_command_to_try() -> None:
    assert any("sweep" in command for command in COMMANDS.values())
    assert {"kfp", "pytest"} <= not_in_the_image()
    assert not {"kubernetes", "mlflow", "click", "mlflow_istio"} & not_in_the_image()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_shipped_command_runs_with_what_the_package_requires(name: str, tmp_path: Path) -> None:
    """No cluster answers, and the command says so: it has come as far as asking, with nothing missing."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=sorted(not_in_the_image())))
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    python, *arguments = COMMANDS[name]
    assert python == "python"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert "No module named" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr
