"""The kinds of model servers that are known by name. Data only: one entry is all that a new one needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput

MLFLOW = Runtime(
    name="mlflow",
    about="our own server: MLflow's scoring protocol, with records and a header that says the version",
    command=("python", "-m", "mlflow_istio.serving"),
    readiness="/ping",
    scoring="/invocations",
    body="mlflow",
    names_version=True,
    records=True,
    keep_alive=0,
)

ATTACHED = replace(
    MLFLOW,
    name="attached",
    about="what stands already: MLflow's scoring protocol at a server that is not ours",
    command=(),
    names_version=False,
    records=False,
    keep_alive=5,
)
"""What is asked of something attached unless a kind is named: the protocol that MLflow's own server and MLServer's runtime for it
answer, too."""

# Variables and paths: MLServer's documentation ("Settings", "Model Settings", "OpenAPI"), and its MLflow runtime, which reads
# model settings from variables of that prefix where there is no file. Port 0: any free one, since nobody asks there.
MLSERVER = Runtime(
    name="mlserver",
    about="MLServer with its MLflow runtime: the V2 protocol over REST",
    command=("mlserver", "start", "."),
    env={
        "MLSERVER_HOST": "$HOST",
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
    body="v2",
)

# The path is one that vLLM, llama.cpp and the like all answer once their model is loaded; /health is not. llama.cpp's server closes
# a connection after each streamed answer and doesn't say so before (seen with xllamacpp 2026.10: one in 160 streams met the end of
# another's connection); one connection for each request costs a language model nothing.
OPENAI = Runtime(
    name="openai",
    about="a server that speaks OpenAI's protocol, such as vLLM or llama.cpp: chat completions",
    readiness="/v1/models",
    scoring="/v1/chat/completions",
    streams=True,
    connection_requests=1,
)

# Its other ports are fixed ones, so two of them on one laptop would meet there; an option that comes again later wins, so 'args'
# can have them back ("Triton Inference Server" 2.5x, seen with the one in nvidia-pytriton 0.7).
TRITON = Runtime(
    name="triton",
    about="Triton Inference Server: the V2 protocol over HTTP; its model is called 'model'",
    command=(
        *("tritonserver", "--model-repository=$MODEL", "--http-address=$HOST", "--http-port=$PORT"),
        *("--allow-grpc=false", "--allow-metrics=false"),
    ),
    readiness="/v2/health/ready",
    scoring="/v2/models/model/infer",
    body="v2",
)

CONTAINER = Runtime(
    name="container",
    about="any HTTP server, by the options image, command, args, port, readiness and scoring",
)

RUNTIMES: Mapping[str, Runtime] = {runtime.name: runtime for runtime in (MLFLOW, MLSERVER, OPENAI, TRITON, CONTAINER)}
"""By name."""

_V2: Mapping[str, Any] = {
    "protocol": "grpc",
    "readiness": "",
    "scoring": "/inference.GRPCInferenceService/ModelInfer",
    "body": "v2",
}

# MLServer 1.7 answers no grpc.health.v1, which Kubernetes and Envoy ask for: this adds it, by what its own ServerReady says.
# Started by env, which finds the python3 of the PATH that was given: on a laptop that of an environment of its own.
_MLSERVER_WITH_HEALTH = """
import sys
import grpc
from mlserver.cli import main
from mlserver.grpc.server import GRPCServer

made = GRPCServer._create_server

def with_health(self):
    async def check(message, context):
        return b"\\x08\\x01" if await self._data_plane.ready() else b"\\x08\\x02"

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server = made(self)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    return server

GRPCServer._create_server = with_health
sys.argv = ["mlserver", "start", "."]
main()
"""

OVER_GRPC: Mapping[str, Runtime] = {
    "mlserver": replace(
        MLSERVER,
        about="MLServer with its MLflow runtime: the V2 protocol over gRPC",
        command=("env", "python3", "-c", _MLSERVER_WITH_HEALTH),
        env={**MLSERVER.env, "MLSERVER_HTTP_PORT": "0", "MLSERVER_GRPC_PORT": "$PORT"},
        **_V2,
    ),
    "triton": replace(
        TRITON,
        about="Triton Inference Server: the V2 protocol over gRPC; its model is called 'model'",
        command=(
            *("tritonserver", "--model-repository=$MODEL", "--grpc-address=$HOST", "--grpc-port=$PORT"),
            *("--allow-http=false", "--allow-metrics=false"),
        ),
        **_V2,
    ),
    "container": replace(
        CONTAINER,
        about="any gRPC server that answers grpc.health.v1, by the options image, command, args and port",
        protocol="grpc",
        readiness="",
        scoring="",
        body="none",
    ),
}
"""Those that speak gRPC, too, as they are when they do."""


def speaking(runtime: Runtime, protocol: str | None) -> Runtime:
    """The kind of model server as it is when it speaks a protocol; None: the one that it speaks by itself.

    Raises:
        InvalidInput: It doesn't.
    """
    if protocol is None or protocol == runtime.protocol:
        return runtime
    if protocol == "grpc" and RUNTIMES.get(runtime.name) == runtime and runtime.name in OVER_GRPC:
        return OVER_GRPC[runtime.name]
    raise InvalidInput(
        f"runtime '{runtime.name}' speaks {runtime.protocol}, not {protocol}: "
        f"{', '.join(OVER_GRPC)} speak grpc, and a profile of your own may say protocol: {protocol}"
    )
