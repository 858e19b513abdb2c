"""Options of the verbs ``policy``, ``route``, ``fault``, ``chaos`` and ``sweep``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mlflow_istio.core.basics.durations import seconds_of
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, DryRunOptions, Seconds
from mlflow_istio.options.settings import MAX_TTL, Duration, Match, PolicySettings

Percentage = Annotated[float, Field(gt=0, le=100)]
Status = Annotated[int, Field(ge=200, le=599)]


class _Confirmed(ChangeOptions):
    confirm_timeout: Seconds = Field(default=30.0, description="seconds for the proxies to confirm a change")


class PolicyOptions(_Confirmed, PolicySettings):
    """Options of ``policy``."""

    route: str | None = Field(default=None, description="the only route of its own that the settings are for")


class RouteOptions(_Confirmed):
    """Options of ``route``."""

    to: str | None = Field(default=None, description="deployment that answers the matching requests")
    match: Match = Field(default=None, description="JSON, a rule or a list of rules")
    name: str | None = Field(default=None, description="name of the route; the deployment's unless given")
    remove: str | None = Field(default=None, description="name of a route to take away")


class FaultOptions(_Confirmed):
    """Options of ``fault``."""

    delay: str | None = Field(default=None, description="how long answers are held back, such as 2s")
    abort: Status | None = Field(default=None, description="HTTP status that answers instead of the model")
    percentage: Percentage = Field(default=100.0, description="share of the requests, over 0 and at most 100")
    ttl: Duration = Field(default="5m", validate_default=True, description="when it ends by itself, at most 24h")
    match: Match = Field(default=None, description="JSON, only these requests")
    end: bool = Field(default=False, description="take the fault away now")
    replace: bool = Field(default=False, description="even where the route has a fault that its owner wrote")

    def fault(self, now: datetime) -> Fault:
        """The fault asked for.

        Raises:
            InvalidInput: It can't be right, or would last too long.
        """
        assert self.ttl is not None
        if self.ttl.total_seconds() > MAX_TTL:
            raise InvalidInput(f"fault ttl {self.ttl} is too long: a fault lasts at most 24h")
        return Fault(
            delay=self.delay,
            abort=self.abort,
            percentage=self.percentage,
            match=self.match or (),
            until=now + self.ttl,
        )


class SweepOptions(DryRunOptions):
    """Options of ``sweep``."""

    record: bool = Field(default=True, description="false: leave the ledger to the next command")


def _duration_text(value: Any) -> Any:
    if value is not None:
        try:
            seconds_of(value, "it")
        except InvalidInput as exc:
            raise ValueError(exc.message) from exc
    return value


class ChaosOptions(_Confirmed):
    """Options of ``chaos``."""

    delay: str | None = Field(default=None, description="how long answers are held back, such as 2s")
    abort: Status | None = Field(default=None, description="HTTP status that answers instead of the model")
    percentage: Percentage = Field(default=10.0, description="share of the requests, over 0 and at most 100")
    metrics: str = Field(default="auto", description="source of the deployments' counts: auto, prometheus, envoy, none")
    prometheus_url: str | None = Field(default=None, description="the Prometheus that scrapes the mesh")
    duration: Annotated[str, BeforeValidator(_duration_text)] = Field(default="30s", description="how long it lasts")
    match: Match = Field(default=None, description="JSON, only these requests")
    replace: bool = Field(default=False, description="even where the route has a fault that its owner wrote")
