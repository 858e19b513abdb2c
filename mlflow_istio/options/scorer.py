"""The option ``scorer``: a built-in one, ``package.module:function``, or a Python callable.

A function by name is checked as text where options are read, and imported where it is called: the machine that compiles a
pipeline need not have it.
"""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow_istio.core.analysis.text_scores import Scorer

DEFAULT = "edit"
BUILT_IN = ("edit", "json", "length", "tokens")
_NAMED = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def check_scorer(value: Any) -> Any:
    """What may be given as a scorer.

    Raises:
        InvalidInput: It is neither a callable, nor one of ``BUILT_IN``, nor ``package.module:function``.
    """
    if value is None or callable(value) or value in BUILT_IN:
        return value
    if not isinstance(value, str):
        raise InvalidInput(f"it must be a name or a callable, not {type(value).__name__}")
    if not _NAMED.fullmatch(value):
        raise InvalidInput(f"{value!r} is neither package.module:function nor built in: {nearest(value, BUILT_IN)}")
    return value


def scorer_of(value: Any) -> Scorer:
    """The scorer that a checked value means; None is the default.

    Raises:
        InvalidInput: Its module can't be imported here, or has no such function.
    """
    from mlflow_istio.core.analysis.text_scores import SCORERS, Scorer

    if value is None:
        return SCORERS[DEFAULT]
    if callable(value):
        name = f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', type(value).__qualname__)}"
        return Scorer(name=name, score=value)
    if value in SCORERS:
        return SCORERS[value]
    return Scorer(name=value, score=_imported(value))


def _imported(value: str) -> Any:
    module_name, _, path = value.partition(":")
    try:
        with _working_folder():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        raise InvalidInput(
            f"option 'scorer': there is no module {str(exc.name or module_name)!r} for {value!r} in {sys.executable}: install it "
            "where this command runs, or start the command in its folder"
        ) from exc
    except (Exception, SystemExit) as exc:  # its code runs here: anything can come out
        reason = " ".join(str(exc).split())[:200]
        raise InvalidInput(
            f"option 'scorer': importing {module_name!r} failed: {type(exc).__name__}: {reason}"
        ) from exc
    scorer: Any = module
    for name in path.split("."):
        if not hasattr(scorer, name):
            functions = [
                word for word in dir(scorer) if not word.startswith("_") and callable(getattr(scorer, word, None))
            ]
            raise InvalidInput(f"option 'scorer': {value!r} has no {name!r}: {nearest(name, functions)}")
        scorer = getattr(scorer, name)
    if not callable(scorer):
        raise InvalidInput(f"option 'scorer': {value!r} is no function but {type(scorer).__name__}")
    return scorer


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the folder in which the command runs, too: a script has its own folder in its place. Installed ones come first."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
