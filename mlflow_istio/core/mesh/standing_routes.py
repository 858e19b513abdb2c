"""Which of our routes stand as they were written, and which somebody took away, bent, or moved.

A route is as it was written where its matches are, and whoever answers: destinations, a redirect, an answer of its own, a fault,
copies. Timeouts, retries and headers follow the split's route and decide nothing of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.objects import Object, is_own_route, prefix
from mlflow_istio.core.basics.stored import from_json, to_json
from mlflow_istio.core.endpoint.endpoint import STRAY, Endpoint
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.matching.pin_guard import guard_match
from mlflow_istio.core.matching.probe import PIN_HEADER
from mlflow_istio.core.mesh.own_matches import PROBE, both, combined, outer_matches
from mlflow_istio.core.policy.routes import answer_of, stale_match
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.errors import InvalidInput

_DERIVED = ("fault.", "expire.")
_NO_USERS = ("pin.", PROBE)
_ANSWERS = ("redirect", "directResponse", "delegate")
_ACTIONS = (*_ANSWERS, "fault", "mirror", "mirrors", "mirrorPercentage", "mirrorPercent")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """A route as it was written.

    Attributes:
        part: The last part of its name.
        own: Its matches inside those of the split's route.
        match: Both together; None where there are none that ask for both.
        action: Whoever answers.
    """

    part: str
    own: Sequence[Object]
    match: Sequence[Object] | None
    action: Object


def as_they_stand(routes: Sequence[Object], base: Object, endpoint: Endpoint) -> Endpoint:
    """The endpoint, knowing which of its routes do not stand above the split as they should.

    Args:
        routes: The http routes, in order.
        base: The one among them that carries the split.
        endpoint: The endpoint as its annotations and routes say.
    """
    above, bent = _above(routes, base, endpoint.name)
    outer = outer_matches(endpoint.name, [route for route in routes if is_own_route(route, endpoint.name)], base)
    missing = [
        pin.part
        for pin in _pins(endpoint, outer)
        if pin.part not in above or not _stands(above.pop(pin.part), pin, _answered_by)
    ]
    live = list(_live(endpoint, outer))
    known = [written.part for written in live]
    missing += [part for part in known if part not in above]
    for written in live:
        if written.part in above and not _stands(above[written.part], written, _answered_by):
            bent[written.part] = above[written.part]
    bent |= _derived(endpoint, outer, base, above, live)
    others = {part: route for part, route in above.items() if part not in known and not part.startswith(_NO_USERS)}
    bent |= {STRAY + part: route for part, route in others.items() if not part.startswith(_DERIVED)}
    order = tuple(part for part in above if part in known)
    in_order = order == tuple(part for part in known if part in above)
    if not (missing or bent) and in_order:
        return endpoint
    return replace(endpoint, missing=tuple(missing), bent=bent, order=() if in_order else order)


def _above(routes: Sequence[Object], base: Object, endpoint: str) -> tuple[dict[str, Object], dict[str, Object]]:
    """Our routes above the split by the last part of their names; and those that no request reaches as they have a name twice."""
    start, above, twice = prefix(endpoint), dict[str, Object](), dict[str, Object]()
    for route in routes:
        if route is base or route.get("name") == base.get("name"):
            break
        if is_own_route(route, endpoint):
            part = str(route["name"]).removeprefix(start)
            (twice if part in above else above)[STRAY + part if part in above else part] = route
    return above, twice


def _stands(route: Object, expected: _Expected, by: Callable[[Mapping[str, Any]], Any]) -> bool:
    return _match(route) == expected.match and by(route) == by(expected.action)


def _match(route: Mapping[str, Any]) -> list[Object]:
    return route.get("match") or [{}]


def _answered_by(route: Mapping[str, Any]) -> tuple[Any, Any]:
    return _entries(route), {field: route[field] for field in _ACTIONS if route.get(field)}


def _led_to(route: Mapping[str, Any]) -> tuple[Any, Any]:
    """Whoever answers, but for a fault and copies: those of a copy of a route are not its own."""
    return _entries(route), {field: route[field] for field in _ANSWERS if route.get(field)}


def shares_of(route: Mapping[str, Any], endpoint: str) -> dict[Destination, int]:
    """Destinations of a route, as an endpoint reads them, with the percent that each gets."""
    return {from_json(Destination, destination, endpoint=endpoint): weight for destination, weight in _entries(route)}


def _entries(route: Mapping[str, Any]) -> list[tuple[Any, int]]:
    """Destinations as they are written, each with its percent; those without any are left out."""
    entries = route.get("route") or []
    shares = [(entry.get("destination"), 100 if len(entries) == 1 else entry.get("weight") or 0) for entry in entries]
    return [(destination, weight) for destination, weight in shares if weight]


def _to(endpoint: Endpoint, deployment: str) -> Object:
    return {"route": [{"destination": to_json(endpoint.destination(deployment))}]}


def _expected(outer: Sequence[Object], part: str, own: Sequence[Object], action: Object) -> _Expected:
    return _Expected(part=part, own=own, match=_inside(outer, own), action=action)


def _inside(outer: Sequence[Object], own: Sequence[Object]) -> list[Object] | None:
    try:
        return combined(outer, own or [{}], {}) or [{}]
    except InvalidInput:
        return None


def _pins(endpoint: Endpoint, outer: Sequence[Object]) -> Iterator[_Expected]:
    for pin in endpoint.traffic.pins:
        own = [{"headers": {PIN_HEADER: {"exact": pin}, **guard_match(endpoint.guard)}}]
        yield _expected(outer, f"pin.{pin}", own, _to(endpoint, pin))


def _live(endpoint: Endpoint, outer: Sequence[Object]) -> Iterator[_Expected]:
    """What takes requests before the split does, in order."""
    policy = endpoint.traffic.policy
    answer = answer_of(policy.route)
    if answer is not None:
        yield _expected(outer, "answer", (), answer)
    for rule in policy.rules:
        action = answer_of(rule.policy) or _to(endpoint, rule.deployment)
        yield _expected(outer, f"rule.{rule.name}", rule.match, action)
    for arm in endpoint.traffic.arms:
        yield _expected(outer, f"arm.{arm.deployment}", arm.match, _to(endpoint, arm.deployment))


def _derived(
    endpoint: Endpoint, outer: Sequence[Object], base: Object, above: Mapping[str, Object], live: Sequence[_Expected]
) -> dict[str, Object]:
    """Copies of routes (those with the fault, those that end a cookie) that lead elsewhere than these, or have other requests.

    The latter, and those that copy nothing any more, are strays: nobody can say whose users they took.
    """
    policy, bent = endpoint.traffic.policy, dict[str, Object]()
    copied = [_expected(outer, f"expire.{stale.release}", [stale_match(stale)], base) for stale in policy.stale]
    copies: dict[str, tuple[Sequence[Object] | None, Object]] = {
        written.part: (written.match, written.action) for written in copied
    }
    if policy.fault is not None:
        split = _expected(outer, "split", (), base)
        for written in (*(live if not policy.answers else ()), *copied, split):
            now = above.get(written.part) if written in live else None
            kept = now is not None and not _stands(now, written, _answered_by)
            match = (
                _faulted(_match(now or {}), policy.fault, ()) if kept else _faulted(written.own, policy.fault, outer)
            )
            copies[f"fault.{written.part}"] = (match, now if kept and now is not None else written.action)
    for part, route in above.items():
        if part.startswith(_DERIVED):
            wanted, origin = copies.get(part, (None, {}))
            if _match(route) != wanted:
                bent[STRAY + part] = route
            elif _led_to(route) != _led_to(origin):
                bent[part] = route
    return bent


def _faulted(match: Sequence[Object], fault: Fault, outer: Sequence[Object]) -> list[Object] | None:
    """The matches of the copy that has the fault: what asks for both, inside those of the split's route."""
    try:
        merged = [
            both(route_condition, fault_condition, {}, same=True)
            for route_condition in match or [{}]
            for fault_condition in fault.match or [{}]
        ]
    except InvalidInput:
        return None
    return _inside(outer, [condition for condition in merged if condition])
