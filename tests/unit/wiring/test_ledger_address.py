"""No ledger in nowhere: where MLflow's own fallback would be a throwaway folder, an unset address is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mlflow_istio.errors import InvalidInput
from mlflow_istio.verbs import Verbs
from mlflow_istio.wiring.connection import connection_to

REFUSED = "no MLflow tracking server is named, .*MLFLOW_TRACKING_URI.* option 'tracking_uri'"
STEP = "_KFP_RUNTIME"
"""kfp/dsl/component_factory.py writes ``_KFP_RUNTIME=true`` before the command of every lightweight component."""


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import mlflow
    from mlflow.tracking._tracking_service import utils

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_ISTIO_TRACKING_URI", STEP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(utils, "_tracking_uri", None)
    folder = tmp_path_factory.mktemp("nowhere")
    monkeypatch.chdir(folder)
    assert not mlflow.tracking.is_tracking_uri_set()
    yield
    assert os.listdir(folder) == [], "no ledger was made"


@pytest.mark.parametrize("registry", [None, "http://registry:5000"])
def test_a_target_on_a_cluster_needs_an_address(registry: str | None) -> None:
    place = connection_to("istio:/models", registry_uri=registry)
    for part in ("registry", "runs", "models"):
        with pytest.raises(InvalidInput, match=f"for a target on a cluster.*{REFUSED[-20:]}"):
            getattr(place, part)
    with pytest.raises(InvalidInput, match=REFUSED):
        place.server_environment()


@pytest.mark.parametrize("target", ["istio:/models", "istio-local:/never-made"])
def test_a_pipelines_step_needs_an_address(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv(STEP, "true")
    with pytest.raises(InvalidInput, match=f"{REFUSED[:35]}.*in a pipeline's step"):
        Verbs(target).update_endpoint("churn", {"weight": 10})
    with pytest.raises(InvalidInput, match=REFUSED):
        Verbs(target).history("churn")


def test_a_variable_an_option_or_mlflows_own_setting_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    connection_to("istio:/models", tracking_uri="http://mlflow:5000").check_ledger()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
        connection_to("istio:/models").check_ledger()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the setter writes it, and this puts it back
    mlflow.set_tracking_uri("http://mlflow:5000")
    connection_to("istio:/models").check_ledger()


def test_on_a_developers_machine_mlflows_own_fallback_is_all_right() -> None:
    connection_to("istio-local").check_ledger()
