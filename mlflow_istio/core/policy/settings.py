"""What an endpoint does besides splitting, as one frozen value: a part of Traffic, rendered together with it.

A user's own fields of the same routes are no part of it: they stay opaque (``core.overlay``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.durations import check_duration, seconds_of
from mlflow_istio.core.basics.grpc_status import GRPC_CODES
from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import form, shaped, stored
from mlflow_istio.core.policy.fields import DESTINATION_FIELDS, ROUTE_FIELDS, check_field
from mlflow_istio.core.policy.shapes import HEADERS, HEADERS_BY_DEPLOYMENT, MATCH
from mlflow_istio.errors import InvalidInput

FAULTS = tuple(name for name in GRPC_CODES if name != "OK")
"""The statuses of gRPC that a fault may answer with."""


def read_rules(data: Any, context: Mapping[str, Any]) -> tuple[Object, ...]:
    """The rules of a stored match, as they are."""
    return tuple(shaped(MATCH)(data, context))


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePolicy:
    """What a route does with a request; every part in Istio's form, None where nothing is set.

    Attributes:
        timeout: How long an answer may take.
        retries: ``attempts``, ``perTryTimeout``, ``retryOn``, ...
        headers: ``request`` and ``response``, each with ``set``, ``add``, ``remove``.
        rewrite: ``uri`` or ``uriRegexRewrite``, and ``authority``.
        redirect: Where callers are sent instead.
        maintenance: What callers are answered instead (Istio's ``directResponse``).

    Raises:
        InvalidInput: Parts that Istio can't do together, or of which one has no effect.
    """

    timeout: str | None = None
    retries: Object | None = None
    headers: Object | None = field(default=None, metadata=stored(read=shaped(HEADERS)))
    rewrite: Object | None = None
    redirect: Object | None = None
    maintenance: Object | None = None

    def __post_init__(self) -> None:
        if self.redirect and self.maintenance:
            raise InvalidInput("redirect and maintenance can't both answer a request: take one away with NAME=none")
        if self.redirect and self.rewrite:
            raise InvalidInput(
                "rewrite can't go with redirect, whose uri and authority are the new ones: take one away with NAME=none"
            )
        per_try = (self.retries or {}).get("perTryTimeout")
        if self.timeout and per_try and seconds_of(per_try) > seconds_of(self.timeout):
            raise InvalidInput(
                f"retries perTryTimeout {per_try} is longer than timeout {self.timeout}, so it would never end a try"
            )

    @property
    def set_fields(self) -> dict[str, Any]:
        """The settings that are made, by option name."""
        return _set_fields(self)


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class DestinationPolicy:
    """How requests reach the model servers; every part in Istio's form, None where nothing is set.

    Attributes:
        connection_pool: Limits of connections and requests.
        outlier_detection: When a server is left out for a while.
        load_balancer: Which server gets the next request.
        tls: How the proxy speaks to the servers.
    """

    connection_pool: Object | None = None
    outlier_detection: Object | None = None
    load_balancer: Object | None = None
    tls: Object | None = None

    @property
    def set_fields(self) -> dict[str, Any]:
        """The settings that are made, by option name."""
        return _set_fields(self)

    def as_istio(self) -> Object:
        """The settings as a ``trafficPolicy``."""
        return {DESTINATION_FIELDS[name]: value for name, value in self.set_fields.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Errors and delays put into live traffic on purpose, for a time.

    Attributes:
        delay: How long answers are held back, or None.
        abort: Status that answers instead of the model, or None.
        grpc_status: The same of an endpoint that speaks gRPC, by its name.
        percentage: Share of the requests, over 0 and at most 100.
        match: Only these requests; empty: all.
        until: When it ends, in UTC.
    """

    delay: str | None = None
    abort: int | None = None
    grpc_status: str | None = field(default=None, metadata=stored(sparse=True))
    percentage: float = field(default=100.0, metadata=stored(needed=True))
    match: tuple[Object, ...] = field(default=(), metadata=stored(read=read_rules))
    until: datetime

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None and self.grpc_status is None:
            raise InvalidInput("a fault needs a delay or an abort: give at least one of them")
        if self.delay is not None:
            check_duration(self.delay, "fault delay")
        if self.abort is not None and (isinstance(self.abort, bool) or not 200 <= self.abort <= 599):
            raise InvalidInput(f"fault abort must be an HTTP status from 200 to 599, not {self.abort!r}")
        if self.grpc_status is not None and self.grpc_status not in FAULTS:
            raise InvalidInput(
                f"fault abort can't be {self.grpc_status!r}: {nearest(self.grpc_status, FAULTS)}, or an HTTP status"
            )
        if isinstance(self.percentage, bool) or not 0 < self.percentage <= 100:
            raise InvalidInput(f"fault percentage must be over 0 and at most 100, not {self.percentage!r}")

    def as_istio(self) -> Object:
        """Istio's ``fault``."""
        share = {"percentage": {"value": float(self.percentage)}}
        result: Object = {}
        if self.delay is not None:
            result["delay"] = {"fixedDelay": self.delay, **share}
        if self.abort is not None:
            result["abort"] = {"httpStatus": self.abort, **share}
        if self.grpc_status is not None:
            result["abort"] = {"grpcStatus": self.grpc_status, **share}
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomRoute:
    """A route of its own: matching requests go to one deployment, whatever the split says, in and out of releases.

    Attributes:
        name: Its name.
        deployment: Who answers.
        match: Istio ``HTTPMatchRequest`` objects; one must match (OR), each with all its fields (AND).
        policy: What it does otherwise than the endpoint's route.
    """

    name: str
    deployment: str
    match: tuple[Object, ...] = field(metadata=stored(read=read_rules))
    policy: RoutePolicy = field(default_factory=RoutePolicy)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleCookie:
    """A stickiness cookie of a release that is over: whoever still sends it is told to forget it.

    Attributes:
        cookie: Cookie's name.
        release: The release whose values are stale.
    """

    cookie: str
    release: str


@form(sparse=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Everything besides the split.

    Attributes:
        route: For all of the endpoint's live routes.
        headers: Header rules of single deployments, wherever their answer is asked for; in Istio's form.
        destination: For all model servers.
        subsets: For the model servers of single deployments.
        rules: Routes of their own, in order of precedence.
        fault: The fault that is on, if one is.
        stale: Cookies that are being expired.
        replaced: Names of settings that may stand over the owner's own fields.
        versions: Deployment to ``MODEL/VERSION``, where routes say in answers which version that is, since the server doesn't.
    """

    route: RoutePolicy = field(default_factory=RoutePolicy)
    headers: Mapping[str, Object] = field(default_factory=dict, metadata=stored(read=shaped(HEADERS_BY_DEPLOYMENT)))
    destination: DestinationPolicy = field(default_factory=DestinationPolicy)
    subsets: Mapping[str, DestinationPolicy] = field(default_factory=dict)
    rules: tuple[CustomRoute, ...] = ()
    fault: Fault | None = None
    stale: tuple[StaleCookie, ...] = ()
    replaced: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.answers and self.fault:
            raise InvalidInput(
                "a fault has no effect while all requests are redirected or answered by maintenance: end one of them first"
            )

    @property
    def answers(self) -> bool:
        """Whether requests are redirected or answered directly, so that no model sees them."""
        return bool(self.route.redirect or self.route.maintenance)

    @property
    def has_destinations(self) -> bool:
        """Whether something stands on the DestinationRule."""
        return bool(self.destination.set_fields or self.subsets)

    def without_deployment(self, name: str) -> Policy:
        """Without what is set for one deployment, which goes away."""
        return replace(
            self,
            headers={key: value for key, value in self.headers.items() if key != name},
            subsets={key: value for key, value in self.subsets.items() if key != name},
            versions={key: value for key, value in self.versions.items() if key != name},
        )


NO_POLICY = Policy()


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRequest:
    """What a user asks of the policy.

    Attributes:
        changes: Option name to the setting as the user wrote it; None takes it away.
        subset: The only deployment meant, or None: the endpoint.
        route: The only route of its own meant, or None.
        replace: Whether the owner's own fields may be set over.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    subset: str | None = None
    route: str | None = None
    replace: bool = False


def with_policy_request(policy: Policy, policy_request: PolicyRequest) -> Policy:
    """The policy after a request.

    Raises:
        InvalidInput: A setting can't be right, has no place where it is aimed, or can't go with another.
    """
    if not policy_request.changes:
        raise InvalidInput(f"nothing to set: give one of {', '.join((*ROUTE_FIELDS, *DESTINATION_FIELDS))}")
    changes = {
        name: None if value is None else check_field(name, value) for name, value in policy_request.changes.items()
    }
    if policy_request.subset is not None and policy_request.route is not None:
        raise InvalidInput("give either 'subset' (a deployment) or 'route' (a route of its own), not both")
    if policy_request.route is not None:
        return _on_rule(policy, policy_request.route, changes)
    if policy_request.subset is not None:
        return replace(_on_subset(policy, policy_request.subset, changes), replaced=_replaced(policy, policy_request))
    return replace(
        policy,
        replaced=_replaced(policy, policy_request),
        route=replace(policy.route, **{k: v for k, v in changes.items() if k in ROUTE_FIELDS}),
        destination=replace(policy.destination, **{k: v for k, v in changes.items() if k in DESTINATION_FIELDS}),
    )


def notes(policy: Policy, *, mirrors: bool) -> tuple[str, ...]:
    """What acts only partly together, one line each; it is allowed, and said.

    Args:
        policy: The policy.
        mirrors: Whether live traffic is mirrored.
    """
    lines: list[str] = []
    route, fault = policy.route, policy.fault
    waiting = [name for name in ("timeout", "retries") if getattr(route, name)]
    if fault and waiting:
        lines.append(f"{' and '.join(waiting)} don't act on faulted requests; they act on the rest")
    if fault and mirrors:
        lines.append("requests that the fault aborts are not mirrored")
    if policy.answers and (waiting or route.rewrite or policy.rules):
        what = "redirect" if route.redirect else "maintenance"
        lines.append(
            f"while {what} answers all requests, nothing else acts on them; pinned requests still reach their deployment"
        )
    if route.retries and mirrors:
        lines.append("a copy is sent once, whatever the retries of the original")
    balancers = [policy.destination, *policy.subsets.values()]
    if any("consistentHash" in (balancer.load_balancer or {}) for balancer in balancers):
        lines.append(
            "a consistent hash chooses among the servers of one deployment; the split between deployments is drawn anew"
        )
    return tuple(lines)


def _replaced(policy: Policy, policy_request: PolicyRequest) -> tuple[str, ...]:
    """Settings that may stand over the owner's, after a request: the word holds as long as the setting."""
    names = set(policy.replaced) - (set(policy_request.changes) if policy_request.subset is None else set())
    if policy_request.replace:
        names |= {name for name, value in policy_request.changes.items() if value is not None}
    return tuple(sorted(names))


def _on_rule(policy: Policy, name: str, changes: Mapping[str, Any]) -> Policy:
    known = {rule.name: rule for rule in policy.rules}
    if name not in known:
        raise InvalidInput(f"there is no route '{name}': {nearest(name, known)}")
    unfit = [option for option in changes if option not in ROUTE_FIELDS]
    if unfit:
        raise InvalidInput(f"'{unfit[0]}' is set for the endpoint or for a deployment (subset=NAME), not for a route")
    changed = replace(known[name], policy=replace(known[name].policy, **changes))
    return replace(policy, rules=tuple(changed if rule.name == name else rule for rule in policy.rules))


def _on_subset(policy: Policy, name: str, changes: Mapping[str, Any]) -> Policy:
    unfit = [option for option in changes if option in ROUTE_FIELDS and option != "headers"]
    if unfit:
        raise InvalidInput(
            f"'{unfit[0]}' is set for the endpoint or a route of its own: Istio has it for routes, not for one deployment"
        )
    headers = {key: value for key, value in policy.headers.items() if key != name}
    wanted = changes.get("headers", policy.headers.get(name))
    if wanted:
        headers[name] = wanted
    own = policy.subsets.get(name, DestinationPolicy())
    own = replace(own, **{key: value for key, value in changes.items() if key in DESTINATION_FIELDS})
    subsets = {key: value for key, value in policy.subsets.items() if key != name}
    if own.set_fields:
        subsets[name] = own
    return replace(policy, headers=headers, subsets=subsets)


def _set_fields(settings: RoutePolicy | DestinationPolicy) -> dict[str, Any]:
    values = {part.name: getattr(settings, part.name) for part in fields(settings)}
    return {name: value for name, value in values.items() if value is not None}
