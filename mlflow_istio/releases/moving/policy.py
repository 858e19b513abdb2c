"""Settings, routes of their own and faults: each one transition, edited once, proved and recorded like any change of traffic.

What stands on the DestinationRule follows the VirtualService: it is written first, so that a refusal leaves nothing behind, and
compared once more at the end, so that of two writers the one whose change stands has its settings there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.matching.places import namespace_of
from mlflow_istio.core.mesh.delegation import delegate_of
from mlflow_istio.core.mesh.destination_rule import with_policy
from mlflow_istio.core.mesh.virtual_service import header_meetings, routes_of, write_endpoint
from mlflow_istio.core.moves import policies
from mlflow_istio.core.policy.fields import ROUTE_FIELDS
from mlflow_istio.core.policy.settings import CustomRoute, Fault, Policy, PolicyRequest
from mlflow_istio.errors import MlflowIstioError, NotFound, NotRouted, StateConflict
from mlflow_istio.releases.context import (
    Context,
    Outcome,
    deployments_of,
    emit_warnings,
    endpoint_of,
    root_of,
    virtual_service_of,
)
from mlflow_istio.releases.moving.attachments import lead_to
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT, move

_OF_ROOTS = ("timeout", "retries", "headers")
"""Settings that a delegate has from its root where it does not say them itself; the rewrite of a shared path is ours."""


def set_policy(
    context: Context, name: str, policy_request: PolicyRequest, *, reason: str = "", timeout: float = DEFAULT_TIMEOUT
) -> Outcome:
    """Make, change or take away settings of an endpoint, of one deployment, or of a route of its own.

    Raises:
        InvalidInput: A setting can't be right, or can't go with another; nothing was applied.
        StateConflict: A field is its owner's and may not be replaced; nothing was applied.
        Unsupported: The cluster can't carry a setting out; nothing was applied.
        NotRouted: A proxy did not take the change over in time.
    """
    before = endpoint_of(context.cluster, name)
    wanted = policies.set_policy(before, policy_request)
    _check_root(context, before, policy_request)
    virtual_service = virtual_service_of(context.cluster, name)
    rendered = write_endpoint(virtual_service, wanted)  # whatever can't be written is refused before the first edit
    warnings = _header_conflicts(virtual_service, rendered, name, allowed=policy_request.replace)
    touched = _destinations(before.traffic.policy) != _destinations(wanted.traffic.policy)
    if touched:
        follow(context, name, wanted.traffic.policy, attached=wanted.attached)
    try:
        outcome = move(
            context,
            name,
            lambda now: policies.set_policy(now, policy_request),
            action="policy",
            reason=reason,
            timeout=timeout,
        )
    except NotRouted:
        raise  # the change stands, and a proxy is late
    except MlflowIstioError:
        if touched:
            now = endpoint_of(context.cluster, name)
            follow(context, name, now.traffic.policy, attached=now.attached)
        raise
    if outcome.endpoint is not None and (touched or outcome.endpoint.traffic.policy.has_destinations):
        follow(context, name, outcome.endpoint.traffic.policy, attached=wanted.attached)
    return replace(outcome, warnings=(*outcome.warnings, *emit_warnings(context, warnings)))


def check_policy(context: Context, name: str, policy_request: PolicyRequest, deployment: str) -> None:
    """Refuse settings that can't be, before a deployment is brought up for which, or beside which, they are made.

    Raises:
        InvalidInput: A setting can't be right, or can't go with another.
        StateConflict: A field is its owner's and may not be replaced.
    """
    virtual_service, endpoint = virtual_service_of(context.cluster, name), endpoint_of(context.cluster, name)
    standing = replace(endpoint, traffic=endpoint.traffic.with_pin(deployment))
    rendered = write_endpoint(virtual_service, policies.set_policy(standing, policy_request))
    _check_root(context, endpoint, policy_request)
    _header_conflicts(virtual_service, rendered, name, allowed=policy_request.replace)


def _check_root(context: Context, endpoint: Endpoint, policy_request: PolicyRequest) -> None:
    """Refuse to take the place of what the owner of a shared host gives the requests that are handed on.

    A delegate's field stands for the root's as a whole (istiod, ``mergeHTTPRoute``).

    Raises:
        StateConflict: The root's route has the field; names both.
    """
    root = root_of(context.cluster, endpoint)
    if root is None or policy_request.replace or policy_request.subset is not None:
        return
    asked = [ROUTE_FIELDS[option] for option, value in policy_request.changes.items() if value and option in _OF_ROOTS]
    for route in routes_of(root):
        for field in asked:
            if delegate_of(route, namespace_of(root)) == endpoint.name and route.get(field):
                raise StateConflict(
                    f"VirtualService '{name_of(root)}' gives the requests that it hands on to endpoint '{endpoint.name}' {field} "
                    f"of its own ({route[field]!r}), and one set here would count in its place: set it there, or say "
                    "-C replace=true"
                )


def _header_conflicts(before: Object, after: Object, name: str, *, allowed: bool) -> tuple[str, ...]:
    """A warning for each header that settings treat on one level and somebody on another, where the call says that this may be.

    Raises:
        StateConflict: The call does not say so; names the header and what either level says of it.
    """
    known = set(header_meetings(before, name))
    new = tuple(str(meeting) for meeting in header_meetings(after, name) if meeting not in known)
    if new and not allowed:
        raise StateConflict(f"{new[0]}: treat it in one of the two places, or say -C replace=true")
    return new


def set_rule(
    context: Context,
    name: str,
    rule: CustomRoute,
    *,
    allowed: Callable[[Endpoint], None] = lambda _now: None,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Make a route of its own, or change where it leads.

    Args:
        context: The ports.
        name: Name of the endpoint.
        rule: The route.
        allowed: Shown the endpoint as it is; raises where the route may not be.
        reason: For the ledger.
        timeout: Seconds for the proxies to take it over.

    Raises:
        InvalidInput: Its match contradicts the endpoint's own, or is another route's.
        StateConflict: The deployment is not there.
        NotReady: The deployment has no ready replica.
        NotRouted: A proxy did not take the change over in time.
    """

    def changed(now: Endpoint) -> Endpoint:
        allowed(now)
        return policies.set_rule(now, rule)

    return move(context, name, changed, action="route", reason=reason, timeout=timeout)


