"""What only pods on a cluster have: each setting lands where Kubernetes wants it, each variable once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_istio.adapters.local.workloads import resolved
from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.manifests import DeploymentValues, deployment_manifest
from mlflow_istio.core.mesh.pods import (
    PodSettings,
    check_path,
    check_resources,
    check_secret_reference,
    environment,
    pod_values,
    variable_of,
)
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import TEMPLATES

PLAIN = PodSettings(hardened=False)
VALUES = DeploymentValues(
    name="churn-v2", endpoint="churn", model=ModelVersion(model="churn", version=2), image="i", env={"A": "1"}
)


def spec_of(settings: PodSettings | None) -> Object:
    manifest = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, pod=settings))
    spec: Object = manifest["spec"]["template"]["spec"]
    return spec


def variables(entries: list[Object]) -> dict[str, Any]:
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names)), "Kubernetes refuses a variable that is named twice"
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


def test_the_local_mesh_has_no_pods() -> None:
    assert pod_values(None) is None
    assert set(spec_of(None)) == {"containers"}


@pytest.mark.parametrize(
    ("source", "where", "downloads"),
    [("registry", "models:/churn/2", False), ("image", "/model", False), ("init", "/model", True)],
)
def test_the_model_comes_in_by_the_registry_the_image_or_an_init_container(
    source: str, where: str, downloads: bool
) -> None:
    spec = spec_of(replace(PLAIN, source=source, env_from_secret={"TOKEN": "mlflow/token"}))
    assert variables(spec["containers"][0]["env"])["MLFLOW_ISTIO_MODEL_URI"] == where
    assert ("initContainers" in spec) is downloads
    if downloads:
        (init,) = spec["initContainers"]
        assert init["command"][-3:] == ["models:/churn/2", "--dst-path", "/model"]
        assert variables(init["env"]) == {"A": "1", "TOKEN": {"secretKeyRef": {"name": "mlflow", "key": "token"}}}
        assert init["volumeMounts"] == [{"name": "model", "mountPath": "/model"}]


def test_hardened_pods_write_to_tmp_alone() -> None:
    spec = spec_of(PodSettings())
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert variables(container["env"])["HOME"] == "/tmp"
    assert "securityContext" not in spec_of(PLAIN)
    assert "HOME" not in variables(spec_of(PLAIN)["containers"][0]["env"])


def test_placement_accounts_and_resources_stand_where_kubernetes_reads_them() -> None:
    settings = replace(
        PLAIN,
        service_account="reader",
        node_selector={"gpu": "yes"},
        tolerations=({"key": "gpu", "operator": "Exists"},),
        image_pull_secrets=("registry",),
        resources={"limits": {"memory": "2Gi"}},
    )
    spec = spec_of(settings)
    assert spec["serviceAccountName"] == "reader"
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["resources"] == {"limits": {"memory": "2Gi"}}


def test_annotations_are_the_pods() -> None:
    settings = replace(PLAIN, annotations={"proxy.istio.io/config": "{}"})
    manifest = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, pod=settings))
    assert manifest["spec"]["template"]["metadata"]["annotations"] == {"proxy.istio.io/config": "{}"}


@pytest.mark.parametrize("name", ["A", "PORT", "MLFLOW_ISTIO_MODEL_URI"])
def test_a_variable_that_is_given_twice_is_refused(name: str) -> None:
    settings = replace(PLAIN, env_from_secret={name: "s/k"})
    with pytest.raises(InvalidInput, match=f"environment variable '{name}' is given twice, by 'env_from_secret' too"):
        environment({"A": "1"}, {"PORT": "1"}, settings, "models:/m/1")


@pytest.mark.parametrize(
    ("plain", "settings", "expected"),
    [
        ({"A": "1"}, None, {"A": "1", "PORT": "1", "MLFLOW_ISTIO_MODEL_URI": "models:/m/1"}),
        ({"PORT": "2", "MLFLOW_ISTIO_MODEL_URI": "x"}, None, {"PORT": "1", "MLFLOW_ISTIO_MODEL_URI": "models:/m/1"}),
        (
            {"HOME": "/h"},
            PodSettings(source="image", model_path="/opt/m"),
            {"HOME": "/h", "PORT": "1", "MLFLOW_ISTIO_MODEL_URI": "/opt/m"},
        ),
        (
            {},
            PodSettings(env_from_secret={"HOME": "s/k"}),
            {
                "HOME": {"secretKeyRef": {"name": "s", "key": "k"}},
                "PORT": "1",
                "MLFLOW_ISTIO_MODEL_URI": "models:/m/1",
            },
        ),
    ],
)
def test_what_the_server_needs_wins_and_every_variable_is_named_once(
    plain: dict[str, str], settings: PodSettings | None, expected: dict[str, Any]
) -> None:
    server, download = environment(plain, {"PORT": "1"}, settings, "models:/m/1")
    assert variables(server) == expected
    assert variables(download) == {k: v for k, v in expected.items() if k not in ("PORT", "MLFLOW_ISTIO_MODEL_URI")}


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ({}, {}),
        ({"requests": {"cpu": "500m", "memory": "2Gi"}}, {"requests": {"cpu": "500m", "memory": "2Gi"}}),
        (
            {"limits": {"cpu": 2, "nvidia.com/gpu": 1, "x": 0.5}},
            {"limits": {"cpu": "2", "nvidia.com/gpu": "1", "x": "0.5"}},
        ),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(given: Any, checked: Any) -> None:
    assert check_resources(given) == checked


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"limit": {}}, "resources can't have 'limit': did you mean 'limits'"),
        ({"limits": "2Gi"}, "resources: 'limits' must be a JSON object"),
        ({"limits": {"cpu": "lots"}}, "resources: 'limits.cpu' can't be 'lots': use a quantity such as 500m or 2Gi"),
        ({"limits": {"cpu": -1}}, "'limits.cpu' can't be '-1'"),
    ],
)
def test_other_quantities_are_refused_by_name(given: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_resources(given)


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (
            check_secret_reference,
            ["mlflow/token", "a.b-c/K_1.x"],
            ["mlflow", "/k", "s/", "S/k", "a/b/c", ""],
            "write SECRET/KEY",
        ),
        (check_path, ["/model", "/a/b/", "/a.b"], ["model", "/", "", "/a/../b", "//a", "/a\0"], "is not absolute"),
    ],
)
def test_references_and_paths_are_checked(check: Any, good: list[str], bad: list[str], words: str) -> None:
    for text in good:
        assert check(text) == text
    for text in bad:
        with pytest.raises(InvalidInput, match=words):
            check(text)


DOLLARS = st.lists(st.sampled_from(["$", "$$", "$(", ")", "$(SECRET)", "a", " "]), max_size=6).map("".join)


@given(DOLLARS, DOLLARS)
def test_a_dollar_is_data_in_everything_that_reaches_a_container(name: str, value: str) -> None:
    """Kubernetes puts variables for ``$(NAME)`` in values and commands (k8s.io/kubernetes, third_party/forked/golang/expansion);
    the local mesh does it the same way, so it stands for the kubelet here. A model's name must not show a secret to callers.
    """
    model = ModelVersion(model=f"m{name}", version=2)
    values = replace(
        VALUES, model=model, env={"SECRET": "s3cret", "USER_VALUE": value}, pod=replace(PLAIN, source="init")
    )
    spec = deployment_manifest(TEMPLATES["Deployment"], values)["spec"]["template"]["spec"]
    server, download = spec["containers"][0], spec["initContainers"][0]
    for container in (server, download):
        pairs = [(entry["name"], entry["value"]) for entry in container["env"]]
        command, environment = resolved(container["command"], pairs, {})
        assert environment["USER_VALUE"] == value
    assert command[6] == model.uri
    assert (
        resolved((), [(entry["name"], entry["value"]) for entry in server["env"]], {})[1]["MLFLOW_ISTIO_MODEL_VERSION"]
        == model.label
    )


def test_what_a_pod_with_a_read_only_root_writes_goes_where_it_can_write() -> None:
    recording = {"MLFLOW_ISTIO_RECORD": "1"}
    uv = {"MLFLOW_ISTIO_ENV_MANAGER": "uv"}

    def folders(plain: dict[str, str], server: dict[str, str], *, hardened: bool = True) -> set[str]:
        found, _ = environment(plain, server, PodSettings(hardened=hardened), "models:/churn/2")
        return {
            value for name, value in variables(found).items() if name in ("MLFLOW_ISTIO_RECORD_DIR", "MLFLOW_ENV_ROOT")
        }

    assert folders(recording, uv) == {"/tmp/mlflow-istio/records", "/tmp/mlflow-istio/environments"}
    assert folders({}, {}) == folders(recording, uv, hardened=False) == set()
    assert folders({**recording, "MLFLOW_ISTIO_RECORD_DIR": "/data"}, {}) == {"/data"}


def test_a_variable_is_read_as_it_arrives_there() -> None:
    manifest = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, env={"A": "$(B)"}))
    assert variable_of(manifest, "A") == "$(B)"
    assert variable_of(manifest, "NONE") is variable_of({}, "A") is None
