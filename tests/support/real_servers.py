"""Model servers that nobody here wrote, in environments of their own: MLServer, and Triton as nvidia-pytriton's wheel carries it.

``make mlserver triton`` makes the environments from hashed locks. Their models answer with a number whatever they are asked, and
can fail where the first value of a request, which counts them, says so (see ``tests/faulty/model.py``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faulty import register_faulty
from tests.support.registered_models import register

_TRITON_MODEL = """
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads((Path(__file__).parents[1] / "answer.json").read_text())

    def execute(self, requests):
        answers = []
        for request in requests:
            number = int(pb_utils.get_input_tensor_by_name(request, "x").as_numpy().flat[0])
            every = self.config["fails_every"]
            if every and number % every == every // 2:
                answers.append(pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError("as it was told")))
                continue
            tensor = pb_utils.Tensor("answer", np.array([self.config["answer"]], dtype=np.float64))
            answers.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
        return answers
"""
_TRITON_CONFIG = """
name: "model"
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP64 dims: [ 1, 2 ] }]
output [{ name: "answer" data_type: TYPE_FP64 dims: [ 1 ] }]
"""


@dataclass(frozen=True, kw_only=True)
class RealServer:
    """A server, and how its models come into a registry.

    Attributes:
        name: The runtime's name.
        options: What a deployment's options say beside the runtime.
        register: Registers a version that answers a number and fails every so many requests, 0 for never.
    """

    name: str
    options: dict[str, Any]
    register: Callable[[float, int], int]


def environment(name: str) -> Path:
    """The folder of a server's environment."""
    folder = Path(sys.prefix) / name
    if not (folder / ".ready").exists():
        raise AssertionError(f"{name} is not there: make {name}")
    return folder


def mlserver(registry: str, artifacts: Path) -> RealServer:
    """MLServer, which finds its own Python first in its PATH."""
    folder = environment("mlserver")

    def registered(answer: float, fails_every: int) -> int:
        if fails_every:
            return register_faulty(registry, "churn", artifacts, answer=answer, fails_every=fails_every)
        return register(registry, "churn", answer, artifacts)

    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return RealServer(name="mlserver", options={"env": {"PATH": path}}, register=registered)


def triton(registry: str, artifacts: Path) -> RealServer:
    """Triton with its Python backend."""
    folder = environment("triton")
    (package,) = folder.glob("lib/python*/site-packages/pytriton/tritonserver")
    # Its wheel keeps the backend's program apart, one for each Python.
    backends = artifacts / "backends"
    shutil.copytree(package / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")

    def registered(answer: float, fails_every: int) -> int:
        return _register_repository(registry, artifacts, answer, fails_every)

    return RealServer(
        name="triton",
        options={
            "env": {
                "PATH": f"{package / 'bin'}:{folder / 'bin'}:{os.environ['PATH']}",
                "LD_LIBRARY_PATH": str(package.parents[1] / "nvidia_pytriton.libs"),
            },
            "args": [
                f"--backend-directory={backends}",
                f"--backend-config=python,python-runtime={folder / 'bin' / 'python'}",
            ],
        },
        register=registered,
    )


def _register_repository(registry: str, artifacts: Path, answer: float, fails_every: int) -> int:
    """Triton's models are folders; what MLflow needs to know of one stands in a file beside."""
    import mlflow
    from mlflow.models import Model

    number = sum(1 for _ in artifacts.glob("repository-*"))
    folder = artifacts / f"repository-{number}"
    (folder / "model" / "1").mkdir(parents=True)
    (folder / "model" / "config.pbtxt").write_text(_TRITON_CONFIG)
    (folder / "model" / "1" / "model.py").write_text(_TRITON_MODEL)
    settings = f'{{"answer": {answer}, "fails_every": {fails_every}}}'
    (folder / "model" / "answer.json").write_text(settings)
    Model(flavors={"triton": {"data": "model"}}).save(str(folder / "MLmodel"))
    client = mlflow.MlflowClient(registry_uri=registry, tracking_uri=registry)
    return int(client.create_model_version("churn", folder.as_uri()).version)
