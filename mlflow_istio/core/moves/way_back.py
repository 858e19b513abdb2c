"""Traffic of an earlier routing change, put back: which deployments it needs, and the endpoint with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.release_state import Assignment, ClosedRelease, Release
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Arm, Destination, Traffic, WeightedDestination
from mlflow_istio.core.moves.policies import opened, settled
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict


def find_change(changes: Iterable[RoutingChange], to: str, endpoint: str) -> RoutingChange:
    """The change of a sequence number or an id.

    Raises:
        NotFound: There is none; says which there are.
        InvalidInput: Several have that number, since an earlier version counted from an older copy of the object; names their ids.
    """
    known = sorted(changes, key=lambda change: (change.sequence, change.time))
    meant = [change for change in known if change.id == to] or [
        change for change in known if str(change.sequence) == to
    ]
    if len(meant) > 1:
        each = " and ".join(
            f"'{change.id}' ({change.action}, {change.time.isoformat(timespec='seconds')})" for change in meant
        )
        raise InvalidInput(
            f"endpoint '{endpoint}' has {len(meant)} changes {to}: name the one you mean by its id: {each}"
        )
    if meant:
        return meant[0]
    has = f"it has 1 to {known[-1].sequence}" if known else "none is known"
    raise NotFound(f"endpoint '{endpoint}' has no routing change '{to}': {has} (see 'mlflow-istio history {endpoint}')")


def check_restorable(change: RoutingChange) -> Traffic:
    """The traffic that a change left, if it can be put back.

    Raises:
        StateConflict: The change deleted the endpoint, or its entry does not hold all of the traffic.
    """
    if change.after is None:
        raise StateConflict(
            f"change {change.sequence} of endpoint '{change.endpoint}' deleted it and left no traffic: name an earlier one"
        )
    if not change.whole:
        raise StateConflict(
            f"the entry of change {change.sequence} of endpoint '{change.endpoint}' was too long for a tag and holds only part "
            "of its traffic: its objects are in its run's artifacts under 'changes'; set the traffic by hand"
        )
    return _without_control(change, change.after)


def _without_control(change: RoutingChange, then: Traffic) -> Traffic:
    """The traffic with a control's share on the stable, which is the same version: a control goes with its release for good."""
    weight = then.weights.get(change.control, 0) if change.control else 0
    stable = change.stable or then.split[0].destination
    split = tuple(
        replace(share, weight=share.weight + weight) if share.destination == stable else share
        for share in then.split
        if not change.control or share.destination.name != change.control
    )
    return replace(then, split=split, pins=tuple(pin for pin in then.pins if pin != change.control))


def needed(change: RoutingChange, changes: Sequence[RoutingChange]) -> dict[str, str]:
    """Deployments that the traffic of a change goes to, each with its ``MODEL/VERSION``; empty where nobody wrote it down."""
    traffic = check_restorable(change)
    own = [share.destination for share in traffic.split] + [mirror.destination for mirror in traffic.mirrors]
    names = [str(destination.subset) for destination in own if destination.belongs_to(change.endpoint)] + [
        arm.deployment for arm in traffic.arms
    ]
    written = [change, *(other for other in reversed(changes) if other.sequence <= change.sequence), *changes]
    return {
        name: next((other.versions[name] for other in written if other.versions.get(name)), "")
        for name in dict.fromkeys(names)
    }


def restore(endpoint: Endpoint, change: RoutingChange, now: datetime, deployed: Sequence[str] = ()) -> Endpoint:
    """The endpoint with the traffic that an earlier change left: weights, arms, mirrors and stickiness.

    Deployments and settings that came since stay. A release whose traffic comes back is open again, but paused; another one
    that is open ends as rolled back.

    Args:
        endpoint: The endpoint as it is.
        change: The change.
        now: The time in UTC.
        deployed: Deployments that run: those that had a header route then get it back.

    Raises:
        StateConflict: The traffic can't be put back; names what it lacks.
    """
    check_not_deleting(endpoint)
    change = _as_now(endpoint, change)
    then = check_restorable(change)
    stable = change.stable or then.split[0].destination
    pins = tuple(sorted({*endpoint.traffic.pins, *(pin for pin in then.pins if pin in deployed)}))
    missing = [name for name in needed(change, ()) if name not in pins]
    if missing:
        raise StateConflict(
            f"change {change.sequence} needs deployment '{missing[0]}', which endpoint '{endpoint.name}' does not have: deploy "
            "it first"
        )
    traffic = replace(
        endpoint.traffic,
        split=_split(endpoint, change, then),
        pins=pins,
        arms=then.arms,
        sticky=then.sticky,
        mirrors=(
            *(mirror for mirror in endpoint.traffic.mirrors if not endpoint.owns(mirror.destination)),
            *(mirror for mirror in then.mirrors if mirror.destination.belongs_to(endpoint.name)),
        ),
    )
    candidates = _candidates(endpoint, traffic, stable)
    release = _release(endpoint, change, traffic, candidates) if candidates else None
    same = release is not None and endpoint.release is not None and release.id == endpoint.release.id
    if release is not None and release.watching is not None and stable != endpoint.stable:
        release, same = replace(release, watching=None, state="paused"), False  # to before its promotion
    result = replace(
        endpoint.wanting(*(f"arm.{arm.deployment}" for arm in then.arms)),
        traffic=traffic,
        stable=stable,
        release=release,
        progress=endpoint.progress if same else None,
        last=_last(endpoint, release, stable),
    )
    if result.traffic.sticky != endpoint.traffic.sticky or not same:
        result = settled(endpoint, result, now=now if endpoint.traffic.sticky != traffic.sticky else None)
    return opened(result)


