"""What every call to MLflow has in common: errors mapped once, few retries, and another try where two writers clash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random

from mlflow_istio.errors import RegistryError, masked

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own default keeps a caller waiting for minutes when the server is gone; the change waits on the object
anyway. It also prints where a run can be viewed when one ends, into whatever our caller's output is read by."""


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
    before: dict[str, Any] = {key: os.environ.get(key) for key in _SETTINGS}
    os.environ.update({key: value for key, value in _SETTINGS.items() if before[key] is None})
    try:
        yield
    except MlflowException as exc:
        raise RegistryError(f"could not {doing}: {one_line(exc)}") from exc
    except unreachable as exc:
        raise RegistryError(f"could not {doing}: {one_line(exc)}; is MLFLOW_TRACKING_URI right and reachable?") from exc
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)


def one_line(exc: BaseException) -> str:
    """What an exception says, on one line of bounded length."""
    return masked(" ".join(str(exc).split()))[:300]  # before it is cut, which may part a password from its end


def registry_of(client: MlflowClient) -> str:
    """The address of the registry that a client asks, as everybody may read it."""
    return masked(str(getattr(client, "_registry_uri", None) or client.tracking_uri))
