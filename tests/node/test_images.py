"""The images that we ship, built from docker/*.Dockerfile as they are, in hardened pods of a real kubelet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kfp_components.images import REPOSITORY as KFP
from mlflow_istio.options.base import DEFAULT_IMAGE
from tests.control_plane.namespaces import fresh_namespace
from tests.node.client import apply, kubectl, pod, read, run_pod
from tests.testbed.client import wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
VERSION = DEFAULT_IMAGE.partition(":")[2]
COMMAND_IMAGE = f"mlflow-istio:{VERSION}"
# Says what is wrong with an image, one line each.
LOOK = """
import os, shutil, pathlib
assert os.getuid() != 0, "it runs as root"
for tool in ("gcc", "cc", "make", "git"):
    assert shutil.which(tool) is None, f"{tool} is left"
try:
    pathlib.Path("/x").write_text("")
except OSError:
    pass
else:
    raise AssertionError("its root file system can be written to")
"""
IMPORTS = {
    DEFAULT_IMAGE: "import mlflow, sklearn, uvicorn, mlflow_istio.serving.server, mlflow_istio.serving.recorder",
    COMMAND_IMAGE: "import grpc, hpack, mlflow_istio.cli.__main__, mlflow_istio.adapters.kubernetes, mlflow_istio.verbs.release",
    f"{KFP}:{VERSION}": "import grpc, hpack, kfp, kfp.dsl.executor_main, kfp_components, mlflow_istio.adapters.kubernetes",
}
MOST_BYTES = {DEFAULT_IMAGE: 1_500_000_000, COMMAND_IMAGE: 1_000_000_000, f"{KFP}:{VERSION}": 1_000_000_000}


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with fresh_namespace() as name:
        yield name


@pytest.mark.parametrize("image", IMPORTS)
def test_an_image_runs_without_root_on_a_read_only_root_and_has_what_its_commands_import(
    place: str, image: str
) -> None:
    code = f"{LOOK}\n{IMPORTS[image]}\nimport mlflow_istio; print('it imports')"
    name = image.partition(":")[0]
    assert "it imports" in run_pod(place, name, image, ["python", "-W", "ignore", "-c", code], {"HOME": "/tmp"})


def test_no_image_is_larger_than_it_was_meant_to_be() -> None:
    """As the kubelet counts them, layers uncompressed."""

    def sizes() -> dict[str, int]:
        images = read("node", "node", "default")["status"].get("images") or ()
        return {name.removeprefix("docker.io/library/"): one["sizeBytes"] for one in images for name in one["names"]}

    wait_for("the kubelet to list its images", lambda: set(MOST_BYTES) <= set(sizes()))
    found = {name: sizes()[name] for name in MOST_BYTES}
    print({name: f"{size / 1e6:.0f} MB" for name, size in found.items()})
    assert {name: size for name, size in found.items() if size > MOST_BYTES[name]} == {}


def test_the_command_says_its_version(place: str) -> None:
    said = run_pod(place, "version", COMMAND_IMAGE, ["mlflow-istio", "--version"], {"HOME": "/tmp"})
    assert VERSION in said


def test_the_sweep_starts_in_the_image_that_its_cronjob_names(place: str) -> None:
    """Its own command, account and hardening, once, in a namespace of no endpoint."""
    text = (
        (ROOT / "deploy" / "sweep-cronjob.yaml")
        .read_text(encoding="utf-8")
        .replace("namespace: models", f"namespace: {place}")
    )
    kubectl("apply", "--server-side", "-f", "-", text=text.replace("istio:/models", f"istio:/{place}"))
    kubectl("create", "job", "sweep-now", "--from=cronjob/mlflow-istio-sweep", "-n", place)

    def ended() -> str:
        conditions = read("job", "sweep-now", place)["status"].get("conditions") or ()
        return next((one["type"] for one in conditions if one["type"] in ("Complete", "Failed")), "")

    outcome = wait_for("the sweep to end", ended)
    said = kubectl("logs", "job/sweep-now", "-n", place)
    assert outcome == "Complete", said
    kubectl("delete", "cronjob", "mlflow-istio-sweep", "-n", place)
    (container,) = next(one for one in yaml.safe_load_all(text) if one["kind"] == "CronJob")["spec"]["jobTemplate"][
        "spec"
    ]["template"]["spec"]["containers"]
    assert container["image"] == COMMAND_IMAGE


def test_the_serving_image_serves_a_model_of_the_registry(place: str, server: str) -> None:
    env = {
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_ISTIO_MODEL_URI": "models:/churn/1",
        "MLFLOW_ISTIO_DEPLOYMENT": "churn-v1",
        "HOME": "/tmp",
    }
    body = pod(place, "serves", DEFAULT_IMAGE, ["python", "-m", "mlflow_istio.serving"], env)
    body["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/ping", "port": 8080}, "periodSeconds": 1}
    apply(body)
    kubectl("wait", "--for=condition=Ready", "pod/serves", "-n", place, "--timeout=110s")
    kubectl("delete", "pod", "serves", "-n", place, "--wait=false")
