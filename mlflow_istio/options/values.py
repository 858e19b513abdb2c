"""The types of options: how each kind of value is read from a text of the command line or from Python, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from mlflow_istio.core.analysis.source_names import check_source
from mlflow_istio.core.basics.durations import check_duration, seconds_of
from mlflow_istio.core.basics.names import (
    check_alias,
    check_environment,
    check_export_to,
    check_host,
    check_image,
    nearest,
)
from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.mesh.pods import check_resources, check_secret_reference
from mlflow_istio.core.policy.settings import FAULTS
from mlflow_istio.core.runtime.runtime import texts
from mlflow_istio.errors import InvalidInput, MlflowIstioError

_DAYS = re.compile(r"(\d+(?:\.\d+)?)d")

NONE = "none"
"""What a setting is set to to take it away."""


def _own_words(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A check of ours as pydantic takes it; its message stands as it is."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except MlflowIstioError as exc:
            raise ValueError(exc.message) from exc

    return validate


@dataclass(frozen=True, kw_only=True, slots=True)
class ByTarget:
    """What an option is that nobody says, by the kind of target; stands in the option's type, and its default is None.

    Attributes:
        local: On the local mesh.
        cluster: On a cluster.
    """

    local: Any
    cluster: Any

    def on(self, target: str) -> Any:
        """The value on a kind of target."""
        return self.local if target == "istio-local" else self.cluster


def checked(check: Callable[[Any], Any]) -> AfterValidator:
    """A check of ours, made once the value has its type."""
    return AfterValidator(_own_words(check))


Source = Annotated[str, checked(check_source)]
"""The name of a source of figures: one of ours, or one that an installed package brings."""


def read_by(read: Callable[[Any], Any]) -> BeforeValidator:
    """How a value of this type is read; what it raises of ours is the message."""
    return BeforeValidator(_own_words(read))


def _json(value: Any) -> Any:
    """Structured values arrive as JSON text from the command line."""
    if not isinstance(value, str):
        return value
    try:
        return parsed(value, "it")
    except InvalidInput as exc:
        raise ValueError(exc.message) from exc


def json_or_text(value: Any) -> Any:
    """JSON where a text looks like it, else the value as it is."""
    return _json(value) if isinstance(value, str) and value.lstrip().startswith(("{", "[")) else value


def _whole(value: Any) -> Any:
    """A weight as the command line or Python gives it; ``true`` and 10.5 are no weights."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError("it must be a whole number from 0 to 100")
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError as exc:
            raise ValueError("it must be a whole number from 0 to 100") from exc
    return value


def _number_as_text(value: Any) -> Any:
    """A sequence number as Python gives it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _names(value: Any) -> Any:
    """Names as a comma-separated text or a list."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    """A list of texts."""
    return None if value is None else texts(json_or_text(value), "it")


def _percents(value: Any) -> Any:
    """Steps as ``5,25,50`` or a list."""
    parts: Any = value.split(",") if isinstance(value, str) else value
    if isinstance(value, (int, float)):
        parts = [value]
    try:
        return tuple(float(str(part).strip().removesuffix("%")) for part in parts)
    except (TypeError, ValueError) as exc:
        raise ValueError("it must be percents, such as 5,25,50") from exc


def _match(value: Any) -> Any:
    """The rules of a match, or none at all for ``none``."""
    if value is None or value == NONE:
        return () if value == NONE else None
    return read_match(json_or_text(value))


def _arms(value: Any) -> Any:
    """Deployment to the rules of its match."""
    arms = json_or_text(value)
    if arms is None:
        return None
    if not isinstance(arms, Mapping) or not arms:
        raise ValueError('it must be an object of deployments, such as {"m-v2": {"headers": {"x-user": "staff"}}}')
    return {str(name): _match(match) for name, match in arms.items()}


def _duration(value: Any) -> Any:
    """A duration as a time span."""
    if value is None or isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (days := _DAYS.fullmatch(value.strip())):
        return timedelta(days=float(days[1]))
    return timedelta(seconds=seconds_of(check_duration(value, "it"), "it"))


def _duration_text(value: Any) -> Any:
    if value is not None:
        seconds_of(value, "it")
    return value


def _in_seconds(value: Any) -> Any:
    """Seconds as a number, or as a duration with its unit: 90 and 1m30s are one value."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if days := _DAYS.fullmatch(text):
        return float(days[1]) * 86400
    return seconds_of(text, "it") if text[:1].isdigit() and text[-1:].isalpha() else value


