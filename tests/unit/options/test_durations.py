"""Seconds and durations as a user may write them, in every option that takes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import create_model
from pydantic.fields import FieldInfo

from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import parse_options
from mlflow_istio.options.release import ReleaseOptions
from tests.support.option_effects import OPTIONS


def _reader(field: FieldInfo) -> Callable[[Any], Any]:
    model = create_model("Alone", value=(field.annotation, field))
    return lambda value: model(value=value).value  # type: ignore[attr-defined]


IN_SECONDS = [
    pytest.param(field, id=f"{verb}-{name}")
    for verb, options in OPTIONS.items()
    for name, field in options.model.model_fields.items()
    if re.search(r"\bseconds\b", field.description or "")
]


def test_there_are_such_options() -> None:
    assert len(IN_SECONDS) > 15


@pytest.mark.parametrize("field", IN_SECONDS)
def test_an_option_in_seconds_takes_a_duration(field: FieldInfo) -> None:
    read = _reader(field)
    assert read("90s") == read("1m30s") == read("90") == read(90) == 90


def test_days_are_durations_too() -> None:
    options = parse_options(ReleaseOptions, {"deadline": "1.5d", "hold": " 1h "}, cluster="istio")
    assert (options.deadline, options.hold) == (129600, 3600)


@pytest.mark.parametrize("value", ["90x", "s", "1m30", "-5s", "ten", "1h 5", ""])
def test_what_is_neither_is_refused_with_the_options_name(value: str) -> None:
    with pytest.raises(InvalidInput, match="option 'hold'"):
        parse_options(ReleaseOptions, {"hold": value}, cluster="istio")


def test_what_is_out_of_bounds_is_refused_in_any_spelling() -> None:
    with pytest.raises(InvalidInput, match="option 'deadline'"):
        parse_options(ReleaseOptions, {"deadline": "31d"}, cluster="istio")
    with pytest.raises(InvalidInput, match="option 'interval'"):
        parse_options(ReleaseOptions, {"interval": "100ms"}, cluster="istio")
