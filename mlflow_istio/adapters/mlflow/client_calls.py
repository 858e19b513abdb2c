"""What every call to MLflow has in common: errors mapped once, few retries, and another try where two writers clash."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random

from mlflow_istio.adapters.mlflow.deadlines_of_drivers import given_to_new_engines
from mlflow_istio.errors import RegistryError, masked

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "10",
}
"""MLflow's own default keeps a caller waiting for minutes when the server is gone; the change waits on the object
anyway. It also prints where a run can be viewed when one ends, into whatever our caller's output is read by.

A PostgreSQL that takes the connection and says nothing would keep a caller for ever: libpq's own default is no limit, and it
reads this one where the address has none. Other drivers: ``deadlines_of_drivers``."""


_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "false",
    "PGCONNECT_TIMEOUT": "0",
}
"""What MLflow (``mlflow.environment_variables``) and libpq take when nothing is set. This is what stands there between our calls: a
variable that is taken away while another thread goes through the environment, as ``requests`` does to find a proxy, is a KeyError
there, and one that changes isn't."""

_PAUSE = 60.0
_DATABASES = ("postgresql", "mysql", "mssql")


def _is_unique_clash(exc: BaseException) -> bool:
    # Two writers that create the same key at once on a database without upsert: safe to try again.
    return isinstance(exc, MlflowException) and "UNIQUE constraint failed" in str(exc)


again = retry(
    retry=retry_if_exception(_is_unique_clash), stop=stop_after_attempt(5), wait=wait_random(0.01, 0.1), reraise=True
)


@contextlib.contextmanager
def mapped(doing: str) -> Iterator[None]:
    """Map what MLflow and its stores raise, once, and don't let a dead server keep the caller for minutes.

    Args:
        doing: What is tried, for the message.

    Raises:
        RegistryError: MLflow refused or can't be reached.
    """
    import requests

    unreachable: tuple[type[Exception], ...] = (requests.RequestException, OSError)
    with contextlib.suppress(ImportError):  # mlflow-skinny talks to servers only and has no SQLAlchemy
        import sqlalchemy.exc

        unreachable += (sqlalchemy.exc.SQLAlchemyError,)
    try:
        with _OUR_SETTINGS:
            yield
    except UnsupportedModelRegistryStoreURIException as exc:
        raise RegistryError(f"could not {doing}: {_no_store(exc)}") from exc
    except MlflowException as exc:
        raise RegistryError(f"could not {doing}: {one_line(exc)}{_whose_right(exc.get_http_status_code())}") from exc
    except ImportError as exc:  # a database's driver
        raise RegistryError(f"could not {doing}: {one_line(exc)}: install what MLFLOW_TRACKING_URI needs") from exc
    except unreachable as exc:
        answer = getattr(exc, "response", None)
        hint = _whose_right(0 if answer is None else answer.status_code)
        hint = hint or "; is MLFLOW_TRACKING_URI right and reachable?"
        raise RegistryError(f"could not {doing}: {one_line(exc)}{hint}") from exc
    except Exception as exc:
        # What keeps MLflow's files has a client of its own (boto3, google-cloud-storage, ...), whose errors MLflow lets through.
        if type(exc).__module__.partition(".")[0] in ("builtins", "mlflow_istio"):
            raise
        raise RegistryError(f"could not {doing}: {type(exc).__name__}: {one_line(exc)}") from exc


def _whose_right(status: int) -> str:
    """What to do where MLflow refused the user, by the answer's status; else empty."""
    if status == HTTPStatus.UNAUTHORIZED:
        return "; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) say who asks"
    if status == HTTPStatus.FORBIDDEN:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        who = f"user {user!r}" if user else "who asks"
        return f"; {who} lacks a right there, which an administrator of MLflow gives"
    return ""


def _no_store(exc: Exception) -> str:
    """What to do about an address that this MLflow has no store for: mlflow-skinny has none for a database, its own default."""
    given = re.search(r"URI '([^']*)'", str(exc))
    address = masked(given[1]) if given else "what MLFLOW_TRACKING_URI says"
    if address.startswith(("sqlite:", *_DATABASES)):
        return (
            f"'{address}' needs all of MLflow, and mlflow-skinny is installed: pip install 'mlflow-istio[local]', or set "
            "MLFLOW_TRACKING_URI to a tracking server (http://...)"
        )
    return (
        f"MLflow knows no '{address}': set MLFLOW_TRACKING_URI (and MLFLOW_REGISTRY_URI) to a tracking server (http://...) or a "
        "database (sqlite:///..., postgresql://...)"
    )


class _Settings:
    """Our settings while any thread is inside; what the user has set stays, also when it is set meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._left: dict[str, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self._put(_SETTINGS)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._put(_DEFAULTS)

    def _put(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            if os.environ.get(key) in (None, self._left.get(key)):  # nobody's, or ours
                os.environ[key] = self._left[key] = value


_OUR_SETTINGS = _Settings()


class LateClient:
    """MLflow's client; for a database of another machine one that is made when it is first asked.

    An address that can't be is said when it is first asked, too: a rollback goes on without a registry.

    MLflow connects when it makes such a client, and tries ten times over minutes; we let it try three times, and what could not be
    reached is not tried again for a minute. A rollback doesn't wait for more than that.

    Args:
        tracking_uri: Tracking server or database; None: MLflow's own setting.
        registry_uri: Model registry; None: MLflow's own setting.
    """

    def __init__(self, tracking_uri: str | None, registry_uri: str | None) -> None:
        tracking = tracking_uri or mlflow.get_tracking_uri()
        registry = registry_uri or (tracking if tracking_uri else mlflow.get_registry_uri())
        self._addresses = {"tracking_uri": tracking, "registry_uri": registry}
        self._client: MlflowClient | None = None
        if not any(address.startswith(_DATABASES) for address in self._addresses.values()):
            with contextlib.suppress(RegistryError), mapped("reach MLflow"):
                self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)
        self._failed: RegistryError | None = None
        self._failed_at = 0.0

    def __call__(self) -> MlflowClient:
        """The client.

        Raises:
            RegistryError: MLflow can't be reached.
        """
        if self._client is None:
            if self._failed is not None and time.monotonic() - self._failed_at < _PAUSE:
                raise self._failed
            try:
                with mapped("reach MLflow"), _few_tries():
                    client = MlflowClient(**self._addresses)
                    # MLflow makes this one when it is first asked, which is too late for what holds here.
                    getattr(client, "_get_registry_client", lambda: None)()
                    self._client = client
            except RegistryError as exc:
                self._failed, self._failed_at = exc, time.monotonic()
                raise
        return self._client


@contextlib.contextmanager
def _few_tries() -> Iterator[None]:
    """Let MLflow connect to a database three times, not ten, and give what it makes a limit."""
    try:
        import mlflow.store.db.utils as stores
    except ImportError:
        yield
        return
    before = getattr(stores, "MAX_RETRY_COUNT", None)
    stores.MAX_RETRY_COUNT = 3
    try:
        with given_to_new_engines(stores):
            yield
    finally:
        stores.MAX_RETRY_COUNT = before


def one_line(exc: BaseException) -> str:
    """What an exception says, on one line of bounded length."""
    return masked(" ".join(str(exc).split()))[:300]  # before it is cut, which may part a password from its end


def registry_of(client: MlflowClient) -> str:
    """The address of the registry that a client asks, as everybody may read it."""
    return masked(str(getattr(client, "_registry_uri", None) or client.tracking_uri))
