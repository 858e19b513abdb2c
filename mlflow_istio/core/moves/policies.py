"""What the policy verbs do to an endpoint, purely: Endpoint -> Endpoint. Done again, each returns the endpoint it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from mlflow_istio.core.basics.names import check_name, nearest
from mlflow_istio.core.endpoint.deadlines import COOKIE, FAULT, KEEP, Deadline, with_deadline, without_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.moves.control_share import with_control_due
from mlflow_istio.core.policy.routes import ANSWERS
from mlflow_istio.core.policy.settings import (
    CustomRoute,
    Fault,
    Policy,
    PolicyRequest,
    StaleCookie,
    with_policy_request,
)
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict


def set_policy(endpoint: Endpoint, policy_request: PolicyRequest) -> Endpoint:
    """Make, change or take away settings.

    Raises:
        InvalidInput: A setting can't be right, or can't go with another.
        StateConflict: A deployment that is meant is not there.
    """
    check_not_deleting(endpoint)
    _check_spoken(endpoint, policy_request)
    if policy_request.subset is not None:
        _deployed(endpoint, policy_request.subset)
    elif policy_request.route is not None:
        endpoint = endpoint.wanting(f"rule.{policy_request.route}")
    elif any(change in ANSWERS for change in policy_request.changes):
        endpoint = endpoint.wanting("answer")
    return _with_policy(endpoint, with_policy_request(endpoint.traffic.policy, policy_request))


def _check_spoken(endpoint: Endpoint, policy_request: PolicyRequest) -> None:
    """Refuse what no caller over gRPC could follow.

    Raises:
        InvalidInput: A redirect, or a cookie.
    """
    if endpoint.protocol != "grpc":
        return
    if policy_request.changes.get("redirect") is not None:
        raise InvalidInput(f"endpoint '{endpoint.name}' speaks gRPC, whose callers follow no redirect: leave it out")
    balancer = policy_request.changes.get("load_balancer")
    if isinstance(balancer, Mapping) and "httpCookie" in (balancer.get("consistentHash") or {}):
        raise InvalidInput(
            f"endpoint '{endpoint.name}' speaks gRPC, whose callers keep no cookies: hash by httpHeaderName, a metadatum"
        )


def set_rule(endpoint: Endpoint, rule: CustomRoute) -> Endpoint:
    """Make a route of its own, or change the one of that name; what is set for it stays.

    Raises:
        InvalidInput: Another route has the same match, or the name is no name.
        StateConflict: The deployment is not there.
    """
    check_not_deleting(endpoint)
    check_name(rule.name, "route")
    _deployed(endpoint, rule.deployment)
    policy = endpoint.traffic.policy
    for other in policy.rules:
        if other.name != rule.name and any(match in other.match for match in rule.match):
            raise InvalidInput(
                f"route '{other.name}' has a rule of the same match already and leads to '{other.deployment}': no request would "
                f"reach '{rule.name}'"
            )
    known = {custom.name: custom for custom in policy.rules}
    if rule.name in known:
        rule = replace(rule, policy=known[rule.name].policy)
        rules = tuple(rule if custom.name == rule.name else custom for custom in policy.rules)
    else:
        rules = (*policy.rules, rule)
    return _with_policy(endpoint.wanting(f"rule.{rule.name}"), replace(policy, rules=rules))


def remove_rule(endpoint: Endpoint, name: str) -> Endpoint:
    """Take a route of its own away.

    Raises:
        NotFound: There is none of that name.
    """
    policy = endpoint.traffic.policy
    left = tuple(rule for rule in policy.rules if rule.name != name)
    if len(left) == len(policy.rules):
        known = nearest(name, [rule.name for rule in policy.rules])
        raise NotFound(f"endpoint '{endpoint.name}' has no route '{name}': {known}")
    return _with_policy(endpoint.wanting(f"rule.{name}"), replace(policy, rules=left))


def start_fault(endpoint: Endpoint, fault: Fault, *, replace_own: bool = False) -> Endpoint:
    """Put a fault into live traffic until its deadline; one that is on already gives way.

    Raises:
        InvalidInput: It can't go with the endpoint's other settings.
    """
    check_not_deleting(endpoint)
    if fault.abort is not None and endpoint.protocol == "grpc":
        raise InvalidInput(
            f"endpoint '{endpoint.name}' speaks gRPC, whose callers see a status by its name: give abort=UNAVAILABLE or another, "
            f"not {fault.abort}"
        )
    if fault.grpc_status is not None and endpoint.protocol != "grpc":
        raise InvalidInput(
            f"endpoint '{endpoint.name}' speaks HTTP: give abort=503 or another status by its number, not {fault.grpc_status}"
        )
    policy = endpoint.traffic.policy
    names = {*policy.replaced, "fault"} if replace_own else {*policy.replaced} - {"fault"}
    after = _with_policy(endpoint, replace(policy, fault=fault, replaced=tuple(sorted(names))))
    return replace(after, deadlines=with_deadline(after.deadlines, Deadline(kind=FAULT, at=fault.until)))


def end_fault(endpoint: Endpoint) -> Endpoint:
    """Take the fault away, if there is one."""
    policy = endpoint.traffic.policy
    after = _with_policy(
        endpoint,
        replace(policy, fault=None, replaced=tuple(name for name in policy.replaced if name != "fault")),
    )
    return replace(after, deadlines=without_deadline(after.deadlines, FAULT))


def end_cookie(endpoint: Endpoint, release: str) -> Endpoint:
    """Stop expiring the cookies of a release that is over."""
    policy = endpoint.traffic.policy
    stale = tuple(affinity for affinity in policy.stale if affinity.release != release)
    after = _with_policy(endpoint, replace(policy, stale=stale))
    return replace(after, deadlines=without_deadline(after.deadlines, COOKIE, release))


def drop_deadline(endpoint: Endpoint, deadline: Deadline) -> Endpoint:
    """Forget a deadline whose work is done, or has become pointless."""
    return replace(endpoint, deadlines=tuple(standing for standing in endpoint.deadlines if standing != deadline))


def settled(before: Endpoint, after: Endpoint, *, now: datetime | None, keep: timedelta | None = None) -> Endpoint:
    """The endpoint after a release ended, with the deadlines that follow from it.

    Args:
        before: The endpoint before.
        after: The endpoint with its new traffic, stable and release.
        now: The time in UTC; None: cookies are left to end by themselves.
        keep: How long the version that was replaced stays, None: until it is deleted.
    """
    after = end_fault(after)
    deadlines = after.deadlines
    if after.owns(after.stable):
        deadlines = without_deadline(deadlines, KEEP, after.stable.name)
    traffic = after.traffic
    sticky = before.traffic.sticky
    if sticky is not None and now is not None:
        stale = StaleCookie(cookie=sticky.cookie, release=sticky.release)
        others = tuple(affinity for affinity in traffic.policy.stale if affinity.cookie != sticky.cookie)
        deadlines = without_deadline(
            deadlines,
            COOKIE,
            *(affinity.release for affinity in traffic.policy.stale if affinity.cookie == sticky.cookie),
        )
        at = now + timedelta(seconds=sticky.max_age)
        deadlines = with_deadline(deadlines, Deadline(kind=COOKIE, at=at, what=sticky.release))
        traffic = replace(traffic, policy=replace(traffic.policy, stale=(*others, stale)))
    if keep is not None and now is not None and before.owns(before.stable) and before.stable != after.stable:
        deadlines = with_deadline(deadlines, Deadline(kind=KEEP, at=now + keep, what=before.stable.name))
    return with_control_due(before, replace(after, traffic=traffic, deadlines=deadlines))


def opened(after: Endpoint) -> Endpoint:
    """The endpoint after a release was opened: what is released is kept, and its own cookie is not expired."""
    release, policy = after.release, after.traffic.policy
    deadlines = without_deadline(after.deadlines, KEEP, *(release.candidates if release else ()))
    sticky = after.traffic.sticky
    if sticky is not None:
        gone = tuple(affinity.release for affinity in policy.stale if affinity.cookie == sticky.cookie)
        if gone:
            deadlines = without_deadline(deadlines, COOKIE, *gone)
            policy = replace(
                policy, stale=tuple(affinity for affinity in policy.stale if affinity.cookie != sticky.cookie)
            )
    return replace(after, traffic=replace(after.traffic, policy=policy), deadlines=deadlines)


def _with_policy(endpoint: Endpoint, policy: Policy) -> Endpoint:
    return replace(endpoint, traffic=replace(endpoint.traffic, policy=policy))


def _deployed(endpoint: Endpoint, name: str) -> None:
    if name not in endpoint.traffic.pins:
        known = nearest(name, endpoint.traffic.pins)
        raise StateConflict(f"endpoint '{endpoint.name}' has no deployment '{name}': {known}")
    if endpoint.role_of(name) == "control":
        raise StateConflict(
            f"deployment '{name}' of endpoint '{endpoint.name}' is a control, which goes with its release: name another"
        )
