"""The options that stand for settings of routes and destinations, shared by ``create``, ``update-endpoint`` and ``policy``.

Values are texts of the command line (JSON where structured, ``none`` to take a setting away) or Python values; each is checked
here, before anything is applied.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainSerializer

from mlflow_istio.core.basics.durations import check_duration, seconds_of
from mlflow_istio.core.matching.rules import read_match
from mlflow_istio.core.policy.fields import DESTINATION_FIELDS, ROUTE_FIELDS, check_field
from mlflow_istio.core.policy.settings import PolicyWish
from mlflow_istio.errors import InvalidInput

NONE = "none"
MAX_TTL = 24 * 3600
"""Seconds that a fault may last at most."""
SETTINGS = (*ROUTE_FIELDS, *DESTINATION_FIELDS)


def json_or_text(value: Any) -> Any:
    """JSON where a text looks like it, else the text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as exc:
        raise ValueError(f"it is not JSON ({exc.msg} at character {exc.pos})") from exc


def _checked(name: str) -> Any:
    def check(value: Any) -> Any:
        if value is None or value == NONE:
            return value
        try:
            check_field(name, value)
        except InvalidInput as exc:
            raise ValueError(exc.message) from exc
        return value

    return AfterValidator(check)


def match_of(value: Any) -> Any:
    """The rules of a match, or none at all for ``none``."""
    if value is None or value == NONE:
        return () if value == NONE else None
    try:
        return read_match(json_or_text(value))
    except InvalidInput as exc:
        raise ValueError(exc.message) from exc


def arms_of(value: Any) -> Any:
    """Deployment to the rules of its match."""
    found = json_or_text(value)
    if found is None:
        return None
    if not isinstance(found, Mapping) or not found:
        raise ValueError('it must be an object of deployments, such as {"m-v2": {"headers": {"x-user": "staff"}}}')
    return {str(name): match_of(match) for name, match in found.items()}


def duration_of(value: Any) -> Any:
    """A duration as a time span."""
    if value is None or isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=seconds_of(check_duration(value, "it"), "it"))
    except InvalidInput as exc:
        raise ValueError(exc.message) from exc


def match_as_text(rules: tuple[dict[str, Any], ...]) -> Any:
    """A match as it is given, for a plan that is read again."""
    return list(rules) or NONE


def arms_as_text(arms: Mapping[str, tuple[dict[str, Any], ...]]) -> Any:
    """Arms as they are given, for a plan that is read again."""
    return {name: match_as_text(rules) for name, rules in arms.items()}


def duration_as_text(span: timedelta) -> str:
    """A duration as it is given, for a plan that is read again."""
    return f"{span.total_seconds():.3f}s"


Match = Annotated[
    tuple[dict[str, Any], ...] | None,
    BeforeValidator(match_of),
    PlainSerializer(match_as_text, when_used="json-unless-none"),
]
Arms = Annotated[
    dict[str, tuple[dict[str, Any], ...]] | None,
    BeforeValidator(arms_of),
    PlainSerializer(arms_as_text, when_used="json-unless-none"),
]
Duration = Annotated[
    timedelta | None, BeforeValidator(duration_of), PlainSerializer(duration_as_text, when_used="json-unless-none")
]


def _setting(text: str) -> Any:
    return Field(default=None, description=f"{text}; none: taken away")


class PolicySettings(BaseModel):
    """Settings of an endpoint's routes and of its model servers."""

    timeout: Annotated[Any, BeforeValidator(json_or_text), _checked("timeout")] = _setting(
        "how long an answer may take, such as 2s"
    )
    retries: Annotated[Any, BeforeValidator(json_or_text), _checked("retries")] = _setting(
        'JSON, such as {"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"}'
    )
    headers: Annotated[Any, BeforeValidator(json_or_text), _checked("headers")] = _setting(
        'JSON, request and response with set, add, remove, such as {"response": {"set": {"x-team": "risk"}}}'
    )
    rewrite: Annotated[Any, BeforeValidator(json_or_text), _checked("rewrite")] = _setting(
        "path that takes the place of the matched one, or JSON with uri, uriRegexRewrite, authority"
    )
    redirect: Annotated[Any, BeforeValidator(json_or_text), _checked("redirect")] = _setting(
        "path that callers are sent to, or JSON with uri, authority, scheme, port, redirectCode"
    )
    maintenance: Annotated[Any, BeforeValidator(json_or_text), _checked("maintenance")] = _setting(
        "status that answers instead of the models, or JSON with status and body"
    )
    connection_pool: Annotated[Any, BeforeValidator(json_or_text), _checked("connection_pool")] = _setting(
        'JSON, such as {"http": {"http1MaxPendingRequests": 10}}'
    )
    outlier_detection: Annotated[Any, BeforeValidator(json_or_text), _checked("outlier_detection")] = _setting(
        'JSON, such as {"consecutive5xxErrors": 5, "baseEjectionTime": "30s"}'
    )
    load_balancer: Annotated[Any, BeforeValidator(json_or_text), _checked("load_balancer")] = _setting(
        "least-request, round-robin, random, or JSON with consistentHash"
    )
    tls: Annotated[Any, BeforeValidator(json_or_text), _checked("tls")] = _setting(
        "how proxies speak to the model servers: disable, simple, istio-mutual, or JSON"
    )
    subset: str | None = Field(default=None, description="the only deployment that the settings are for")
    replace: bool = Field(default=False, description="set them even over fields that the object's owner wrote")

    def settings(self, given: Collection[str], route: str | None = None) -> PolicyWish | None:
        """What is asked of the policy; None when nothing is.

        Args:
            given: Names of the options that count: those of the call, or all that are set.
            route: The only route of its own that is meant.

        Raises:
            InvalidInput: Something is said of settings, but none is given.
        """
        values = {name: getattr(self, name) for name in SETTINGS if name in given}
        changes = {name: None if value == NONE else value for name, value in values.items() if value is not None}
        if not changes:
            aimed = [name for name in ("subset", "route", "replace") if name in given]
            if aimed:
                raise InvalidInput(f"option '{aimed[0]}' goes with a setting: give one of {', '.join(SETTINGS)}")
            return None
        return PolicyWish(changes=changes, subset=self.subset, route=route, replace=self.replace)
