"""The client's methods as bindings of the verbs: a method says its name, its signature and what it does for whom; the verb does it.

A method's body is never run. People, IDEs and type checkers see the signature and the docstring that stand there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import click

from mlflow_istio.client.arguments import check_texts
from mlflow_istio.client.display import view_of
from mlflow_istio.client.errors import mlflow_errors
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.errors import InvalidInput

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def shown(result: Any) -> dict[str, Any]:
    """The result's view; a dry run prints its difference, and the mlflow command ends there instead of claiming it was done."""
    view: dict[str, Any] = view_of(result.view)
    if result.pending and click.get_current_context(silent=True) is not None:
        click.echo(result.pending)
    if result.difference is None:
        return view
    click.echo(result.difference or "nothing would change")
    click.echo("dry run: nothing was changed")
    if click.get_current_context(silent=True) is not None:
        raise click.exceptions.Exit(0)
    return {**view, "difference": result.difference}


def plain(value: Any) -> Any:
    """What the verb returns, as it is."""
    return value


def binding_of(
    verb: str, *, returns: Callable[[Any], Any] = plain, **fixed: Any
) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Make a declared method call a verb, and let our errors out as MLflow's.

    A parameter that the verb has, too, is handed on by name (``endpoint`` is what some verbs call ``name``); every other one is an
    option, left out where it is None.

    Args:
        verb: Name of the method of ``Verbs``.
        returns: What the client makes of the verb's result.
        fixed: Options that the method stands for.
    """

    def bind(declared: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(declared)
        variadic = [name for name, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD]

        @functools.wraps(declared)
        def method(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            options = dict(fixed)
            for name in variadic:
                options |= given.pop(name)
            call = getattr(given.pop("self")._verbs, verb)
            with mlflow_errors():
                check_texts(signature, given)
                result: Returned = returns(call(**arguments_of(call, given, options)))
                return result

        return method

    return bind


def arguments_of(verb: Callable[..., Any], given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A verb's arguments from those of a method.

    Args:
        verb: The verb.
        given: The method's own arguments by name.
        options: Options that it was given beside them.

    Raises:
        InvalidInput: The verb takes no options, and one was given.
    """
    takes = inspect.signature(verb).parameters
    named = {("name" if name == "endpoint" and name not in takes else name): value for name, value in given.items()}
    arguments = {name: value for name, value in named.items() if name in takes}
    further = {name: value for name, value in named.items() if name not in takes and value not in (None, "")}
    if "config" in takes:
        return {"config": {**further, **options}, **arguments}
    beside = {**further, **options}
    unknown = [name for name in beside if name not in takes]
    if unknown:
        free = [name for name in takes if name not in arguments and name != "self"]
        raise InvalidInput(f"unknown option '{unknown[0]}': {nearest(unknown[0], free)}")
    return {**arguments, **beside}