def _abort(value: Any) -> Any:
    """A status that answers instead of the model: HTTP's by its number, gRPC's by its name."""
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and not number.lstrip("+-").isdigit():
        if number.upper() not in FAULTS:
            raise InvalidInput(f"it is no status of gRPC ({nearest(number.upper(), FAULTS)}), and none of HTTP")
        return number.upper()
    if isinstance(number, bool) or not isinstance(number, (int, str)) or not 200 <= int(number) <= 599:
        raise InvalidInput("an HTTP status is a number from 200 to 599; one of gRPC is given by its name")
    return int(number)


def _match_as_given(rules: tuple[dict[str, Any], ...]) -> Any:
    """A match for a plan that is read again."""
    return list(rules) or NONE


def _arms_as_given(arms: Mapping[str, tuple[dict[str, Any], ...]]) -> Any:
    """Arms for a plan that is read again."""
    return {name: _match_as_given(rules) for name, rules in arms.items()}


def _duration_as_given(span: timedelta) -> str:
    """A duration for a plan that is read again."""
    return f"{span.total_seconds():.3f}s"


def _written_by(write: Callable[[Any], Any]) -> PlainSerializer:
    return PlainSerializer(write, when_used="json-unless-none")


Weight = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=100)]
Weights = Annotated[dict[str, Weight], BeforeValidator(_json)]
Percents = Annotated[tuple[float, ...], BeforeValidator(_percents)]
Percentage = Annotated[float, Field(gt=0, le=100)]
Probability = Annotated[float, Field(gt=0, lt=1)]
"""Neither 0 nor 1: of an error, or a share that must be shown."""
Share = Annotated[float, Field(ge=0, le=1)]
Status = Annotated[int, Field(ge=200, le=599)]
Abort = Annotated[int | str, read_by(_abort)]
"""A status of HTTP by its number, or one of gRPC by its name."""
IN_SECONDS = read_by(_in_seconds)
"""Of a number of seconds: a duration such as 10m is one, too."""
Seconds = Annotated[float, IN_SECONDS, Field(gt=0, le=86400)]
Duration = Annotated[timedelta | None, read_by(_duration), _written_by(_duration_as_given)]
DurationText = Annotated[str, read_by(_duration_text)]

Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Hosts = Annotated[tuple[Annotated[str, checked(check_host)], ...], BeforeValidator(_names)]
Image = Annotated[str, checked(check_image)]
Namespaces = Annotated[tuple[Annotated[str, checked(check_export_to)], ...], BeforeValidator(_names)]
Alias = Annotated[str, checked(check_alias)]
ChangeId = Annotated[str, BeforeValidator(_number_as_text)]

JsonMap = Annotated[dict[str, str], BeforeValidator(_json)]
Environment = Annotated[dict[str, str], BeforeValidator(_json), checked(check_environment)]
JsonList = Annotated[list[dict[str, Any]], BeforeValidator(_json)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_json)]
Structured = Annotated[Any, BeforeValidator(json_or_text)]
"""A structured value arrives as JSON text, a short one as it is."""
Texts = Annotated[tuple[str, ...] | None, read_by(_texts)]
"""A list of texts, as JSON from the command line."""
Resources = Annotated[dict[str, dict[str, Any]], BeforeValidator(_json), checked(check_resources)]
Secrets = Annotated[dict[str, Annotated[str, checked(check_secret_reference)]], BeforeValidator(_json)]
Match = Annotated[tuple[dict[str, Any], ...] | None, read_by(_match), _written_by(_match_as_given)]
Arms = Annotated[dict[str, tuple[dict[str, Any], ...]] | None, read_by(_arms), _written_by(_arms_as_given)]
