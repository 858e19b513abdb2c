"""Who gains users by a change.

It is asked of destinations, arms, routes of their own and mirrors, never of header routes, which others can delete; and of routes
as they stand, not as they were written: one that somebody bent has users who go elsewhere once it is written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint, writes_routes
from mlflow_istio.core.endpoint.traffic import Destination, WeightedDestination
from mlflow_istio.core.mesh.standing_routes import shares_of
from mlflow_istio.core.policy.routes import answer_of


class _Way(NamedTuple):
    """A route above the split that hands requests on.

    Attributes:
        deployment: Whom they go to; empty where somebody has bent it.
        match: Which ones; of one that somebody has bent, all of it.
    """

    deployment: str
    match: Any


def gaining(before: Endpoint, after: Endpoint, *, rewritten: bool = False) -> tuple[str, ...]:
    """Deployments of ours that get more requests, or copies of them, than before; each once.

    One whose route of its own comes back after somebody took it away, or bent it, gains, too.

    Args:
        before: The endpoint before.
        after: The endpoint after.
        rewritten: Whether its routes are written though nothing changes.
    """
    if not (rewritten or writes_routes(before, after)):
        return ()
    return tuple(
        dict.fromkeys(str(destination.subset) for destination in _gaining(before, after) if after.owns(destination))
    )


def owners_gaining(before: Endpoint, after: Endpoint) -> tuple[Destination, ...]:
    """Destinations of others that get more requests than before; each once."""
    if not writes_routes(before, after):
        return ()
    return tuple(dict.fromkeys(destination for destination in _gaining(before, after) if not after.owns(destination)))


def has_users(endpoint: Endpoint, deployment: str) -> bool:
    """Whether live requests, or copies, reach a deployment by routes as they stand."""
    lost = {*endpoint.missing, *endpoint.bent}
    parts = [f"arm.{arm.deployment}" for arm in endpoint.traffic.arms if arm.deployment == deployment]
    parts += [f"rule.{rule.name}" for rule in endpoint.traffic.policy.rules if rule.deployment == deployment]
    mirrors = endpoint.traffic.mirrors
    return (
        endpoint.traffic.weights.get(deployment, 0) > 0
        or any(part not in lost for part in parts)
        or any(mirror.destination.name == deployment for mirror in mirrors)
    )


def _gaining(before: Endpoint, after: Endpoint) -> Iterator[Destination]:
    was, now = before.traffic, after.traffic
    opened = _is_closed(before) and not _is_closed(after)
    yield from _more(now.split, {} if opened else {share.destination: share.weight for share in was.split})
    ways, left = list(_in_order(before).values()), list(_ways(after, written=True).values())
    yield from (after.destination(way.deployment) for way in left if way.deployment and way not in ways)
    for index, way in enumerate(ways):  # whose users may fall to what stands below
        if way not in left:
            heir = next((other for other in left if other.match == way.match), None)
            known = heir is not None and heir.deployment
            yield from (after.destination(known),) if known else _below(ways[:index], left, after)
    yield from map(after.destination, _moved_up(ways, left))
    yield from _no_longer_bent(before, after, left)
    copies = {mirror.destination: mirror.percentage for mirror in was.mirrors}
    for mirror in now.mirrors:
        if after.owns(mirror.destination) and mirror.percentage > copies.get(mirror.destination, 0):
            yield mirror.destination


def _is_closed(endpoint: Endpoint) -> bool:
    """Whether everybody gets the same answer, and no model is asked."""
    answered = answer_of(endpoint.traffic.policy.route) is not None
    return answered and "answer" not in endpoint.missing and "answer" not in endpoint.bent


def _more(split: Sequence[WeightedDestination], weights: Mapping[Any, int]) -> list[Destination]:
    return [share.destination for share in split if share.weight > weights.get(share.destination, 0)]


def _below(above: Sequence[_Way], left: Sequence[_Way], after: Endpoint) -> list[Destination]:
    """Who gets the requests that no way above takes."""
    ways = [after.destination(way.deployment) for way in left if way.deployment and way not in above]
    return [*ways, *_more(after.traffic.split, {})]


def _moved_up(ways: Sequence[_Way], left: Sequence[_Way]) -> Iterator[str]:
    """Those whose route was below another one, which has taken their requests since somebody changed the order."""
    for index, way in enumerate(left):
        passed = [other for other in left[index + 1 :] if other in ways and other.deployment != way.deployment]
        if way.deployment and way in ways and any(ways.index(other) < ways.index(way) for other in passed):
            yield way.deployment


def _no_longer_bent(before: Endpoint, after: Endpoint, left: Sequence[_Way]) -> Iterator[Destination]:
    """Who gets the users of copies and answers that somebody had bent, once these are written again or gone."""
    if _is_closed(after):
        return
    policy = after.traffic.policy
    rules = {f"rule.{rule.name}": rule.deployment for rule in policy.rules if answer_of(rule.policy) is None}
    origins = {**rules, **{f"arm.{arm.deployment}": arm.deployment for arm in after.traffic.arms}}
    expiring = {f"expire.{stale.release}" for stale in policy.stale}
    for part, route in before.bent.items():
        kept = after.bent.get(part) == route
        copied = part.removeprefix("fault.")
        if part.startswith(("rule.", "arm.")) or (part == "answer" and kept and answer_of(policy.route) is not None):
            continue
        if part.startswith("fault.") and policy.fault is not None and copied in origins:
            yield from () if copied in after.missing or copied in after.bent else (after.destination(origins[copied]),)
        elif part in expiring or (part.startswith("fault.") and policy.fault and copied in (*expiring, "split")):
            yield from _more(after.traffic.split, shares_of(route, after.name))
        else:
            yield from _below((), left, after)


def _in_order(endpoint: Endpoint) -> dict[str, _Way]:
    """The ways as they stand."""
    ways = _ways(endpoint)
    return {part: ways[part] for part in endpoint.order if part in ways} | ways


def _ways(endpoint: Endpoint, *, written: bool = False) -> dict[str, _Way]:
    """Every route above the split that hands requests on, by its name; once ``written``, arms all stand there again."""
    policy, ways = endpoint.traffic.policy, dict[str, _Way]()
    for rule in policy.rules:
        part = f"rule.{rule.name}"
        if part in endpoint.bent:
            ways[part] = _bent(endpoint.bent[part])
        elif part not in endpoint.missing and answer_of(rule.policy) is None:
            ways[part] = _Way(rule.deployment, rule.match)
    for arm in endpoint.traffic.arms:
        part = f"arm.{arm.deployment}"
        if part in endpoint.bent:
            ways[part] = _bent(endpoint.bent[part])
        elif written or part not in endpoint.missing:
            ways[part] = _Way(arm.deployment, arm.match)
    return ways


def _bent(route: Object) -> _Way:
    return _Way("", route)
