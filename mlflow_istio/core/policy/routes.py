"""Policy -> fields and routes of a VirtualService; read back from the annotation that says what is ours.

The annotation ``policy.E`` holds the policy, and under ``originals`` the owner's values that it stands over, by the
destination they were found on (empty: the route itself).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_istio.core.basics.objects import DOMAIN, Object, annotations_of, name_of
from mlflow_istio.core.basics.stored import compact, from_json, parsed, stored, to_json
from mlflow_istio.core.matching.probe import VERSION_HEADER, header_text
from mlflow_istio.core.policy.fields import DESTINATION_FIELDS, ROUTE_FIELDS
from mlflow_istio.core.policy.overlay import Settings, flat_headers, laid_over, same_place
from mlflow_istio.core.policy.settings import NO_POLICY, CustomRoute, Policy, RoutePolicy, StaleCookie
from mlflow_istio.errors import InvalidInput

MAX_POLICY = 32 * 1024
"""Bytes of the policy's annotation; all annotations together may hold 256 KiB."""
ANSWERS = ("redirect", "maintenance")
"""Settings that answer instead of a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What the object says of our settings.

    Attributes:
        policy: The policy as it was written.
        originals: The owner's values that it stands over, by place and path.
        carried: Header rules of the owner's destination that our destinations have, too.
    """

    policy: Policy = field(default=NO_POLICY, metadata=stored(needed=True))
    originals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=stored(sparse=True))
    carried: Mapping[str, Any] = field(default_factory=dict, metadata=stored(sparse=True))


def policy_key(endpoint: str) -> str:
    """The annotation of an endpoint's policy."""
    return f"{DOMAIN}/policy.{endpoint}"


def written_policy(obj: Mapping[str, Any], endpoint: str) -> Written:
    """What the object's annotation says of our settings.

    Raises:
        InvalidInput: The annotation is damaged.
    """
    text = annotations_of(obj).get(policy_key(endpoint))
    if text is None:
        return Written()
    try:
        return from_json(Written, parsed(text, "the policy"))
    except InvalidInput as exc:
        raise InvalidInput(
            f"{obj.get('kind', 'VirtualService')} '{name_of(obj)}': the annotation {policy_key(endpoint)} is damaged ({exc}); "
            "restore it from a backup, or delete the endpoint with 'mlflow-istio delete-endpoint --force'"
        ) from exc


def policy_annotation(endpoint: str, written: Written) -> dict[str, str | None]:
    """The annotation that holds the policy (None: not there).

    Raises:
        InvalidInput: It is too large to stand on an object.
    """
    originals = {place: values for place, values in written.originals.items() if values}
    kept = Written(policy=written.policy, originals=originals, carried=written.carried)
    if kept == Written():
        return {policy_key(endpoint): None}
    text = compact(to_json(kept))
    if len(text.encode()) > MAX_POLICY:
        raise InvalidInput(
            f"the policy of endpoint '{endpoint}' is larger than {MAX_POLICY} bytes: take rules or headers away first"
        )
    return {policy_key(endpoint): text}


def replaceable(policy: Policy) -> frozenset[str]:
    """Istio's names of the fields that may be set over the owner's own."""
    names = {**ROUTE_FIELDS, **DESTINATION_FIELDS}
    return frozenset(names.get(name, name) for name in policy.replaced)


def route_settings(route: RoutePolicy) -> Settings:
    """What a policy writes into the split's route itself; redirect and maintenance are routes of their own."""
    settings: Settings = {}
    for name, value in route.set_fields.items():
        if name == "headers":
            settings.update(flat_headers(value))
        elif name not in ANSWERS:
            settings[(ROUTE_FIELDS[name],)] = value
    return settings


def with_route_policy(base: Object, written: Written, policy: Policy) -> tuple[Object, dict[str, Any]]:
    """The split's route with our settings, and the owner's values under them.

    Raises:
        StateConflict: The owner has one of the fields, and it may not be replaced.
    """
    return laid_over(
        base,
        route_settings(written.policy.route),
        route_settings(policy.route),
        originals=written.originals.get("", {}),
        replace=replaceable(policy),
        where=f"route '{base.get('name')}'",
    )


