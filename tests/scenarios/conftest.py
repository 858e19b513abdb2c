from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.client.plugin import IstioDeploymentClient
from tests.scenarios.place import Place
from tests.support.mlflow_addresses import mlflow_at
from tests.support.mlflow_server import tracking_server
from tests.support.registered_models import register


@pytest.fixture(
    scope="package",  # its addresses stand in the environment, which other tests must not see
    params=[
        pytest.param("istio-local", marks=pytest.mark.e2e),
        pytest.param("istio:/scenarios", marks=pytest.mark.control_plane),
    ],
)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _fresh_database: Path
) -> Iterator[Place]:
    """One endpoint with three deployed versions, for all scenarios; each leaves it as it likes."""
    folder = tmp_path_factory.mktemp("place")
    database = folder / "mlflow.db"
    shutil.copy(_fresh_database, database)
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        on_cluster = request.param != "istio-local"
        uri = f"sqlite:///{database}"
        if on_cluster:  # a pod has a /tmp of its own, as it has on any cluster: it asks a tracking server
            uri = stack.enter_context(tracking_server(folder, "10.244.0.1"))
        patch.setenv("MLFLOW_ISTIO_HOME", str(folder / "meshes"))
        patch.setenv("MLFLOW_ISTIO_PINS", "open")  # what is asked of every version, by plain requests
        patch.chdir(folder)
        stack.enter_context(mlflow_at(uri))
        for answer in (1.0, 2.0, 3.0):
            register(uri, "m", answer, None if on_cluster else folder / "artifacts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            records = Path("/tmp/records") if on_cluster else folder / "records"
            patch.setenv("MLFLOW_ISTIO_ENVOY_URL", os.environ.get("GATEWAY_ADMIN_URL", ""))
            yield from _deployed(request.param, uri, records)


def _deployed(target: str, uri: str, records: Path) -> Iterator[Place]:
    if target != "istio-local":
        _make_namespace("scenarios")
    client = IstioDeploymentClient(target)
    recording = {"MLFLOW_ISTIO_RECORD": "1", "MLFLOW_ISTIO_RECORD_DIR": str(records)}
    place = Place(target=target, client=client, tracking_uri=uri, recording=recording)
    try:
        for version in (1, 2, 3):
            client.create_deployment(
                f"m-v{version}", f"models:/m/{version}", endpoint="m", config={"ready_timeout": 120, "env": recording}
            )
        yield place
    finally:
        client.delete_endpoint("m", {"force": True})
        if target == "istio-local":
            from mlflow_istio.core.basics.target import parse_target
            from mlflow_istio.wiring.connection import local_mesh

            assert os.environ["MLFLOW_ISTIO_HOME"]
            local_mesh(parse_target(target)).down(purge=True)


def _make_namespace(name: str) -> None:
    """A namespace of the testbed's API server; the testbed, and so the namespace, lives as long as the test session."""
    from kubernetes import client, config

    with config.new_client_from_config() as api:
        client.CoreV1Api(api).create_namespace({"metadata": {"name": name}})


@pytest.fixture
def settled(place: Place) -> Place:
    """The place with all traffic on m-v1, nothing open, whatever the scenario before did."""
    found = place.client.get_endpoint("m")
    if found["release"]:
        found = place.do(action="abort")
    if found["stable"] != "m-v1":
        place.do(strategy="canary", candidate="m-v1")
        place.do(action="promote")
    if (
        place.client.history("m")[-1]["action"] == "promote"
    ):  # it may be repeated: "no open release" would not be the answer
        place.do(strategy="canary", candidate="m-v2")
        place.do(action="abort")
    return place