def remove_rule(
    context: Context, name: str, rule: str, *, reason: str = "", timeout: float = DEFAULT_TIMEOUT
) -> Outcome:
    """Take a route of its own away.

    Raises:
        NotFound: There is none of that name.
        NotRouted: A proxy did not take the change over in time.
    """
    return move(
        context,
        name,
        lambda now: policies.remove_rule(now, rule),
        action="route",
        reason=reason,
        timeout=timeout,
    )


def start_fault(
    context: Context,
    name: str,
    fault: Fault,
    *,
    replace_own: bool = False,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Put a fault into live traffic until its deadline, which stands on the object with it.

    Raises:
        InvalidInput: It can't go with the endpoint's other settings.
        StateConflict: The route has a fault of its owner's.
        NotRouted: A proxy did not take the change over in time.
    """
    return move(
        context,
        name,
        lambda now: policies.start_fault(now, fault, replace_own=replace_own),
        action="fault",
        reason=reason,
        timeout=timeout,
    )


def end_fault(
    context: Context, name: str, *, action: str = "fault-end", reason: str = "", timeout: float = DEFAULT_TIMEOUT
) -> Outcome:
    """Take the fault away, if there is one; never held back by a registry that is down.

    Raises:
        NotRouted: A proxy did not take the change over in time.
    """
    return move(context, name, policies.end_fault, action=action, reason=reason, urgent=True, timeout=timeout)


def follow(context: Context, name: str, policy: Policy, *, attached: Sequence[str] = ()) -> bool:
    """Make the DestinationRule say what the endpoint's policy says; whether it had to be changed.

    Args:
        context: The ports.
        name: Name of the endpoint.
        policy: Its policy.
        attached: Deployments that are attached, whose DestinationRules say the same.

    Raises:
        StateConflict: Its owner has one of the settings.
        NotFound: It is gone.
    """

    def edit(rule: Object | None) -> Object:
        if rule is None:
            raise NotFound(f"DestinationRule '{name}' is gone: deploy a version again, which makes one")
        return with_policy(rule, name, policy)

    if context.cluster.get("DestinationRule", name) is None and not policy.has_destinations:
        return False
    before, after = context.cluster.edit("DestinationRule", name, edit)
    for obj in deployments_of(context.cluster, name) if attached else ():
        lead_to(context, obj, after)
    return before != after


def _destinations(policy: Policy) -> tuple[object, ...]:
    return (policy.destination, dict(policy.subsets))
