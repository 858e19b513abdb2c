"""The README's quick start on a cluster is run as it stands, by the user with the least rights, with real model servers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control_plane.namespaces import LEAST, kubeconfig
from tests.support.mlflow_server import tracking_server

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]


def test_the_readmes_quick_start_on_a_cluster_runs(tmp_path: Path, tracking_uri: str) -> None:
    """kubectl is a stand-in (tests/control_plane/kubectl.py); what is a reader's own is replaced by what the testbed has."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    kubectl = bin_folder / "kubectl"
    python, code, admin = map(shlex.quote, (sys.executable, str(ROOT), kubeconfig("admin")))
    kubectl.write_text(
        f'#!/bin/sh\nPYTHONPATH={code} KUBECONFIG={admin} exec {python} -m tests.control_plane.kubectl "$@"\n',
        encoding="utf-8",
    )
    kubectl.chmod(0o755)
    blocks = re.findall(r"^```shell\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    script = "".join(blocks)
    with tracking_server(tmp_path, "10.244.0.1") as server:
        for theirs, ours in {
            "ada@example.com": LEAST,
            "https://mlflow.example.com": server,
            "=istio-system/gateway": f"={os.environ['MLFLOW_ISTIO_GATEWAY']}",
        }.items():
            assert script.count(theirs) == 1
            script = script.replace(theirs, ours)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")},
            "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KUBECONFIG": kubeconfig("least"),
            "COLUMNS": "150",
        }
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1100,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "namespace/models created" in done.stdout
    assert done.stdout.count("serverside-applied") == 4
    assert '"predictions"' in done.stdout
    assert re.search(r"rollback +churn-v1 100%.*second thoughts", done.stdout)
