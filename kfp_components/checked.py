"""Components whose constant arguments are checked when the pipeline is compiled, not an hour later in its step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kfp import dsl
from kfp.dsl import pipeline_task, python_component

from mlflow_istio.errors import MlflowIstioError

IMAGE = "mlflow-istio-kfp:0.1.0"
"""Image of every step; its tag is the package's version, since a step's body only calls what is installed there."""

Check = Callable[[Mapping[str, Any]], object]
"""Gets the arguments that are constants; raises one of our errors for a wrong one."""


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
        try:
            self._check({name: value for name, value in kwargs.items() if is_constant(value)})
        except MlflowIstioError as exc:
            raise ValueError(f"{self.name}: {exc.message}") from exc
        task = super().__call__(*args, **kwargs)
        if task.state is pipeline_task.TaskState.FUTURE:
            task.set_caching_options(False)
        return task


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
