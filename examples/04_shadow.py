"""A shadow: the candidate gets copies of the live traffic, users never see it."""

from __future__ import annotations

import os

import requests
from mlflow.deployments import get_deploy_client

CUSTOMER = {"dataframe_records": [{"tenure": 3, "calls": 12, "spend": 30.5}]}

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn")
client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={"strategy": "shadow"})
endpoint = client.get_endpoint("churn")
for _ in range(50):
    answer = requests.post(f"{endpoint['url']}/invocations", json=CUSTOMER, headers=endpoint["headers"], timeout=10)
    assert answer.headers["x-mlflow-model-version"] == "churn/1"
shadow = client.get_deployment("churn-v2")
metrics = requests.get(f"{shadow['url']}/metrics", headers=shadow["headers"], timeout=10).text
print("what the shadow counted:")
print("\n".join(line for line in metrics.splitlines() if "requests_total{" in line))
client.abort("churn", reason="seen enough")
client.delete_endpoint("churn")
