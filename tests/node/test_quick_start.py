"""The README's quick start on a cluster, in the image we ship, with the real kubectl."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.control_plane.namespaces import LEAST, kubeconfig
from tests.node.client import environment

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
# What a reader's own is, and what it is here.
KUBECTL = """#!/bin/sh
KUBECONFIG={admin} exec {kubectl} "$@"
"""


def test_the_readmes_quick_start_on_a_cluster_runs(tmp_path: Path, server: str) -> None:
    """As the user with the least rights; kubectl is the real one, as somebody with the right to give rights."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    found = subprocess.run(["sh", "-c", "command -v kubectl"], capture_output=True, text=True, check=True)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.format(admin=kubeconfig("admin"), kubectl=found.stdout.strip()), encoding="utf-8")
    kubectl.chmod(0o755)
    script = "".join(re.findall(r"^```shell\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M))
    for theirs, ours in {
        "ada@example.com": LEAST,
        "https://mlflow.example.com": server,
        "=istio-system/gateway": f"={os.environ['MLFLOW_ISTIO_GATEWAY']}",
        "registry.example.com/mlflow-istio-serving:1": DEFAULT_IMAGE,
    }.items():
        assert script.count(theirs) == 1
        script = script.replace(theirs, ours)
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env=environment(
            PATH=f"{kubectl.parent}:{PROGRAMS}:{os.environ['PATH']}", KUBECONFIG=kubeconfig("least"), COLUMNS="150"
        ),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "namespace/models created" in done.stdout
    assert '"predictions"' in done.stdout
    assert re.search(r"rollback +churn-v1 100%.*second thoughts", done.stdout)
