"""What several verbs take, each in one mixin: an option that stands here is written nowhere else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from mlflow_istio.core.policy.fields import DESTINATION_FIELDS, ROUTE_FIELDS, check_field
from mlflow_istio.core.policy.settings import PolicyRequest
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.values import IN_SECONDS, NONE, Abort, Alias, Match, Seconds, Source, Structured

SETTINGS = (*ROUTE_FIELDS, *DESTINATION_FIELDS)
"""The options that stand for settings of routes and of destinations."""


class Confirmed(BaseModel):
    """A change that proxies confirm."""

    confirm_timeout: Seconds = Field(default=30.0, description="seconds for the proxies to confirm a change")


class Started(BaseModel):
    """Model servers that come up."""

    ready_timeout: Seconds = Field(default=300.0, description="seconds for the model servers to become ready")
    wait: bool = Field(
        default=True, description="false: return before the model servers are ready; run it again to finish"
    )


class Adopted(BaseModel):
    """A route of somebody's VirtualService that becomes an endpoint."""

    stable: str | None = Field(
        default=None, description="which of the route's destinations is stable, if several have weight"
    )
    champion_alias: Alias = Field(default="champion", description="alias that follows stable; empty: none")
    challenger_alias: Alias = Field(default="challenger", description="alias that follows the candidate; empty: none")
    take_over: bool = Field(
        default=False,
        description="take ledger and aliases over from another place of the same scope, which is gone for good",
    )
    pins: Literal["guarded", "open"] | None = Field(
        default=None,
        description="who reaches one version of a new endpoint by its header: guarded (our own commands, and whoever has the key) "
        "or open (any caller); guarded where it has a gateway, else open",
    )


class Faulted(BaseModel):
    """A fault in live traffic."""

    delay: str | None = Field(default=None, description="how long answers are held back, such as 2s")
    abort: Abort | None = Field(
        default=None,
        description="HTTP status that answers instead of the model; over gRPC one by its name, such as UNAVAILABLE",
    )
    match: Match = Field(default=None, description="JSON, only these requests")
    replace: bool = Field(default=False, description="even where the route has a fault that its owner wrote")


class Counted(BaseModel):
    """Where figures come from."""

    metrics: Source = Field(
        default="auto",
        description="where figures come from: auto, prometheus, envoy, none, or a source that an installed package brings",
    )
    prometheus_url: str | None = Field(default=None, description="Prometheus that knows the mesh's series")


class Classed(Counted):
    """Where figures come from, and which answers count as errors."""

    errors: Literal["5xx", "4xx+5xx"] = Field(
        default="5xx",
        description="which answers are errors: 5xx, or 4xx+5xx for model servers that answer 4xx when the model fails",
    )


class Judged(Classed):
    """What arms and candidates are judged by."""

    kpi: Structured = Field(
        default=None,
        description='JSON, name to KPI, such as {"bought": {"queries": {"n": "...", "events": "..."}, "better": "higher"}}; '
        "ab: errors decide where there is none",
    )
    delta: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="ab: largest difference that doesn't matter: an odds ratio above 1, or a difference of means",
    )
    randomised: bool | None = Field(
        default=None,
        description="ab: whether chance assigned the arms: yes by cookie; by header only if its values come from client.assign; "
        "true also vouches for callers at a cluster's gateway who choose their version",
    )


class Tested(BaseModel):
    """How a test counts events."""

    phi: Annotated[float, Field(ge=1)] = Field(
        default=1.0, description="for experts: overdispersion of independent bursts; slow phases need 'phase' instead"
    )
    phase: Annotated[float, IN_SECONDS, Field(ge=0, le=86400)] | None = Field(
        default=None,
        description="longest slow phase of a server in seconds, 0: none (default: learnt from the stable's history, else 60)",
    )
    label_delay: Annotated[float, IN_SECONDS, Field(ge=0, le=604800)] = Field(
        default=0.0, description="seconds after which a KPI's events may still come"
    )


def _setting(text: str) -> Any:
    return Field(default=None, description=f"{text}; none: taken away")


class PolicySettings(BaseModel):
    """Settings of an endpoint's routes and of its model servers; ``none`` takes one away."""

    timeout: Structured = _setting("how long an answer may take, such as 2s")
    retries: Structured = _setting('JSON, such as {"attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx"}')
    headers: Structured = _setting(
        'JSON, request and response with set, add, remove, such as {"response": {"set": {"x-team": "risk"}}}'
    )
    rewrite: Structured = _setting(
        "path that takes the place of the matched one, or JSON with uri, uriRegexRewrite, authority"
    )
    redirect: Structured = _setting(
        "path that callers are sent to, or JSON with uri, authority, scheme, port, redirectCode"
    )
    maintenance: Structured = _setting("status that answers instead of the models, or JSON with status and body")
    connection_pool: Structured = _setting('JSON, such as {"http": {"http1MaxPendingRequests": 10}}')
    outlier_detection: Structured = _setting('JSON, such as {"consecutive5xxErrors": 5, "baseEjectionTime": "30s"}')
    load_balancer: Structured = _setting(
        "which model server takes a request: least-request, round-robin, random, or JSON with simple, consistentHash, or warmup "
        '(a new one gets more little by little), such as {"warmup": "60s"}'
    )
    tls: Structured = _setting("how proxies speak to the model servers: disable, simple, istio-mutual, or JSON")
    subset: str | None = Field(default=None, description="the only deployment that the settings are for")
    replace: bool = Field(default=False, description="set them even over fields that the object's owner wrote")

    @field_validator(*SETTINGS)
    @classmethod
    def _check_setting(cls, value: Any, setting: ValidationInfo) -> Any:
        if value is not None and value != NONE:
            try:
                check_field(str(setting.field_name), value)
            except InvalidInput as exc:
                raise ValueError(exc.message) from exc
        return value

    def settings(self, given: Collection[str], route: str | None = None) -> PolicyRequest | None:
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
        return PolicyRequest(changes=changes, subset=self.subset, route=route, replace=self.replace)


class RouteSettings(PolicySettings):
    """Settings that may be for one route of its own."""

    route: str | None = Field(default=None, description="the only route of its own that the settings are for")
