"""A canary from Python: 10%, look, 50%, promote; and back."""

from __future__ import annotations

import os
from collections import Counter

import requests
from mlflow.deployments import get_deploy_client

CUSTOMER = {"dataframe_records": [{"tenure": 3, "calls": 12, "spend": 30.5}]}

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={"strategy": "canary", "weight": 10})


def look(requests_sent: int = 200) -> None:
    endpoint = client.get_endpoint("churn")
    seen: Counter[str] = Counter()
    with requests.Session() as session:
        session.headers.update(endpoint["headers"])
        for _ in range(requests_sent):
            answer = session.post(f"{endpoint['url']}/invocations", json=CUSTOMER, timeout=10)
            answer.raise_for_status()
            seen[answer.headers["x-mlflow-model-version"]] += 1
    print(f"asked for {endpoint['traffic']}, seen {dict(sorted(seen.items()))}")


look()
client.update_endpoint("churn", {"weight": 50, "reason": "no errors at 10%"})
look()
client.promote("churn", reason="no errors at 50%")
look()
client.rollback("churn", reason="to show that it works")
look()
client.delete_endpoint("churn")
