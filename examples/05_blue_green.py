"""Blue-green: everyone moves in one edit while requests are under way, and back; none fails."""

from __future__ import annotations

import os
import threading
from collections import Counter

import requests
from mlflow.deployments import get_deploy_client

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={"strategy": "blue-green"})
endpoint = client.get_endpoint("churn")
seen: Counter[str] = Counter()
stop = threading.Event()


def call() -> None:
    with requests.Session() as session:
        while not stop.is_set():
            answer = session.get(f"{endpoint['url']}/ping", headers=endpoint["headers"], timeout=10)
            seen[answer.headers["x-mlflow-model-version"] if answer.ok else f"failed: {answer.status_code}"] += 1


caller = threading.Thread(target=call)
caller.start()
try:
    client.promote("churn", reason="blue-green switch")
    client.rollback("churn", reason="instant return")
finally:
    stop.set()
    caller.join()
print(f"during the switch and the return: {dict(sorted(seen.items()))}")
assert not [key for key in seen if key.startswith("failed")]
client.delete_endpoint("churn")
