"""The files of a model version, told apart: there, gone, or not to be had now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_istio.errors import NotFound

MODEL_FILE = "MLmodel"


def read_model(uri: str, source: str, scratch: str | None = None) -> tuple[Any, frozenset[str]]:
    """What a version's own MLmodel file says (``mlflow.models.Model``), and the names of files and folders beside it.

    Args:
        uri: The version, for the message.
        source: Where its files are.
        scratch: Folder to download to; None: one of MLflow's.

    Raises:
        NotFound: They are gone. What else MLflow and the client of a store of files raise comes out as it is.
    """
    import mlflow.artifacts
    import mlflow.models

    with _gone(uri, source):
        present = frozenset(file.path.rpartition("/")[2] for file in mlflow.artifacts.list_artifacts(source))
        if MODEL_FILE not in present:
            raise FileNotFoundError(MODEL_FILE)
        return mlflow.models.Model.load(_downloaded(source, MODEL_FILE, scratch)), present


def read_text(uri: str, source: str, path: str, scratch: str) -> str:
    """The text of one of a version's files.

    Raises:
        NotFound: As ``read_model``.
    """
    with _gone(uri, source):
        return Path(_downloaded(source, path, scratch)).read_text(encoding="utf-8")


def _downloaded(source: str, path: str, scratch: str | None) -> str:
    import mlflow.artifacts

    return str(mlflow.artifacts.download_artifacts(artifact_uri=f"{source.rstrip('/')}/{path}", dst_path=scratch))


@contextlib.contextmanager
def _gone(uri: str, source: str) -> Iterator[None]:
    """Say that files are gone where they are: a missing right, or a store that is down, is none of that."""
    try:
        yield
    except (MlflowException, OSError) as exc:
        if isinstance(exc, MlflowException):
            gone = exc.error_code == "RESOURCE_DOES_NOT_EXIST"
        else:
            status = getattr(getattr(exc, "response", None), "status_code", None)
            gone = isinstance(exc, FileNotFoundError) or status == HTTPStatus.NOT_FOUND
        if not gone:
            raise
        raise NotFound(f"the files of {uri} are gone from {source}: restore them or register the model again") from exc