def _as_now(endpoint: Endpoint, change: RoutingChange) -> RoutingChange:
    """The change with its deployments where they are now: one may have been attached then and run here since, or the reverse."""

    def now(destination: Destination) -> Destination:
        ours = destination.belongs_to(endpoint.name)
        return endpoint.destination(str(destination.subset)) if ours else destination

    then = change.after
    if then is None:
        return change
    split = tuple(replace(share, destination=now(share.destination)) for share in then.split)
    mirrors = tuple(replace(mirror, destination=now(mirror.destination)) for mirror in then.mirrors)
    stable = None if change.stable is None else now(change.stable)
    return replace(change, after=replace(then, split=split, mirrors=mirrors), stable=stable)


def _split(endpoint: Endpoint, change: RoutingChange, then: Traffic) -> tuple[WeightedDestination, ...]:
    """The split as it was; a foreign destination that came since gets nothing, since it is never removed."""
    has = {share.destination for share in endpoint.traffic.split}
    for share in then.split:
        if not share.destination.belongs_to(endpoint.name) and share.destination not in has:
            raise StateConflict(
                f"change {change.sequence} had '{share.destination.name}' in route '{endpoint.route}', which is not ours and is "
                "not there any more: its owner must put it back first"
            )
    was = {share.destination for share in then.split}
    came = [
        replace(share, weight=0)
        for share in endpoint.traffic.split
        if not endpoint.owns(share.destination) and share.destination not in was
    ]
    return (*then.split, *came)


def _candidates(endpoint: Endpoint, traffic: Traffic, stable: Destination) -> tuple[str, ...]:
    """Deployments beside stable that the traffic names: a release was open."""
    own = [share.destination for share in traffic.split] + [mirror.destination for mirror in traffic.mirrors]
    names = [
        str(destination.subset)
        for destination in own
        if destination.belongs_to(endpoint.name) and destination != stable
    ]
    arms = [arm.deployment for arm in traffic.arms if endpoint.destination(arm.deployment) != stable]
    return tuple(dict.fromkeys([*names, *arms]))


def _release(endpoint: Endpoint, change: RoutingChange, traffic: Traffic, candidates: tuple[str, ...]) -> Release:
    """The release that the change belonged to; what is not remembered of it is told by the traffic."""
    release = endpoint.release
    name = change.release or f"restored-{change.sequence}"
    if release is not None and release.id == name:
        return release
    last = endpoint.last if endpoint.last and endpoint.last.id == name else None
    if last is not None and set(last.candidates) == set(candidates):
        strategy, candidates = last.strategy, last.candidates
    elif any(mirror.destination.subset in candidates for mirror in traffic.mirrors):
        strategy = "shadow"
    else:  # a canary may have requests of its own, too; only an A/B release tells users apart
        told_apart = traffic.arms and (len(candidates) > 1 or _assignment(traffic) is not None)
        strategy = "ab" if told_apart else "canary"
    return Release(
        id=name,
        versions=last.versions if last else {},
        options=last.options if last and last.candidates == candidates else "",
        strategy=strategy,
        candidates=candidates,
        state="paused",
        opened=change.time,
        who=change.who,
        run=change.run,
        assignment=_assignment(traffic) if strategy == "ab" else None,
    )


def _assignment(traffic: Traffic) -> Assignment | None:
    """How the arms' matches name users."""
    if traffic.sticky is not None:
        values = {arm.deployment: f"{traffic.sticky.release}.{arm.deployment}" for arm in traffic.arms}
        return Assignment(kind="cookie", name=traffic.sticky.cookie, values=values)
    headers = [(arm.deployment, header) for arm in traffic.arms if (header := _header(arm)) is not None]
    names = {name for _, (name, _) in headers}
    if len(names) != 1:
        return None
    return Assignment(kind="header", name=names.pop(), values={deployment: value for deployment, (_, value) in headers})


def _header(arm: Arm) -> tuple[str, str] | None:
    for match in arm.match:
        headers: Mapping[str, Mapping[str, str]] = match.get("headers", {})
        for name, wanted in headers.items():
            if "exact" in wanted:
                return name, wanted["exact"]
    return None


def _last(endpoint: Endpoint, release: Release | None, stable: Destination) -> ClosedRelease | None:
    """How the last release ended, now: an open one that is left is rolled back, a promotion that is undone, too."""
    left = endpoint.release
    if left is not None and (release is None or release.id != left.id):
        return ClosedRelease(
            id=left.id,
            strategy=left.strategy,
            outcome="rolled-back",
            candidates=left.candidates,
            run=left.run,
            versions=left.versions,
            options=left.options,
        )
    last = endpoint.last
    if last is None or (release is not None and release.id == last.id):
        return None
    if stable != endpoint.stable:
        return replace(last, outcome="rolled-back", previous=None)
    return last


__all__ = ["check_restorable", "find_change", "needed", "restore"]
