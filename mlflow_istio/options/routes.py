"""Options of the verbs ``policy``, ``route``, ``fault``, ``chaos``, ``pins`` and ``sweep``."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.errors import InvalidInput
from mlflow_istio.options.base import ChangeOptions, DryRunOptions
from mlflow_istio.options.shared import Confirmed, Counted, Faulted, RouteSettings
from mlflow_istio.options.values import Duration, DurationText, Match, Percentage

MAX_TTL = 24 * 3600
"""Seconds that a fault may last at most."""


class PolicyOptions(ChangeOptions, Confirmed, RouteSettings):
    """Options of ``policy``."""


class RouteOptions(ChangeOptions, Confirmed):
    """Options of ``route``."""

    to: str | None = Field(default=None, description="deployment that answers the matching requests")
    match: Match = Field(default=None, description="JSON, a rule or a list of rules")
    name: str | None = Field(default=None, description="name of the route; the deployment's unless given")
    remove: str | None = Field(default=None, description="name of a route to take away")


class FaultOptions(ChangeOptions, Confirmed, Faulted):
    """Options of ``fault``."""

    percentage: Percentage = Field(default=100.0, description="share of the requests, over 0 and at most 100")
    ttl: Duration = Field(default="5m", validate_default=True, description="when it ends by itself, at most 24h")
    end: bool = Field(default=False, description="take the fault away now")

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
            abort=self.abort if isinstance(self.abort, int) else None,
            grpc_status=self.abort if isinstance(self.abort, str) else None,
            percentage=self.percentage,
            match=self.match or (),
            until=now + self.ttl,
        )


class PinsOptions(ChangeOptions, Confirmed):
    """Options of ``pins``."""

    pins: Literal["guarded", "open", "new"] | None = Field(
        default=None,
        description="guarded: only whoever has the key reaches one version by its header; new: the same with another key; open: "
        "any caller does; unless given, nothing is changed",
    )
    show: bool = Field(default=False, description="say the headers that pin, with the key")


class SweepOptions(DryRunOptions):
    """Options of ``sweep``."""

    record: bool = Field(default=True, description="false: leave the ledger to the next command")


class ChaosOptions(ChangeOptions, Confirmed, Faulted, Counted):
    """Options of ``chaos``."""

    percentage: Percentage = Field(default=10.0, description="share of the requests, over 0 and at most 100")
    duration: DurationText = Field(default="30s", description="how long it lasts")
