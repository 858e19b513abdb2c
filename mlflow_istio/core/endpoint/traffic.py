"""What an endpoint does with a request, as one frozen value.

A split, arms, mirrors, pins and stickiness are parts of one value and are rendered together, so that no feature can
overwrite another by the order in which they were set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import form, stored
from mlflow_istio.core.policy.settings import NO_POLICY, Policy
from mlflow_istio.errors import InvalidInput


def _port(number: int) -> Object:
    return {"number": number}


def _number(port: Any, _context: Mapping[str, Any]) -> Any:
    return (port or {}).get("number")


def attached_host(deployment: str) -> str:
    """The Service of ours that leads to a workload which somebody else runs, as a deployment of this name."""
    return f"{deployment}-attached"


def _is_foreign(destination: Mapping[str, Any], context: Mapping[str, Any]) -> bool:
    """A destination is read knowing its ``endpoint``, the host of its own deployments; without it names don't matter."""
    endpoint = context.get("endpoint")
    return endpoint is not None and str(destination["host"]) not in (
        endpoint,
        attached_host(str(destination.get("subset"))),
    )


@form(sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Where requests go: one of our deployments (the endpoint's host and a subset), or a foreign service.

    Attributes:
        host: Service name as the VirtualService writes it: the endpoint's, or that of an attached workload.
        subset: Subset of the DestinationRule, or None.
        port: Port number, or None for the service's only port.
        foreign: Whether its host is neither the endpoint's own nor an attached workload's, so that its subset is no deployment's
            name. It follows from the host, for whoever knows the endpoint: it decides what people call the destination, not which
            one it is.
    """

    host: str
    subset: str | None = None
    port: int | None = field(default=None, metadata=stored(write=_port, read=_number))
    foreign: bool = field(default=False, compare=False, metadata=stored(derived=_is_foreign))

    def belongs_to(self, endpoint: str) -> bool:
        """Whether it is a deployment of the endpoint: one that we run, or one that is attached."""
        return self.subset is not None and self.host in (endpoint, attached_host(self.subset))

    @property
    def name(self) -> str:
        """What people call it: the deployment's name, or ``HOST``, ``HOST/SUBSET``, with ``:PORT``, of a foreign one."""
        if self.subset is not None and not self.foreign:
            return self.subset
        host = self.host if self.subset is None else f"{self.host}/{self.subset}"
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedDestination:
    """A destination and its weight in percent, an integer from 0 to 100."""

    destination: Destination = field(metadata=stored(flat=True))
    weight: int

    def __post_init__(self) -> None:
        check_weight(self.weight, self.destination.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """A destination that gets a copy of the live traffic; its answers are thrown away.

    Attributes:
        destination: Who gets the copies.
        percentage: Share of the requests copied, from 0 (a user's mirror that is switched off) to 100.
    """

    destination: Destination = field(metadata=stored(flat=True))
    percentage: float

    def __post_init__(self) -> None:
        value = self.percentage
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise InvalidInput(f"mirror percentage must be from 0 to 100, not {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Requests that match go to one deployment, whatever the split says.

    Attributes:
        deployment: The deployment that answers them.
        match: Istio ``HTTPMatchRequest`` objects; one of them must match (OR), each with all its fields (AND).
    """

    deployment: str
    match: tuple[Object, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionAffinity:
    """A cookie that brings a user back to the arm that the split chose.

    The value is ``RELEASE.DEPLOYMENT``, so that a cookie of an earlier release matches nothing.

    Attributes:
        cookie: Cookie's name.
        release: Release id.
        max_age: Seconds the browser keeps it.
    """

    cookie: str
    release: str
    max_age: int = field(default=7 * 24 * 3600, metadata=stored(name="maxAge", needed=True))


@form(sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Everything an endpoint does with a request.

    Attributes:
        split: Destinations and weights of requests that no arm or pin takes; the weights sum to 100.
        pins: Deployments that a caller can reach by naming them in a header, at any weight.
        arms: Matched routes, in order of precedence.
        mirrors: Who gets copies of the live traffic.
        sticky: How the split's choice is remembered, if it is.
        policy: What the routes do besides: timeouts, headers, rules, faults, ...

    Raises:
        InvalidInput: The weights don't sum to 100, or something is named twice.
    """

    split: tuple[WeightedDestination, ...]
    pins: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    sticky: SessionAffinity | None = None
    policy: Policy = NO_POLICY

    def __post_init__(self) -> None:
        total = sum(share.weight for share in self.split)
        if total != 100:
            parts = ", ".join(f"{share.destination.name}={share.weight}" for share in self.split)
            raise InvalidInput(f"weights must sum to 100, not {total}: {parts or 'no destination'}")
        for what, names in (
            ("destination", [share.destination.name for share in self.split]),
            ("pin", list(self.pins)),
            ("mirror", [mirror.destination.name for mirror in self.mirrors]),
            ("arm", [arm.deployment for arm in self.arms]),
            ("route", [rule.name for rule in self.policy.rules]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InvalidInput(f"{what} {twice[0]!r} is named twice")

    @property
    def weights(self) -> dict[str, int]:
        """Destination's name to weight in percent, in the split's order."""
        return {share.destination.name: share.weight for share in self.split}

    def reaches(self, name: str) -> bool:
        """Whether live users' requests, or copies of them, reach a destination (a pin is no user)."""
        return (
            self.weights.get(name, 0) > 0
            or any(arm.deployment == name for arm in self.arms)
            or any(rule.deployment == name for rule in self.policy.rules)
            or any(mirror.destination.name == name for mirror in self.mirrors)
        )

    def with_pin(self, deployment: str) -> Traffic:
        """This traffic with the deployment reachable by its header."""
        return self if deployment in self.pins else replace(self, pins=tuple(sorted({*self.pins, deployment})))

    def without_pin(self, deployment: str) -> Traffic:
        """This traffic without the deployment's header route and what is set for it alone."""
        return replace(
            self,
            pins=tuple(pin for pin in self.pins if pin != deployment),
            policy=self.policy.without_deployment(deployment),
        )


def check_weight(weight: object, name: str) -> int:
    """Return the weight if it is an integer from 0 to 100.

    Raises:
        InvalidInput: It is negative, fractional, over 100 or no number.
    """
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise InvalidInput(f"weight of {name!r} must be a whole number from 0 to 100, not {weight!r}")
    if not 0 <= weight <= 100:
        raise InvalidInput(f"weight of {name!r} must be from 0 to 100, not {weight}")
    return weight


def split_between(stable: Destination, candidates: Iterable[WeightedDestination]) -> tuple[WeightedDestination, ...]:
    """The split that gives each candidate its weight and stable the rest.

    Raises:
        InvalidInput: The candidates' weights are over 100 together.
    """
    shares = tuple(candidates)
    rest = 100 - sum(share.weight for share in shares)
    if rest < 0:
        parts = ", ".join(f"{share.destination.name}={share.weight}" for share in shares)
        raise InvalidInput(f"weights of the candidates are over 100 together: {parts}")
    return (WeightedDestination(destination=stable, weight=rest), *shares)
