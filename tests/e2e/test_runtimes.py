"""Another model server than ours, released on real Envoy: the one that MLflow itself ships, which knows nothing of us."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from mlflow.deployments import get_deploy_client

from mlflow_istio.client.errors import IstioDeploymentError

pytestmark = pytest.mark.e2e

THEIRS = {
    "runtime": "container",
    "command": ["python", "-m", "mlflow", "models", "serve", "-m", "$MODEL", "-p", "$PORT", "--env-manager", "local"],
    "readiness": "/ping",
    "env": {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},  # it starts uvicorn by its name
}


def test_another_server_is_released_under_load_and_its_answers_say_who_they_are(own_mesh: str) -> None:
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=THEIRS)
    url = client.get_endpoint("churn")["scoring_url"]
    seen: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.wait(0.01):
                answer = session.post(url, json={"inputs": [[1.0, 2.0]]}, timeout=60)
                seen[answer.status_code, answer.headers.get("x-mlflow-model-version", "none")] += 1

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**THEIRS, "strategy": "canary", "weight": 50}
        )
        before = sum(seen.values())
        while sum(seen.values()) < before + 100 and all(caller.is_alive() for caller in callers):
            stop.wait(0.1)
        client.rollback("churn")
        client.delete_deployment("churn-v2")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"churn/1", "churn/2"}
    assert client.predict(deployment_name="churn-v1", inputs={"inputs": [[1.0, 2.0]]}) == {"predictions": [1.0]}


def test_a_server_that_does_not_come_up_or_can_not_be_asked_alike_changes_nothing(own_mesh: str) -> None:
    client = get_deploy_client(own_mesh)
    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
    mute = {"runtime": "container", "command": ["sleep", "60"], "readiness": "/ping", "ready_timeout": 2}
    with pytest.raises(IstioDeploymentError, match="it was taken away again and no traffic has changed"):
        client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config=mute)
    with pytest.raises(
        IstioDeploymentError, match="is asked at /score, but callers of endpoint 'churn' ask at /invocations"
    ):
        client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={**mute, "scoring": "/score"})
    assert [one["name"] for one in client.list_deployments("churn")] == ["churn-v1"]


def test_a_server_that_can_not_record_is_a_shadow_with_a_recorder_in_front_of_it(own_mesh: str, tmp_path: Path) -> None:
    client = get_deploy_client(own_mesh)

    def recording(version: int) -> dict[str, object]:
        env = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / f"records-{version}")}
        return {**THEIRS, "env": {**THEIRS["env"], **env}}  # type: ignore[dict-item]

    client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=recording(1))
    with pytest.raises(IstioDeploymentError, match="records none: .* on a laptop let both record"):
        client.create_deployment(
            "churn-v2", "models:/churn/2", endpoint="churn", config={**THEIRS, "strategy": "shadow"}
        )
    client.create_deployment(
        "churn-v2", "models:/churn/2", endpoint="churn", config={**recording(2), "strategy": "shadow"}
    )
    url = client.get_endpoint("churn")["scoring_url"]
    with requests.Session() as session:
        for _ in range(60):
            answer = session.post(url, json={"inputs": [[1.0, 2.0]]}, timeout=60)
            assert (answer.json(), answer.headers["x-mlflow-model-version"]) == ({"predictions": [1.0]}, "churn/1")
    deadline = time.monotonic() + 60
    while (found := client.compare("churn", answers="numbers", settle=0.2))["figures"]["shadow/compared"] < 60:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert found["figures"]["shadow/difference"] == pytest.approx(1.0), "version 1 answers 1.0, version 2 answers 2.0"
    assert found["verdict"]["word"] == "rollback"
    row = found["most_different"][0]
    assert (row["stable_output"], row["candidate_output"]) == ({"predictions": [1.0]}, {"predictions": [2.0]})

    (server,) = _children(tmp_path, "churn-v1")
    client.abort("churn")
    client.delete_endpoint("churn")
    assert not Path(f"/proc/{server}").exists(), "the server ends with its recorder"


def _children(folder: Path, deployment: str) -> list[int]:
    """Processes that a deployment's recorders have started: those without the token that recorders keep to themselves."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            argv = (process / "cmdline").read_bytes()
        except OSError:
            continue
        mine = f"MLFLOW_ISTIO_DEPLOYMENT={deployment}".encode() in environ and str(folder).encode() in b"".join(environ)
        hidden = not any(entry.startswith(b"MLFLOW_ISTIO_RECORD") for entry in environ)
        if mine and hidden and b"models\0serve" in argv:
            found.append(int(process.name))
    return found
