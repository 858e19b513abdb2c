"""The four strategies as pure functions from Traffic to Traffic, and what to ask each of them for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_istio.core.basics.names import nearest
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Assignment, Release
from mlflow_istio.core.endpoint.traffic import (
    Arm,
    Destination,
    Mirror,
    SessionAffinity,
    Traffic,
    WeightedDestination,
    check_weight,
    split_between,
)
from mlflow_istio.core.matching.pin_guard import KEY_HEADER
from mlflow_istio.core.matching.probe import PIN_HEADER, PROBE_HEADER
from mlflow_istio.core.mesh.virtual_service import cookie_match, header_match
from mlflow_istio.core.moves.control_share import beside_control
from mlflow_istio.errors import InvalidInput, StateConflict

STRATEGIES = ("canary", "ab", "blue-green", "shadow")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficRequest:
    """What a user asks of the split, the arms and the mirrors; None means: not said.

    Attributes:
        weight: Weight of the only candidate, in percent; stable gets the rest.
        weights: Weight of every destination; replaces the split, so it must name them all and sum to 100.
        mirror: Percentage of the live traffic copied to the candidate.
        header: A/B: request header whose value names the arm.
        cookie: A/B: cookie whose value names the arm; the split sets it.
        values: A/B by header: deployment to the value that means it.
        match: Canary: requests that the candidate gets whatever the weight; empty: none of their own any more.
        arms: A/B: deployment to the requests it gets, in place of a header or cookie.
    """

    weight: int | None = None
    weights: Mapping[str, int] | None = None
    mirror: float | None = None
    header: str | None = None
    cookie: str | None = None
    values: Mapping[str, str] | None = None
    match: tuple[Object, ...] | None = None
    arms: Mapping[str, tuple[Object, ...]] | None = None

    @property
    def fixed(self) -> dict[str, Any]:
        """What of it stays as it is for as long as the release is open, as JSON; its weights may move."""
        given = {
            name: getattr(self, name) for name in ("header", "cookie", "values") if getattr(self, name) is not None
        }
        if self.header is not None:
            given["header"] = self.header.lower()  # Istio and HTTP take every spelling for the same
        if self.arms is not None:
            given["arms"] = {deployment: list(match) for deployment, match in self.arms.items()}
        return given

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that were given."""
        names = ("weight", "weights", "mirror", "header", "cookie", "values", "match", "arms")
        return tuple(name for name in names if getattr(self, name) is not None)


_ALLOWED: Mapping[str, frozenset[str]] = {
    "canary": frozenset({"weight", "weights", "match"}),
    "ab": frozenset({"weight", "weights", "header", "cookie", "values", "arms"}),
    "blue-green": frozenset({"weight", "weights"}),
    "shadow": frozenset({"mirror"}),
}

_WHY_NOT: Mapping[tuple[str, str], str] = {
    ("shadow", "weight"): "a shadow gets copies and no live traffic: use 'mirror', or action=promote to make it stable",
    (
        "shadow",
        "weights",
    ): "a shadow gets copies and no live traffic: use 'mirror', or action=promote to make it stable",
    ("canary", "mirror"): "copies are what strategy=shadow is for",
    ("ab", "match"): "each arm has requests of its own: use 'arms'",
}

_NOT_FOR_ARMS = frozenset(
    {"uri", "scheme", "method", "authority", "host", "cookie", PIN_HEADER, PROBE_HEADER, KEY_HEADER}
)
"""Istio ignores the first four as header matches, which would send everybody to the first arm; the others are in use."""

_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def check_strategy(strategy: str) -> str:
    """Return the strategy's name if there is such a one.

    Raises:
        InvalidInput: There is not; names the nearest.
    """
    if strategy in STRATEGIES:
        return strategy
    raise InvalidInput(f"unknown strategy {strategy!r}: {nearest(strategy, STRATEGIES)}")


def traffic_options(strategy: str) -> frozenset[str]:
    """Names of what a strategy takes of a traffic request."""
    return _ALLOWED[strategy]


