"""A database that does not answer is a registry that does not, soon, and is asked again later: no change waits for it twice."""

from __future__ import annotations

import os
from typing import Any

import pytest
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

from mlflow_istio.adapters.mlflow import client_calls
from mlflow_istio.adapters.mlflow.client_calls import LateClient
from mlflow_istio.adapters.mlflow.registry import MlflowRegistry
from mlflow_istio.errors import RegistryError

DATABASE = "postgresql://ada:s3cr3t@127.0.0.1:1/mlflow"


class Connecting:
    """MLflow's client, where making one fails as often as it is told; it notes how it was made."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.made: list[tuple[dict[str, Any], str | None, int]] = []

    def __call__(self, **addresses: str) -> str:
        import mlflow.store.db.utils as stores

        self.made.append((addresses, os.environ.get("PGCONNECT_TIMEOUT"), stores.MAX_RETRY_COUNT))
        if len(self.made) <= self.failures:
            raise ImportError("no such driver")
        return "the client"


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Connecting:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    connecting = Connecting(failures=1)
    monkeypatch.setattr(client_calls, "MlflowClient", connecting)
    return connecting


def test_a_database_is_connected_to_when_it_is_asked_and_given_up_for_a_while(
    connecting: Connecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.store.db.utils as stores

    usual, now = stores.MAX_RETRY_COUNT, 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    client = LateClient(DATABASE, None)
    assert connecting.made == []
    for _ in range(2):
        with pytest.raises(RegistryError, match="could not reach MLflow: no such driver") as refused:
            client()
        assert "s3cr3t" not in str(refused.value)
    assert connecting.made == [({"tracking_uri": DATABASE, "registry_uri": DATABASE}, "10", 3)]
    assert usual == stores.MAX_RETRY_COUNT
    assert os.environ["PGCONNECT_TIMEOUT"] == "0", "libpq's own default, for whatever else the process does"
    now += 61
    assert client() == client() == "the client"
    assert len(connecting.made) == 2


def test_what_needs_no_connection_is_there_at_once(connecting: Connecting) -> None:
    connecting.failures = 0
    assert LateClient("http://127.0.0.1:9", None)() == "the client"
    assert len(connecting.made) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SQLAlchemy's, of MLflow's own queries
def test_a_database_that_is_not_there_is_a_registry_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    registry = MlflowRegistry(DATABASE, None)
    with pytest.raises(RegistryError, match="^could not "):
        registry.history("prod", "churn")


def test_what_a_call_sets_is_there_until_the_last_thread_leaves_and_nothing_is_ever_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries, factor = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"
    monkeypatch.delenv(retries, raising=False)
    monkeypatch.setenv(factor, "5")
    with client_calls.mapped("ask first"):
        assert (os.environ[retries], os.environ[factor]) == ("2", "5")
        with client_calls.mapped("ask in another thread"):
            names = list(os.environ)
        assert os.environ[retries] == "2"
    assert set(names) <= set(os.environ), "whoever goes through the names meanwhile finds them all"
    assert (os.environ[retries], os.environ[factor]) == ("7", "5")

    monkeypatch.setenv(retries, "4")
    with client_calls.mapped("ask when the user has decided"):
        assert os.environ[retries] == "4"
    assert os.environ[retries] == "4"


def test_our_idea_of_what_mlflow_takes_when_nothing_is_set_is_its_own() -> None:
    from mlflow import environment_variables

    for name, value in client_calls._DEFAULTS.items():
        if name.startswith("MLFLOW_"):
            assert str(getattr(environment_variables, name).default).lower() == value


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "foo://ada:s3cr3t@there/x",
            r"MLflow knows no 'foo://[^']*there/x': set MLFLOW_TRACKING_URI .* a tracking server",
        ),
        ("file:///proc/no-registry", "could not reach MLflow: "),
    ],
)
def test_an_address_that_can_not_be_is_said_when_it_is_asked(address: str, said: str) -> None:
    """A rollback goes on without a registry, and a command that asks for none has nothing to say of it."""
    client = LateClient(address, None)
    with pytest.raises(RegistryError, match=said) as refused:
        client()
    assert "s3cr3t" not in refused.value.message
    assert "\n" not in refused.value.message


def test_mlflow_skinny_has_no_store_for_what_it_takes_when_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As mlflow-skinny 3.17 raises it for the address that it takes itself, a file in the working folder."""

    def skinny(**_: str) -> str:
        raise UnsupportedModelRegistryStoreURIException(
            unsupported_uri="sqlite:////home/ada/mlflow.db", supported_uri_schemes=["", "file", "http", "https"]
        )

    monkeypatch.setattr(client_calls, "MlflowClient", skinny)
    with pytest.raises(RegistryError, match=r"mlflow.db' needs all of MLflow, .* pip install 'mlflow-istio\[local\]'"):
        LateClient("sqlite:////home/ada/mlflow.db", None)()
