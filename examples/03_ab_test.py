"""Three arms, every user on one of them: assigned by the caller, the same in every process."""

from __future__ import annotations

import os
from collections import Counter

import requests
from mlflow.deployments import get_deploy_client

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
for version in (1, 2, 3):
    client.create_deployment(f"churn-v{version}", f"models:/churn/{version}", endpoint="churn")
client.update_endpoint(
    "churn",
    {
        "strategy": "ab",
        "candidate": ["churn-v2", "churn-v3"],
        "header": "x-arm",
        "weights": {"churn-v1": 40, "churn-v2": 30, "churn-v3": 30},
    },
)
endpoint = client.get_endpoint("churn")
arms: Counter[str] = Counter()
for number in range(100):
    headers = {**endpoint["headers"], **client.assign("churn", f"customer-{number}")}
    first, second = (requests.get(f"{endpoint['url']}/ping", headers=headers, timeout=10) for _ in range(2))
    assert first.headers["x-mlflow-model-version"] == second.headers["x-mlflow-model-version"]
    arms[first.headers["x-mlflow-model-version"]] += 1
print(f"asked for {endpoint['traffic']}, customers by arm: {dict(sorted(arms.items()))}")
client.promote("churn", candidate="churn-v3", reason="the arm that kept most customers")
client.delete_endpoint("churn")
