from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_istio.plugin import IstioDeploymentClient
from tests.models import register
from tests.scenarios.place import Place


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
    import mlflow

    folder = tmp_path_factory.mktemp("place")
    database = folder / "mlflow.db"
    shutil.copy(_fresh_database, database)
    uri = f"sqlite:///{database}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ISTIO_HOME", str(folder / "meshes"))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_REGISTRY_URI", uri)
        patch.chdir(folder)
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        for answer in (1.0, 2.0, 3.0):
            register(uri, "m", answer, folder / "artifacts")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield from _deployed(request.param, uri)
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def _deployed(target: str, uri: str) -> Iterator[Place]:
    if target != "istio-local":
        _make_namespace("scenarios")
    client = IstioDeploymentClient(target)
    place = Place(target=target, client=client, tracking_uri=uri)
    try:
        for version in (1, 2, 3):
            client.create_deployment(
                f"m-v{version}", f"models:/m/{version}", endpoint="m", config={"ready_timeout": 120}
            )
        yield place
    finally:
        client.delete_endpoint("m", {"force": True})
        if target == "istio-local":
            from mlflow_istio.core.target import parse_target
            from mlflow_istio.wiring import local_mesh

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
    return place
