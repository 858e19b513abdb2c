"""Flags made from the models of options: name, flag or value, required or not, and help stand in the field and nowhere else.

The models need pydantic, whose import takes longer than all else that the command does at its start: a command's flags are made
when it is parsed or explained, which is when its verb needs the models, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from mlflow_istio.cli.options import Command

if TYPE_CHECKING:
    from pydantic import BaseModel


class VerbCommand(click.Command):
    """A command that takes flags made from a model."""

    _params: list[click.Parameter]

    @property
    def params(self) -> list[click.Parameter]:
        """Arguments and flags; those of models are made now."""
        self._params = [param.made() if isinstance(param, ModelFlag) else param for param in self._params]
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = params


class ModelFlag(click.Option):
    """Stands for a flag until somebody asks for it.

    Args:
        param_decls: The flag.
        model: Module below ``mlflow_istio.options`` and model, such as ``release:ReleaseOptions``.
        defaults: Whether help names the default.
        attributes: As for ``click.Option``.
    """

    def __init__(self, param_decls: Sequence[str], *, model: str, defaults: bool, **attributes: Any) -> None:
        super().__init__(param_decls, **attributes)
        self.model = model
        self.defaults = defaults

    def made(self) -> click.Option:
        """The flag; what it is given is text, which the model reads as it does that of ``-C``."""
        from mlflow_istio.options.help_text import default_word, sentence

        field = model_named(self.model).model_fields[str(self.name)]
        text = sentence(field)
        if field.annotation is bool:
            return click.Option(self.opts, is_flag=True, help=text, hidden=self.hidden)
        if self.defaults and default_word(field):
            text += f"  [default: {default_word(field)}]"
        return click.Option(self.opts, default=None, required=field.is_required(), help=text, hidden=self.hidden)


def options_of(model: str, *names: str, hidden: bool = False, defaults: bool = True) -> Callable[[Command], Command]:
    """Flags for some fields of a model, on a command of the class ``VerbCommand``.

    Args:
        model: Module below ``mlflow_istio.options`` and model, such as ``release:ReleaseOptions``.
        names: The fields.
        hidden: Whether help leaves them out.
        defaults: Whether help names their defaults; not where something else stands in for what is not given.
    """

    def add(command: Command) -> Command:
        for name in reversed(names):
            flag = "--" + name.replace("_", "-")
            command = click.option(flag, cls=ModelFlag, model=model, hidden=hidden, defaults=defaults)(command)
        return command

    return add


def model_named(name: str) -> type[BaseModel]:
    """A model by module and name."""
    module, _, model = name.partition(":")
    options_model: type[BaseModel] = getattr(import_module(f"mlflow_istio.options.{module}"), model)
    return options_model
