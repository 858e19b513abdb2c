"""What a method of the client is given, held against what it declares."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_istio.errors import InvalidInput

_TEXTS = {"str": False, "str | None": True}


def check_texts(signature: inspect.Signature, given: Mapping[str, Any]) -> None:
    """Refuse what is no text where a text is declared: a name that is a list would be looked for, and not found in strange words.

    Args:
        signature: Of a method whose module doesn't evaluate annotations.
        given: Its arguments by name.

    Raises:
        InvalidInput: Names the parameter.
    """
    for name, parameter in signature.parameters.items():
        if parameter.annotation in _TEXTS and name in given:
            check_text(name, given[name], optional=_TEXTS[parameter.annotation])


def check_text(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what is no text.

    Args:
        name: What it is.
        value: What was given.
        optional: Whether it may be None.

    Raises:
        InvalidInput: Names it.
    """
    if not isinstance(value, str) and not (optional and value is None):
        raise InvalidInput(f"'{name}' must be a text, not {repr(value)[:40]}")
