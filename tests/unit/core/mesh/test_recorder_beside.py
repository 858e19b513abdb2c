"""A recorder in front of a server: where there is one, and how the server learns its port behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.adapters.local.workloads import resolved, workload
from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.mesh.manifests import DeploymentValues, deployment_manifest, keeps_records
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.runtime.profiles import CONTAINER, MLFLOW, MLSERVER, OVER_GRPC
from mlflow_istio.core.runtime.runtime import Runtime
from tests.support.endpoint_values import TEMPLATES

RECORDS = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": "/records"}
OWN = replace(CONTAINER, command=("serve", "--port", "$PORT", "--price", "$$PORT"), args=("--model=$MODEL",))
VALUES = DeploymentValues(
    name="own-v1", endpoint="own", model=ModelVersion(model="own", version=1), image="", replicas=1, env={}
)


def made(runtime: Runtime, env: Mapping[str, str], **more: Any) -> dict[str, Any]:
    return dict(deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, runtime=runtime, env=env, **more)))


def started(deployment: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, str]]:
    """What the local mesh starts."""
    found = workload(deployment)
    given = {"MLFLOW_ISTIO_HOST": "127.0.0.1", "MLFLOW_ISTIO_PORT": "7001"}
    return resolved(found.command, found.environment, given)


def test_the_recorder_starts_the_server_and_knows_where_its_port_belongs() -> None:
    command, _ = started(made(OWN, RECORDS))
    assert command[:4] == ("python", "-m", "mlflow_istio.serving.beside", "--")
    server = "$(MLFLOW_ISTIO_SERVER_PORT)"
    assert command[4:] == ("serve", "--port", server, "--price", "$PORT", "--model=models:/own/1")


def test_a_port_among_the_variables_is_named() -> None:
    command, env = started(made(MLSERVER, {**RECORDS, "MINE": "$(MLFLOW_ISTIO_PORT)"}))
    assert command[3:5] == ("--env=MLSERVER_HTTP_PORT", "--")
    assert env["MLSERVER_HTTP_PORT"] == "$(MLFLOW_ISTIO_SERVER_PORT)"
    assert env["MLFLOW_ISTIO_PORT"] == "7001"
    assert env["MINE"] == "$(MLFLOW_ISTIO_PORT)"


@pytest.mark.parametrize(
    ("runtime", "env", "more"),
    [
        (OWN, {}, {}),
        (OWN, {"MLFLOW_ISTIO_RECORD": "0"}, {}),
        (OWN, RECORDS, {"pod": PodSettings()}),
        (replace(OWN, records=True), RECORDS, {}),
        (replace(OVER_GRPC["container"], command=("serve",)), RECORDS, {}),
        (MLFLOW, RECORDS, {}),
    ],
)
def test_elsewhere_there_is_none(runtime: Runtime, env: Mapping[str, str], more: Mapping[str, Any]) -> None:
    deployment = made(runtime, env, **more)
    assert "serving.beside" not in str(deployment)
    assert keeps_records(deployment) == runtime.records


def test_a_deployment_says_that_it_keeps_records() -> None:
    assert keeps_records(made(OWN, RECORDS))
    assert not keeps_records(made(OWN, {}))
