"""MLServer behind an endpoint: two versions tested against each other over the V2 protocol, every user on one of them.

MLServer lives in an environment of its own::

    python -m venv mlserver && mlserver/bin/pip install mlserver mlserver-mlflow scikit-learn
    MLSERVER=mlserver/bin python examples/16_mlserver_ab.py
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pandas as pd
import requests
from mlflow.deployments import get_deploy_client

programs = Path(os.environ.get("MLSERVER", "mlserver/bin")).absolute()
mlserver = {"runtime": "mlserver", "env": {"PATH": f"{programs}:{os.environ['PATH']}"}}
customers = pd.DataFrame({"tenure": [3.0, 40.0], "calls": [9.0, 1.0], "spend": [20.0, 60.0]})

client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
client.create_deployment("churn-v1", "models:/churn/1", endpoint="churn", config=mlserver)
arms = {"header": "x-arm", "values": {"churn-v1": "a", "churn-v2": "b"}}
client.create_deployment("churn-v2", "models:/churn/2", endpoint="churn", config={**mlserver, "strategy": "ab", **arms})
print(client.predict(endpoint="churn", inputs=customers))  # a frame becomes MLServer's tensors

# Users send the V2 protocol themselves.
endpoint = client.get_endpoint("churn")
columns = [
    {"name": name, "shape": [len(customers)], "datatype": "FP64", "data": customers[name].tolist()}
    for name in customers
]
body = {"parameters": {"content_type": "pd"}, "inputs": columns}
seen: Counter[tuple[str, str]] = Counter()
for number in range(40):
    arm = "ab"[number % 2]
    answer = requests.post(
        endpoint["scoring_url"], json=body, headers={**endpoint["headers"], "x-arm": arm}, timeout=30
    )
    answer.raise_for_status()
    seen[arm, answer.headers["x-mlflow-model-version"]] += 1
print(f"answers by arm and version: {dict(sorted(seen.items()))}")
client.promote("churn", candidate="churn-v2", reason="the arm that kept most customers")
print(f"traffic: {client.get_endpoint('churn')['traffic']}")
client.delete_endpoint("churn")
assert set(seen) == {("a", "churn/1"), ("b", "churn/2")}, seen