def check_traffic_request(strategy: str, traffic_request: TrafficRequest, *, starting: bool) -> None:
    """Refuse options that would have no effect under the strategy.

    Raises:
        InvalidInput: Names the option, the strategy and what to use instead.
    """
    for option in traffic_request.given:
        if option not in _ALLOWED[strategy]:
            why = _WHY_NOT.get((strategy, option), f"it takes: {', '.join(sorted(_ALLOWED[strategy]))}")
            raise InvalidInput(f"option '{option}' has no effect with strategy={strategy}: {why}")
    if traffic_request.weight is not None and traffic_request.weights is not None:
        raise InvalidInput("give either 'weight' (of the candidate) or 'weights' (of every destination), not both")
    if not starting:
        for option in ("header", "cookie", "values", "arms"):
            if option in traffic_request.given:
                raise InvalidInput(f"option '{option}' is fixed when an A/B release starts: abort it and start another")


def start(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> Traffic:
    """Traffic at the start of a release: candidates get the weight asked for, 0 unless given."""
    check_traffic_request(release.strategy, traffic_request, starting=True)
    if release.strategy == "shadow":
        return shadow(endpoint, release, 100.0 if traffic_request.mirror is None else traffic_request.mirror)
    if release.strategy == "ab":
        return ab(endpoint, release, traffic_request)
    return replace(
        endpoint.traffic,
        split=_split(endpoint, release, traffic_request),
        arms=_matched(release, traffic_request.match or ()),
    )


def shift(endpoint: Endpoint, traffic_request: TrafficRequest) -> Traffic:
    """Traffic after the candidates' weight, or the mirrored share, of the open release is changed.

    Raises:
        StateConflict: No release is open.
        InvalidInput: The request does not fit the release's strategy, or the weights don't fit.
    """
    release = endpoint.release
    if release is None:
        raise StateConflict(no_release(endpoint))
    if not traffic_request.given:
        raise InvalidInput("nothing to change: give 'weight', 'weights', 'mirror' or 'action'")
    traffic_request = _without_known(endpoint, release, traffic_request)
    check_traffic_request(release.strategy, traffic_request, starting=False)
    if not traffic_request.given:
        return endpoint.traffic
    if traffic_request.mirror is not None:
        return shadow(endpoint, release, traffic_request.mirror)
    traffic = endpoint.traffic
    if traffic_request.match is not None:
        traffic = replace(traffic, arms=_matched(release, traffic_request.match))
    if traffic_request.weight is None and traffic_request.weights is None:
        return traffic
    return replace(traffic, split=_split(endpoint, release, traffic_request))


def shadow(endpoint: Endpoint, release: Release, percentage: float) -> Traffic:
    """Copies of a percentage of the live traffic go to the candidate; users' answers all come from stable."""
    if not percentage > 0:
        raise InvalidInput(f"a shadow gets more than 0 and at most 100 percent, not {percentage!r}: abort it to end it")
    mirrors = [m for m in endpoint.traffic.mirrors if m.destination.name not in release.candidates]
    ours = [Mirror(destination=endpoint.destination(name), percentage=percentage) for name in release.candidates]
    return replace(endpoint.traffic, mirrors=(*mirrors, *ours))


def ab(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> Traffic:
    """Every arm, stable included, is reached by its header's or cookie's value; the rest is split by weight.

    Sticking stable's users too keeps the candidate's share from growing with every visit.
    """
    if traffic_request.arms is not None:
        return replace(
            endpoint.traffic,
            split=_split(endpoint, release, traffic_request),
            arms=_given_arms(endpoint, release, traffic_request.arms),
        )
    assignment = release.assignment
    if assignment is None:
        raise InvalidInput("strategy=ab needs 'header' or 'cookie': how a caller names the arm")
    matching = header_match if assignment.kind == "header" else cookie_match
    arms = tuple(
        Arm(deployment=name, match=(matching(assignment.name, value),)) for name, value in assignment.values.items()
    )
    sticky = SessionAffinity(cookie=assignment.name, release=release.id) if assignment.kind == "cookie" else None
    return replace(endpoint.traffic, split=_split(endpoint, release, traffic_request), arms=arms, sticky=sticky)


def assignment_for(release_id: str, arms: Sequence[str], traffic_request: TrafficRequest) -> Assignment | None:
    """How callers name the arms of an A/B release; None when each arm has matches of its own.

    Args:
        release_id: The release's id; part of every value, so that one of an earlier release means nothing.
        arms: Deployments, stable first.
        traffic_request: The header or cookie, and values if the caller has its own (header only).

    Raises:
        InvalidInput: Neither or both of header and cookie, or values that don't fit.
    """
    if traffic_request.arms is not None:
        if (
            traffic_request.header is not None
            or traffic_request.cookie is not None
            or traffic_request.values is not None
        ):
            raise InvalidInput("'arms' says which requests each arm gets: leave 'header', 'cookie' and 'values' out")
        return None
    if (traffic_request.header is None) == (traffic_request.cookie is None):
        raise InvalidInput("strategy=ab needs exactly one of 'header' and 'cookie': how a caller names the arm")
    if traffic_request.header is not None and traffic_request.header.lower() in _NOT_FOR_ARMS:
        raise InvalidInput(
            f"header '{traffic_request.header}' can't name the arm, it has a meaning of its own: use another header"
        )
    values = {name: f"{release_id}.{name}" for name in arms}
    if traffic_request.values is not None:
        if traffic_request.cookie is not None:
            raise InvalidInput("option 'values' goes with 'header'; a cookie's values carry the release id")
        unknown = [name for name in traffic_request.values if name not in arms]
        if unknown:
            raise InvalidInput(f"'values' names {unknown[0]!r}, which is no arm: {nearest(unknown[0], arms)}")
        values = {name: value for name in arms if (value := traffic_request.values.get(name)) is not None}
        if len(set(values.values())) < len(values):
            raise InvalidInput("'values' gives two arms the same value: each arm needs its own")
        unfit = [value for value in values.values() if not _HEADER_VALUE.fullmatch(value)]
        if unfit:
            raise InvalidInput(
                f"'values' holds {unfit[0]!r}, which no header carries as it is: use visible ASCII characters"
            )
    name = traffic_request.header if traffic_request.header is not None else str(traffic_request.cookie)
    return Assignment(kind="header" if traffic_request.header is not None else "cookie", name=name, values=values)


def settle(endpoint: Endpoint, stable: Destination) -> Traffic:
    """All live traffic of the release to one destination; no arms, no mirrors and no cookie of ours are left.

    Foreign destinations are never removed. One that takes no part in the release keeps its weight; one that was stable
    gets 0. A fault ends, and so do routes of their own that lead to what users are taken away from.
    """
    foreign = [
        replace(share, weight=0) if share.destination == endpoint.stable else share
        for share in endpoint.traffic.split
        if not endpoint.owns(share.destination) and share.destination != stable
    ]
    release = endpoint.release
    left = {*release.candidates, release.control} if release else {endpoint.stable.name}
    policy = endpoint.traffic.policy
    rules = tuple(rule for rule in policy.rules if rule.deployment not in left - {stable.name})
    if policy.fault is not None:
        policy = replace(policy, fault=None, replaced=tuple(name for name in policy.replaced if name != "fault"))
    return replace(
        endpoint.traffic,
        split=split_between(stable, foreign),
        arms=(),
        sticky=None,
        mirrors=tuple(m for m in endpoint.traffic.mirrors if not endpoint.owns(m.destination)),
        policy=replace(policy, rules=rules),
    )


def no_release(endpoint: Endpoint) -> str:
    """The message for a verb that needs an open release."""
    waiting = [pin for pin in endpoint.traffic.pins if endpoint.role_of(pin) == "idle"]
    start_one = (
        f"start one with -C strategy=canary -C candidate={waiting[0]}" if waiting else "deploy a candidate first"
    )
    return f"endpoint '{endpoint.name}' has no open release, so there is no candidate: {start_one}"


def _matched(release: Release, match: tuple[Object, ...]) -> tuple[Arm, ...]:
    """A canary's own requests: exactly the matching ones, whatever the weight."""
    if match and len(release.candidates) != 1:
        raise InvalidInput(f"'match' needs one candidate, not {len(release.candidates)}: use strategy=ab with 'arms'")
    return (Arm(deployment=release.candidates[0], match=match),) if match else ()


def _given_arms(endpoint: Endpoint, release: Release, arms: Mapping[str, tuple[Object, ...]]) -> tuple[Arm, ...]:
    known = (endpoint.stable.name, *release.candidates)
    unknown = [name for name in arms if name not in known]
    if unknown:
        raise InvalidInput(f"'arms' names {unknown[0]!r}, which is no arm: {nearest(unknown[0], known)}")
    missing = [name for name in release.candidates if name not in arms]
    if missing:
        raise InvalidInput(f"'arms' must say which requests every candidate gets: {missing[0]!r} is missing")
    taken: dict[str, str] = {}
    for name, match in arms.items():
        for rule in match:
            text = json.dumps(rule, sort_keys=True)
            if text in taken:
                raise InvalidInput(
                    f"'arms' gives {taken[text]!r} and {name!r} the same match {text}: each needs its own"
                )
            taken[text] = name
    return tuple(Arm(deployment=name, match=match) for name, match in arms.items())


def _without_known(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> TrafficRequest:
    """The request without what the release already has: the command that started it may be given again."""
    if traffic_request.arms is not None and dict(traffic_request.arms) == {
        arm.deployment: arm.match for arm in endpoint.traffic.arms
    }:
        traffic_request = replace(traffic_request, arms=None)
    if release.assignment is None:
        return traffic_request
    assignment = release.assignment
    same = {
        "header": assignment.kind == "header" and assignment.name.lower() == (traffic_request.header or "").lower(),
        "cookie": assignment.kind == "cookie" and assignment.name == traffic_request.cookie,
        "values": assignment.values == traffic_request.values,
    }
    return replace(traffic_request, **{option: None for option in traffic_request.given if same.get(option)})


def _split(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> tuple[WeightedDestination, ...]:
    candidates = release.candidates
    foreign = [
        share
        for share in endpoint.traffic.split
        if not endpoint.owns(share.destination) and share.destination != endpoint.stable
    ]
    if traffic_request.weights is not None:
        return beside_control(endpoint, release, _replaced(endpoint, release, traffic_request.weights, foreign))
    if traffic_request.weight is not None and len(candidates) > 1:
        raise InvalidInput(
            f"release '{release.id}' has {len(candidates)} candidates: give 'weights' for every destination, "
            'such as {"' + '": 20, "'.join([endpoint.stable.name, *candidates]) + '": 20}'
        )
    shares = [
        WeightedDestination(destination=endpoint.destination(name), weight=traffic_request.weight or 0)
        for name in candidates
    ]
    if release.strategy == "blue-green":
        _check_all_or_nothing({share.destination.name: share.weight for share in shares})
    return beside_control(endpoint, release, split_between(endpoint.stable, [*shares, *foreign]))


def _replaced(
    endpoint: Endpoint, release: Release, weights: Mapping[str, int], foreign: Sequence[WeightedDestination]
) -> tuple[WeightedDestination, ...]:
    destinations = {
        d.name: d
        for d in (
            endpoint.stable,
            *(endpoint.destination(name) for name in release.candidates),
            *(share.destination for share in foreign),
        )
    }
    if release.control and release.control in weights:
        raise InvalidInput(
            f"'weights' names '{release.control}', the control of release '{release.id}', whose share follows the candidate's: "
            "leave it out"
        )
    unknown = [name for name in weights if name not in destinations]
    if unknown:
        raise InvalidInput(
            f"'weights' names {unknown[0]!r}, which is no part of release '{release.id}': {nearest(unknown[0], destinations)}"
        )
    missing = [name for name in destinations if name not in weights]
    if missing:
        raise InvalidInput(
            f"'weights' replaces the split, so it must name every destination: {missing[0]!r} is missing"
        )
    for name, weight in weights.items():
        check_weight(weight, name)
    if release.strategy == "blue-green":
        _check_all_or_nothing(weights)
    return tuple(WeightedDestination(destination=destinations[name], weight=weights[name]) for name in destinations)


def _check_all_or_nothing(weights: Mapping[str, int]) -> None:
    for name, weight in weights.items():
        if weight not in (0, 100):
            raise InvalidInput(
                f"weight {weight} of {name!r} has no place in strategy=blue-green: it moves 0 or 100 at once"
            )
