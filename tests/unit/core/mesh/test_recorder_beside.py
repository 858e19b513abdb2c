"""A recorder in front of a server: where there is one, and how the server learns its port behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.adapters.local.workloads import resolved, workload
from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.mesh.manifests import DeploymentValues, deployment_manifest, keeps_records
from mlflow_istio.core.mesh.pods import PodSettings, plain_variables, variable_of
from mlflow_istio.core.mesh.recorder_beside import asks_for_records, with_variables
from mlflow_istio.core.mesh.twin import twin
from mlflow_istio.core.runtime.profiles import CONTAINER, MLFLOW, MLSERVER, OVER_GRPC
from mlflow_istio.core.runtime.runtime import Runtime
from mlflow_istio.errors import InvalidInput
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


@pytest.mark.parametrize("name", ["triton", "mlserver"])
def test_over_grpc_the_recorder_is_told_so_on_both_targets_and_the_pod_is_ready_through_it(name: str) -> None:
    runtime = OVER_GRPC[name]
    command, env = started(made(runtime, RECORDS))
    assert command[:4] == ("python", "-m", "mlflow_istio.serving.beside", "--grpc")
    assert "$(MLFLOW_ISTIO_SERVER_PORT)" in str((command, env))
    pod = pod_of(runtime)
    assert pod["initContainers"][-1]["command"][-2:] == ["--grpc", "--server-port=8080"]
    server = pod["containers"][0]
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == {"grpc": 8790, "server": 8080}
    assert server["startupProbe"]["grpc"] == {"port": 8080, "service": ""}
    assert server["readinessProbe"]["grpc"] == {"port": 8790, "service": ""}


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("name: {{ protocol }}\n              containerPort: {{ recorder.port }}", "name: x", "port named grpc"),
        ("recorder.port if recorder else port", "port", "write grpc: {port: {{ recorder.port }}, service"),
    ],
)
def test_a_template_that_leads_calls_past_the_recorder_is_refused(wrong: str, right: str, message: str) -> None:
    template = TEMPLATES["Deployment"]
    assert wrong in template
    if right == "name: x":
        right = "name: x\n              containerPort: {{ recorder.port }}"
    values = replace(
        VALUES, runtime=OVER_GRPC["triton"], env=IN_PODS, pod=PodSettings(), image="t:1", download_image="s:1"
    )
    with pytest.raises(InvalidInput, match=message):
        deployment_manifest(template.replace(wrong, right), values)


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
        (OWN, {}, {"pod": PodSettings()}),
        (replace(OWN, records=True), RECORDS, {}),
        (replace(OWN, records=True), RECORDS, {"pod": PodSettings()}),
        (OVER_GRPC["triton"], {}, {"pod": PodSettings()}),
        (replace(OVER_GRPC["container"], command=("serve",)), RECORDS, {}),
        (replace(OVER_GRPC["container"], command=("serve",)), RECORDS, {"pod": PodSettings()}),
        (replace(OVER_GRPC["triton"], scoring="/own.Service/Infer"), RECORDS, {}),
        (MLFLOW, RECORDS, {}),
    ],
)
def test_elsewhere_there_is_none(runtime: Runtime, env: Mapping[str, str], more: Mapping[str, Any]) -> None:
    deployment = made(runtime, env, **more)
    assert "serving.beside" not in str(deployment)
    assert keeps_records(deployment) == runtime.records


@pytest.mark.parametrize(
    ("share", "asked"),
    [("1", True), ("0.1", True), ("0", False), ("", False), ("0.0", False), ("-1", True), ("nan", True), ("x", True)],
)
def test_a_share_that_cannot_be_asks_for_the_recorder_that_says_so(share: str, asked: bool) -> None:
    """Taken for none it would be found out only when a shadow has nothing to compare."""
    assert asks_for_records({"MLFLOW_ISTIO_RECORD": share}) is asked


def test_a_deployment_says_that_it_keeps_records() -> None:
    assert keeps_records(made(OWN, RECORDS))
    assert keeps_records(made(OWN, RECORDS, pod=PodSettings()))
    assert not keeps_records(made(OWN, {}))


IN_PODS = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_TOKEN": "t0ken", "MINE": "$(A)"}


def pod_of(runtime: Runtime = OWN, env: Mapping[str, str] = IN_PODS, **settings: Any) -> dict[str, Any]:
    deployment = made(runtime, env, pod=PodSettings(**settings), image="theirs:1", download_image="serving:1")
    return dict(deployment["spec"]["template"]["spec"])


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_in_a_pod_it_is_a_native_sidecar_of_our_image_that_ends_after_its_server() -> None:
    pod = pod_of()
    (recorder,) = pod["initContainers"]
    assert (recorder["name"], recorder["image"], recorder["restartPolicy"]) == ("recorder", "serving:1", "Always")
    assert recorder["command"] == ["python", "-m", "mlflow_istio.serving.beside", "--server-port=8080"]
    assert pod["containers"][0]["command"] == ["serve", "--port", "$(MLFLOW_ISTIO_PORT)", "--price", "$$PORT"]
    assert "serving.beside" not in str(pod["containers"])


def test_what_is_about_recording_is_the_recorders_alone() -> None:
    pod = pod_of(env_from_secret={"MLFLOW_ISTIO_RECORD_FIELDS": "s/k", "KEY": "s/k"})
    recorder, server = variables(pod["initContainers"][0]), variables(pod["containers"][0])
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert recorder == {
        "HOME": "/tmp",
        "MLFLOW_ISTIO_PORT": "8790",
        "MLFLOW_ISTIO_RECORD": "1",
        "MLFLOW_ISTIO_RECORD_DIR": "/tmp/mlflow-istio/records",
        "MLFLOW_ISTIO_RECORD_FIELDS": secret,
        "MLFLOW_ISTIO_RECORD_TOKEN": "t0ken",
        "MLFLOW_ISTIO_MODEL_URI": "models:/own/1",
        "MLFLOW_ISTIO_MODEL_VERSION": "own/1",
        "MLFLOW_ISTIO_DEPLOYMENT": "own-v1",
    }
    assert not [name for name in server if name.startswith("MLFLOW_ISTIO_RECORD")]
    assert (server["MLFLOW_ISTIO_PORT"], server["MINE"], server["KEY"]) == ("8080", "$$(A)", secret)


@pytest.mark.parametrize(("port", "recorders"), [(8080, 8790), (8790, 8791), (8791, 8790)])
def test_requests_and_readiness_come_by_the_recorder_and_the_start_is_seen_at_the_server(
    port: int, recorders: int
) -> None:
    (server,) = pod_of(replace(OWN, port=port, readiness="/ready"))["containers"]
    assert server["ports"] == [
        {"name": "http", "containerPort": recorders},
        {"name": "server", "containerPort": port},
    ]
    assert server["readinessProbe"]["httpGet"] == {"path": "/ready", "port": recorders}
    assert server["startupProbe"]["httpGet"] == {"path": "/ready", "port": port}


@pytest.mark.parametrize("hardened", [True, False])
def test_its_records_lie_in_a_folder_of_its_own(hardened: bool) -> None:
    pod = pod_of(hardened=hardened)
    (recorder,), (server,) = pod["initContainers"], pod["containers"]
    assert recorder["volumeMounts"] == [{"name": "records", "mountPath": "/tmp"}]
    assert {"name": "records", "emptyDir": {"sizeLimit": "20Gi"}} in pod["volumes"]
    assert "records" not in str(server.get("volumeMounts"))
    assert variables(recorder)["MLFLOW_ISTIO_RECORD_DIR"] == "/tmp/mlflow-istio/records"
    assert recorder.get("securityContext") == server.get("securityContext")
    assert ("securityContext" in recorder) is hardened


def test_a_model_is_downloaded_before_it_starts() -> None:
    pod = pod_of(source="init")
    assert [container["name"] for container in pod["initContainers"]] == ["model-download", "recorder"]
    assert variables(pod["initContainers"][1])["MLFLOW_ISTIO_MODEL_URI"] == "/model"


@pytest.mark.parametrize(
    ("servers", "recorders"),
    [
        ({}, None),
        ({"limits": {"nvidia.com/gpu": "1"}}, None),
        ({"requests": {"cpu": "4", "memory": "8Gi"}}, {"requests": {"cpu": "500m", "memory": "256Mi"}}),
        (
            {"requests": {"cpu": "4"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}},
            {"requests": {"cpu": "500m"}, "limits": {"memory": "256Mi"}},
        ),
    ],
)
def test_it_has_amounts_of_its_own_where_its_server_has_some(servers: Any, recorders: Any) -> None:
    pod = pod_of(resources=servers)
    assert pod["containers"][0].get("resources") == (servers or None)
    assert pod["initContainers"][0].get("resources") == recorders


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("command: {{ recorder.command }}", "command: [sleep]", "nothing runs the recorder that is asked for"),
        ("restartPolicy: Always", "", "nothing runs the recorder that is asked for"),
        ("containerPort: {{ recorder.port }}", "containerPort: 9", "the port named http must be {{ recorder.port }}"),
    ],
)
def test_a_template_without_a_place_for_it_is_refused_by_name(line: str, instead: str, words: str) -> None:
    assert TEMPLATES["Deployment"].count(line) == 1
    template = TEMPLATES["Deployment"].replace(line, instead)
    values = replace(VALUES, runtime=OWN, env=IN_PODS, image="theirs:1", pod=PodSettings())
    with pytest.raises(InvalidInput) as found:
        deployment_manifest(template, values)
    assert words in found.value.message
    assert deployment_manifest(template, replace(values, env={}))


def test_a_control_of_a_recorded_server_is_recorded_under_its_own_name() -> None:
    deployment = made(OWN, IN_PODS, pod=PodSettings(), image="theirs:1")
    control = twin(deployment, "own-v1-control", 1)
    (recorder,) = control["spec"]["template"]["spec"]["initContainers"]
    assert variables(recorder)["MLFLOW_ISTIO_DEPLOYMENT"] == "own-v1-control"
    assert keeps_records(control)


def test_its_variables_are_read_and_changed_where_they_stand() -> None:
    deployment = made(OWN, IN_PODS, pod=PodSettings(), image="theirs:1")
    assert variable_of(deployment, "MLFLOW_ISTIO_RECORD_TOKEN") == "t0ken"
    assert variable_of(deployment, "MINE") == "$(A)"
    pod = deployment["spec"]["template"]["spec"]
    changed = with_variables(pod, plain_variables({"MLFLOW_ISTIO_RECORD": "0.5", "MINE": "2"}))
    recorder, server = variables(changed["initContainers"][0]), variables(changed["containers"][0])
    assert (recorder["MLFLOW_ISTIO_RECORD"], server["MINE"]) == ("0.5", "2")
    assert "MINE" not in recorder
    assert "MLFLOW_ISTIO_RECORD" not in server
    without = with_variables(pod_of(env={}), plain_variables({"MLFLOW_ISTIO_RECORD": "1"}))
    assert variables(without["containers"][0])["MLFLOW_ISTIO_RECORD"] == "1"
