"""The commands that the pages' tests call are MLflow's and ours, each call in a process, folder and environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ready_mlflow import folder_of_commands


def call(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder_of_commands()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [["mlflow", "--version"], ["mlflow-istio", "--version"], ["mlflow", "deploymens"]])
def test_a_ready_command_ends_and_says_as_its_console_script_does(command: list[str], tmp_path: Path) -> None:
    script = str(Path(sys.executable).parent / command[0])
    ready, started = call(*command, cwd=tmp_path), call(script, *command[1:], cwd=tmp_path)
    assert (ready.returncode, ready.stdout) == (started.returncode, started.stdout)
    assert ready.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_each_call_has_the_folder_the_environment_and_the_streams_of_its_caller(tmp_path: Path) -> None:
    (tmp_path / "a home").mkdir()
    said = call("bash", "-c", "mlflow deployments help -t nonsense | wc -c; echo ${PIPESTATUS[0]}", cwd=tmp_path)
    assert said.stdout.split() == ["0", "1"]
    home = {"MLFLOW_ISTIO_HOME": "a home", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    listed = call("mlflow", "deployments", "list", "-t", "istio-local", cwd=tmp_path, **home)
    assert listed.returncode == 0, listed.stderr
    assert "[]" in listed.stdout
    refused = call("mlflow-istio", "status", "churn", "-t", "istio-local", cwd=tmp_path, **home)
    assert refused.returncode == 1
    assert "no endpoint 'churn'" in refused.stderr


def test_a_call_whose_caller_is_killed_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    server = [str(folder_of_commands() / "mlflow"), "server", "--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    with subprocess.Popen(server, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as caller:
        deadline = time.monotonic() + 120
        while not (tmp_path / "mlflow.db").exists():
            assert time.monotonic() < deadline, "the call never began"
            time.sleep(0.05)
        caller.send_signal(signal.SIGKILL)
    while still := [pid for pid in os.listdir("/proc") if pid.isdigit() and _works_in(pid, tmp_path)]:
        assert time.monotonic() < deadline, f"{still} go on"
        time.sleep(0.05)


def _works_in(pid: str, folder: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False
