"""The kinds of model servers that are known by name. Data only: one entry is all that a new one needs."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_istio.core.runtime.runtime import Runtime

MLFLOW = Runtime(
    name="mlflow",
    about="our own server: MLflow's scoring protocol, with records and a header that says the version",
    command=("python", "-m", "mlflow_istio.serving"),
    readiness="/ping",
    scoring="/invocations",
    body="mlflow",
    names_version=True,
    records=True,
)

# Variables and paths: MLServer's documentation ("Settings", "Model Settings", "OpenAPI"), and its MLflow runtime, which reads
# model settings from variables of that prefix where there is no file. Port 0: any free one, since nobody asks there.
MLSERVER = Runtime(
    name="mlserver",
    about="MLServer with its MLflow runtime: the V2 protocol over REST",
    command=("mlserver", "start", "."),
    env={
        "MLSERVER_HTTP_PORT": "$PORT",
        "MLSERVER_GRPC_PORT": "0",
        "MLSERVER_METRICS_PORT": "0",
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_MODEL_NAME": "model",
        "MLSERVER_MODEL_URI": "$MODEL",
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_mlflow.MLflowRuntime",
    },
    readiness="/v2/health/ready",
    scoring="/v2/models/model/infer",
)

# The path is one that vLLM, llama.cpp and the like all answer once their model is loaded; /health is not.
OPENAI = Runtime(
    name="openai",
    about="a server that speaks OpenAI's protocol, such as vLLM or llama.cpp: chat completions",
    readiness="/v1/models",
    scoring="/v1/chat/completions",
    streams=True,
)

TRITON = Runtime(
    name="triton",
    about="Triton Inference Server: the V2 protocol over HTTP; its model is called 'model'",
    command=("tritonserver", "--model-repository=$MODEL", "--http-port=$PORT"),
    readiness="/v2/health/ready",
    scoring="/v2/models/model/infer",
)

CONTAINER = Runtime(
    name="container",
    about="any HTTP server, by the options image, command, args, port, readiness and scoring",
)

RUNTIMES: Mapping[str, Runtime] = {one.name: one for one in (MLFLOW, MLSERVER, OPENAI, TRITON, CONTAINER)}
"""By name."""