def deployment_headers(policy: Policy, deployment: str, carried: Mapping[str, Any]) -> Object:
    """The header rules of a deployment: its own, and those of the owner's destination beside which it stands."""
    return merged_headers(carried, _own_headers(policy, deployment))


def _own_headers(policy: Policy, deployment: str) -> Object:
    """What was set for a deployment, and the header of its version where its server doesn't send one."""
    label = policy.versions.get(deployment)
    named = {"response": {"set": {VERSION_HEADER: header_text(label).replace("%", "%%")}}} if label else None
    return merged_headers(policy.headers.get(deployment), named)


def with_entry_headers(
    entry: Object, deployment: str, written: Written, policy: Policy, carried: Mapping[str, Any], *, fresh: bool
) -> tuple[Object, dict[str, Any]]:
    """A destination of the split with the header rules of its deployment.

    What is carried over gives way to whatever somebody wrote there by hand.

    Args:
        entry: The destination, with or without what we wrote before.
        deployment: Its deployment.
        written: What we wrote before.
        policy: What is to be written.
        carried: Header rules of the owner's destination.
        fresh: Whether it stood in no route before.
    """
    before = {} if fresh else flat_headers(deployment_headers(written.policy, deployment, written.carried))
    own = flat_headers(_own_headers(policy, deployment))
    headers = flat_headers(entry.get("headers"))
    theirs = [path for path, value in headers.items() if before.get(path) != value]
    after = {
        path: value
        for path, value in flat_headers(deployment_headers(policy, deployment, carried)).items()
        if path in own or not any(same_place(path, other) for other in theirs)
    }
    return laid_over(
        entry,
        before,
        after,
        originals={} if fresh else written.originals.get(deployment, {}),
        replace=replaceable(policy),
        where=f"destination '{deployment}'",
    )


def answer_of(route: RoutePolicy) -> Object | None:
    """What answers instead of a model, if something does."""
    if route.redirect is not None:
        return {"redirect": route.redirect}
    return {"directResponse": route.maintenance} if route.maintenance is not None else None


def rule_action(rule: CustomRoute, destination: Object, inherited: Object) -> Object:
    """What a rule's route does: the same as the split's route, but for its own settings and its destination."""
    answer = answer_of(rule.policy)
    if answer is not None:
        return answer
    own = {ROUTE_FIELDS[name]: value for name, value in rule.policy.set_fields.items() if name != "headers"}
    headers = merged_headers(inherited.get("headers"), rule.policy.headers)
    return {"route": [destination], **inherited, **own, **({"headers": headers} if headers else {})}


def stale_match(stale: StaleCookie) -> Object:
    """The match of requests that still carry a cookie of a release that is over."""
    from re import escape

    return {"headers": {"cookie": {"regex": f"(.*; ?)?{escape(stale.cookie)}={escape(stale.release)}\\.[^;]*(;.*)?"}}}


def expiring(stale: StaleCookie, split: Object) -> Object:
    """The split once more, with an answer that tells the browser to forget the cookie."""
    ends = {"response": {"add": {"set-cookie": f"{stale.cookie}=; Path=/; Max-Age=0; SameSite=Lax"}}}
    same = {key: value for key, value in split.items() if key not in ("name", "match")}
    return {**same, "headers": merged_headers(split.get("headers"), ends)}


def merged_headers(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Object:
    """Both groups of header rules as one; where they name the same header, the second counts."""
    if not first or not second:
        return dict(first or second or {})
    result: Object = {}
    for side in dict.fromkeys((*first, *second)):
        sides = (first.get(side) or {}, second.get(side) or {})
        named = {name.lower() for entries in sides[1].values() for name in entries}
        operations: Object = {}
        for operation in dict.fromkeys((*sides[0], *sides[1])):
            operations[operation] = _merged(sides[0].get(operation), sides[1].get(operation), named)
        result[side] = {operation: entries for operation, entries in operations.items() if entries}
    return {side: operations for side, operations in result.items() if operations}


def _merged(first: Any, second: Any, named: set[str]) -> Any:
    if isinstance(first, Sequence) or isinstance(second, Sequence):
        return [*(name for name in first or () if name.lower() not in named), *(second or ())]
    return {**{name: text for name, text in (first or {}).items() if name.lower() not in named}, **(second or {})}
