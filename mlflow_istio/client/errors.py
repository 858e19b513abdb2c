"""Our errors as MLflow and its command line know errors: mapped here and only here."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import click
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from mlflow_istio import errors
from mlflow_istio.client.arguments import check_texts
from mlflow_istio.showing.interruption import INTERRUPTED, LAST_LINE, ended_as_by_ctrl_c

_CODES: Mapping[type[errors.MlflowIstioError], int] = {
    errors.InvalidInput: codes.INVALID_PARAMETER_VALUE,
    errors.NotFound: codes.RESOURCE_DOES_NOT_EXIST,
    errors.StateConflict: codes.RESOURCE_CONFLICT,
    errors.Unsupported: codes.NOT_IMPLEMENTED,
    errors.EditConflict: codes.RESOURCE_CONFLICT,
    errors.Forbidden: codes.PERMISSION_DENIED,
    errors.NotReady: codes.TEMPORARILY_UNAVAILABLE,
    errors.NotRouted: codes.TEMPORARILY_UNAVAILABLE,
    errors.ClusterError: codes.INTERNAL_ERROR,
    errors.RegistryError: codes.TEMPORARILY_UNAVAILABLE,
    errors.MlflowIstioError: codes.INTERNAL_ERROR,
}

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")


class IstioDeploymentError(MlflowException, click.ClickException):  # type: ignore[misc]  # MLflow has no types
    """An error of this package as MLflow and its command line know errors.

    Args:
        error: The error it stands for.
    """

    exit_code = 1

    def __init__(self, error: errors.MlflowIstioError) -> None:
        click.ClickException.__init__(self, str(error))
        MlflowException.__init__(self, str(error), error_code=error_code_of(error))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: the message, which names the thing and what to do."""
        return [f"{type(self).__name__}: {self.message}"]


def error_code_of(error: errors.MlflowIstioError) -> int:
    """MLflow's error code for an error of ours: that of the nearest class in the tree."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


@contextlib.contextmanager
def mlflow_errors() -> Iterator[None]:
    """Let our errors out of the block as ``IstioDeploymentError``; the mlflow command ends with a word when it is interrupted."""
    if not _in_mlflows_command():
        with _mlflow_errors():
            yield
        return
    try:
        with ended_as_by_ctrl_c(), _mlflow_errors():
            yield
    except KeyboardInterrupt:
        click.echo(f"\n{LAST_LINE}", err=True)
        raise SystemExit(INTERRUPTED) from None


def _in_mlflows_command() -> bool:
    """Whether MLflow's own command asks; another program that click runs ends in its own way."""
    context = click.get_current_context(silent=True)
    commands = sys.modules.get("mlflow.cli")
    return context is not None and context.find_root().command is getattr(commands, "cli", None)


@contextlib.contextmanager
def _mlflow_errors() -> Iterator[None]:
    try:
        yield
    except errors.MlflowIstioError as exc:
        raise IstioDeploymentError(exc) from exc


def mapped(function: Function) -> Function:
    """The function, whose errors of ours come out as ``IstioDeploymentError``, as do texts that are none."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_mlflow_errors(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        with mlflow_errors():
            check_texts(signature, given)
            return function(*args, **kwargs)

    return cast(Function, with_mlflow_errors)


def mapped_iterator(items: Iterator[Item]) -> Iterator[Item]:
    """The items, with errors of ours on the way as ``IstioDeploymentError``."""
    with mlflow_errors():
        yield from items
