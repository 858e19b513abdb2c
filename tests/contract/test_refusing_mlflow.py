"""An MLflow that lets nobody in, or whose files can't be had: one line that says what to do, and never that files are gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from mlflow_istio.adapters.mlflow.models import MlflowModels
from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
from mlflow_istio.core.basics.model_version import parse_model_uri
from mlflow_istio.errors import NotFound, RegistryError
from tests.contract.test_registry import a_change
from tests.support.registered_models import register


class _Refusing(BaseHTTPRequestHandler):
    """Plays MLflow's server (3.17, ``--app-name basic-auth``) to a caller whom it refuses: these statuses and texts, no JSON."""

    status, text = 401, "You are not authenticated. Please see https://www.mlflow.org/docs/latest/auth/index.html"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Forbidding(_Refusing):
    status, text = 403, "Permission denied"


@pytest.fixture(params=[_Refusing, _Forbidding], ids=["401", "403"])
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield request.param.status, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_user_whom_mlflow_refuses_is_told_where_its_name_and_rights_come_from(
    refusing: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    status, address = refusing
    registry = MlflowRegistry(address, address)
    says = {401: "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD", 403: "user 'ada' lacks a right there"}[status]
    for call in (
        lambda: registry.history("test", "churn"),
        lambda: registry.record("test", a_change(1, run=None), {}),
        lambda: registry.resolve(parse_model_uri("models:/churn/1")),
        lambda: registry.open_run("test", "churn", None),
        lambda: MlflowModels(address, address).card("churn/1"),
    ):
        with pytest.raises(RegistryError, match=says) as caught:
            call()
        assert "\n" not in caught.value.message
        assert "reachable" not in caught.value.message


class ClientError(Exception):
    """Named and modelled after ``botocore.exceptions.ClientError``, which boto3 raises: of no class that MLflow knows."""


class _LockedStore(ArtifactRepository):
    """A store of files whose client raises errors of its own, as MLflow's repository for S3 lets them through."""

    def _refuse(self) -> Any:
        raise ClientError("An error occurred (AccessDenied) when calling the PutObject operation: Access Denied")

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._refuse()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self._refuse()

    def list_artifacts(self, path: str | None = None) -> Any:
        self._refuse()

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._refuse()


@pytest.fixture
def locked(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry with a model whose files, and a ledger's, are in such a store."""
    known = artifact_repository_registry._artifact_repository_registry
    monkeypatch.setitem(known._registry, "locked", _LockedStore)
    import mlflow

    register(tracking_uri, "churn", 1.0, tmp_path / "artifacts")
    client = mlflow.MlflowClient(tracking_uri, tracking_uri)
    client.create_registered_model("far")
    client.create_model_version("far", "locked://bucket/model")
    client.create_experiment("mlflow-istio/test/churn", artifact_location="locked://bucket/ledger")
    return tracking_uri


def test_what_a_store_of_files_raises_is_an_error_of_the_registry(locked: str) -> None:
    """As a traceback it would end a command whose traffic had moved, with nothing said of the record that waits."""
    registry = MlflowRegistry(locked, locked)
    change = a_change(1, run=registry.open_run("test", "churn", None))
    with pytest.raises(RegistryError, match=r"could not record a routing change: ClientError: An error .*AccessDenied"):
        registry.record("test", change, {"after": {"kind": "VirtualService"}})


def test_files_that_can_not_be_had_now_are_not_said_to_be_gone(locked: str) -> None:
    registry = MlflowRegistry(locked, locked)
    with pytest.raises(RegistryError, match=r"could not read models:/far/1: ClientError: An error .*AccessDenied"):
        registry.resolve(parse_model_uri("models:/far/1"))
    with pytest.raises(RegistryError, match=r"could not read models:/far/1: ClientError: An error .*AccessDenied"):
        MlflowModels(locked, locked).card("far/1")
    with pytest.raises(NotFound, match="there is no registered model 'fra': did you mean 'far'"):
        registry.resolve(parse_model_uri("models:/fra/1"))
