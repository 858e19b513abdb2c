"""MLflow's addresses on their way to model servers: a password in one is never written into a manifest."""

from __future__ import annotations

import os

import pytest

from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import CreateOptions
from mlflow_istio.verbs.deployments import deploy_request
from mlflow_istio.wiring.connection import Connection, without_passwords
from tests.support.mlflow_addresses import mlflow_at

SECRET = "http://ada:secret@mlflow.example"
PLAIN = "http://mlflow.example"


def place(target: str, tracking: str | None = None, registry: str | None = None) -> Connection:
    return Connection(target=parse_target(target), tracking_uri=tracking, registry_uri=registry)


def test_an_address_without_a_password_is_what_pods_get() -> None:
    assert place("istio:/models", PLAIN).server_environment() == {
        "MLFLOW_TRACKING_URI": PLAIN,
        "MLFLOW_REGISTRY_URI": PLAIN,
    }


@pytest.mark.parametrize(("tracking", "registry"), [(SECRET, None), (PLAIN, SECRET)])
def test_one_with_a_password_is_refused_for_pods_and_points_to_a_secret(tracking: str, registry: str | None) -> None:
    with pytest.raises(
        InvalidInput, match=r'env_from_secret=\{"MLFLOW_(TRACKING|REGISTRY)_URI": "SECRET/KEY"\}'
    ) as refused:
        place("istio:/models", tracking, registry).server_environment()
    assert "secret@" not in refused.value.message
    assert "http://***@mlflow.example" in refused.value.message


def test_what_comes_from_a_secret_is_not_written_at_all() -> None:
    assert place("istio:/models", SECRET).server_environment({"MLFLOW_TRACKING_URI": "mlflow/uri"}) == {}
    options = CreateOptions.model_validate({"image": "i", "env_from_secret": {"MLFLOW_TRACKING_URI": "mlflow/uri"}})
    request = deploy_request(place("istio:/models", SECRET), options, "m-v1", "m", "models:/m/1")
    assert ":secret@" not in str(request)


def test_it_is_refused_among_the_variables_of_the_user_too() -> None:
    with pytest.raises(InvalidInput, match="MLFLOW_TRACKING_URI .*env_from_secret"):
        without_passwords({"MLFLOW_TRACKING_URI": SECRET})
    assert without_passwords({"OTHER": SECRET}) == {"OTHER": SECRET}


def test_on_the_local_mesh_processes_inherit_it() -> None:
    with mlflow_at(SECRET):
        assert place("istio-local").server_environment() == {}
        assert os.environ["MLFLOW_TRACKING_URI"] == SECRET
    assert place("istio-local", SECRET, PLAIN).server_environment() == {"MLFLOW_REGISTRY_URI": PLAIN}
