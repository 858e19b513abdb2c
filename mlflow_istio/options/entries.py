"""What stands inside an option that is JSON: numbers and lists, each refused by the name of its place."""

from __future__ import annotations

import math
from typing import Any

from mlflow_istio.core.basics.stored import shortened
from mlflow_istio.errors import InvalidInput


def number_at(place: str, value: Any) -> float:
    """A finite number, or a text that is one.

    Args:
        place: Where it stands, such as ``option 'analysis': margin of guard 'errors'``.
        value: What was given.

    Raises:
        InvalidInput: It is none; names the place.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidInput(f"{place} must be a number, not {shortened(repr(value))}")
    return number


def above_zero_at(place: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        InvalidInput: It is none; names the place.
    """
    number = number_at(place, value)
    if number <= 0:
        raise InvalidInput(f"{place} must be above 0, got {number:g}")
    return number


def list_at(place: str, value: Any) -> list[Any]:
    """A list's items.

    Raises:
        InvalidInput: It is no list; names the place.
    """
    if not isinstance(value, (list, tuple)):
        raise InvalidInput(f"{place} must be a list, not {shortened(repr(value))}")
    return list(value)


def text_at(place: str, value: Any) -> str:
    """A text that says something.

    Raises:
        InvalidInput: It is none; names the place.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{place} must be a text, not {shortened(repr(value))}")
    return value
