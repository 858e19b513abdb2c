"""What serves already becomes an endpoint's stable, and a new version is released beside it; nothing of it is touched.

With KServe, ``ATTACH=inferenceservice/churn`` and ``MLFLOW_ISTIO_TARGET=istio:/models`` attach the predictor that its Standard mode
runs. On a laptop there is no KServe: a server of MLflow's, started here by hand, stands for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import requests
from mlflow.deployments import get_deploy_client

CUSTOMER = {"dataframe_records": [{"tenure": 3.0, "calls": 12.0, "spend": 30.5}]}
attach, process, there = os.environ.get("ATTACH"), None, ""
if attach is None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    attach = there = f"http://127.0.0.1:{port}"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    serve = ["-m", "mlflow", "models", "serve", "-m", "models:/churn/1", "-p", str(port), "--env-manager", "local"]
    process = subprocess.Popen([sys.executable, *serve], env={**os.environ, "PATH": programs}, start_new_session=True)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if requests.get(f"{there}/ping", timeout=5).ok:
                break
        except requests.ConnectionError:
            time.sleep(0.2)

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))


def look(requests_sent: int = 200) -> Counter[str]:
    """Who answers."""
    endpoint = client.get_endpoint("churn")
    seen: Counter[str] = Counter()
    with requests.Session() as session:
        session.headers.update(endpoint["headers"])
        for _ in range(requests_sent):
            answer = session.post(endpoint["scoring_url"], json=CUSTOMER, timeout=10)
            answer.raise_for_status()
            seen[answer.headers["x-mlflow-model-version"]] += 1
    print(f"asked for {endpoint['traffic']}, seen {dict(sorted(seen.items()))}")
    return seen


try:
    # Which version it serves is said here, for the ledger: nobody can ask it.
    client.create_deployment("churn-live", "models:/churn/1", endpoint="churn", config={"attach": attach})
    assert set(look()) == {"churn/1"}
    client.create_deployment(
        "churn-v2", "models:/churn/2", endpoint="churn", config={"strategy": "canary", "weight": 20}
    )
    assert set(look()) == {"churn/1", "churn/2"}
    client.promote("churn", reason="no errors at 20%")
    assert set(look()) == {"churn/2"}
    client.rollback("churn", reason="back to what stood there before")
    assert set(look()) == {"churn/1"}
    for change in client.history("churn"):
        print(f"{change['sequence']} {change['action']}: {change['reason'] or '-'}")
    client.delete_endpoint("churn")
    if there:
        assert requests.post(f"{there}/invocations", json=CUSTOMER, timeout=10).ok, (
            "it answers at its own address, as before"
        )
finally:
    if process is not None:
        os.killpg(process.pid, 15)
        process.wait()
