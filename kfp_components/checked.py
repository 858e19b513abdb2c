"""Components whose constant arguments are checked when the pipeline is compiled, not an hour later in its step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kfp import dsl
from kfp.dsl import pipeline_channel, pipeline_task, python_component

from kfp_components.images import DEFAULT_IMAGE, step_image
from mlflow_istio.errors import MlflowIstioError

IMAGE = DEFAULT_IMAGE
"""Image of a step where nobody says another: ``step_image`` knows which one is used."""

Check = Callable[[Mapping[str, Any]], object]
"""Gets the arguments that are constants, and as ``later`` the names of the others; raises one of our errors for a wrong one."""

_PLACEHOLDER = re.compile(r"\{\{\$\.(?!workspace_path\}\})[a-z_]+\}\}")
"""What KFP replaces by the run's id and the like: only where it is all of a parameter (``driver/resolve.go``, RuntimeValue)."""


_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "String": ((str,), "a text"),
    "Integer": ((int,), "a whole number"),
    "Float": ((float,), "a number with a point, such as 5.0"),
    "Boolean": ((bool,), "True or False"),
    "Dict": ((Mapping,), "a dict itself, not its JSON"),
    "List": ((list, tuple), "a list itself, not its JSON"),
}
"""What a constant must be for a parameter of KFP's type, and how that is said."""


class CheckedComponent(python_component.PythonComponent):  # type: ignore[misc]
    """A component of ours: constants are checked at once, and its steps are never served from a cache.

    A step that changes something, or reads what changes, has nothing to do with what an earlier pipeline found.
    """

    def __init__(self, made: Any, check: Check) -> None:
        super().__init__(component_spec=made.component_spec, python_func=made.python_func)
        self._check = check

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the task.

        Raises:
            ValueError: A constant that can't be right; names the component and the option.
        """
        for name, value in kwargs.items():
            self._check_placeholders(name, value)
        constants = {name: value for name, value in kwargs.items() if is_constant(value)}
        for name, value in constants.items():
            self._check_type(name, value)
        try:
            self._check({**constants, "later": frozenset(kwargs) - frozenset(constants)})
        except MlflowIstioError as exc:
            raise ValueError(f"{self.name}: {exc.message}") from exc
        task = super().__call__(*args, **kwargs)
        if task.state is pipeline_task.TaskState.FUTURE:
            task.set_caching_options(False)
            task.set_container_image(step_image())
        return task

    def _check_type(self, name: str, value: Any) -> None:
        """Refuse a constant of another type than the parameter's: what checks values takes their types for granted.

        Raises:
            ValueError: Names the parameter, and says what to give instead.
        """
        spec = (self.component_spec.inputs or {}).get(name)
        types, words = _TYPES.get(spec.type if spec else "", ((), ""))
        if value is None:
            raise ValueError(f"{self.name}: '{name}' is None: leave it out where nothing is meant")
        if types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise ValueError(f"{self.name}: '{name}' can't be {value!r}: it must be {words}")

    def _check_placeholders(self, name: str, value: Any) -> None:
        """Refuse what KFP would not fill in, or would paste as text that breaks the step's input.

        Raises:
            ValueError: Names the parameter, and says what to give instead.
        """
        for where, leaf in _leaves(name, value):
            nested = where != name
            for channel in pipeline_channel.extract_pipeline_channels_from_any(leaf):
                whole = isinstance(leaf, pipeline_channel.PipelineChannel) and not nested
                if not whole and str(channel.channel_type).upper() in ("STRUCT", "LIST", "DICT"):
                    raise ValueError(
                        f"{self.name}: {where} holds the list or dict '{channel.name}' of the pipeline, which KFP pastes as text: "
                        f"make all of '{name}' one parameter, or the output of a step"
                    )
            held = _PLACEHOLDER.search(leaf) if isinstance(leaf, str) else None
            if held and (nested or leaf != held.group()):
                raise ValueError(
                    f"{self.name}: {where} holds {held.group()} inside something else, where Kubeflow's backend leaves it as it "
                    "is: give it alone, as a parameter of its own"
                )


def component(check: Check) -> Callable[[Callable[..., Any]], CheckedComponent]:
    """Make a component of a function whose body imports the installed package.

    Args:
        check: What to check constants with.
    """

    def make(function: Callable[..., Any]) -> CheckedComponent:
        return CheckedComponent(dsl.component(base_image=IMAGE, install_kfp_package=False)(function), check)

    return make


def is_constant(value: Any) -> bool:
    """Whether an argument is known when the pipeline is compiled: no output, no pipeline parameter, no placeholder in a text."""
    if isinstance(value, str):
        return "{{" not in value
    if isinstance(value, Mapping):
        return all(is_constant(key) and is_constant(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_constant(inner) for inner in value)
    return isinstance(value, (int, float, bool)) or value is None


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside a value, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{where}[{str(key)!r}]", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(f"{where}[{index}]", inner)
    else:
        yield where, value
