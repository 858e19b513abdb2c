"""A promotion that is watched: the candidate is stable, and who was stable before keeps a small share to compare with.

How a watch ends is part of ``transitions``: ``promote`` ends it well, ``rollback`` and ``abort`` go back.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mlflow_istio.core.endpoint.deadlines import WATCH, Deadline, with_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.release_state import Watching
from mlflow_istio.core.endpoint.traffic import Traffic, WeightedDestination, split_between
from mlflow_istio.core.moves.policies import settled
from mlflow_istio.core.moves.strategies import no_release, settle
from mlflow_istio.errors import InvalidInput, StateConflict


def check_can_be_held_back(endpoint: Endpoint) -> None:
    """Refuse a watch where the one before could not keep a share of the traffic.

    Raises:
        InvalidInput: The stable is its owner's, who counts its requests and may take it away.
    """
    if not endpoint.owns(endpoint.stable):
        raise InvalidInput(
            f"option 'watch' needs a stable that was deployed here: '{endpoint.stable.name}' of endpoint '{endpoint.name}' is its "
            "owner's, who may change it meanwhile; leave 'watch' out"
        )


def watch(
    endpoint: Endpoint, candidate: str, *, holdback: int, until: datetime, now: datetime, keep: float | None = None
) -> Endpoint:
    """Make the candidate stable, and leave a share of the traffic on who was stable before; one edit. The release stays open.

    Args:
        endpoint: The endpoint, with a release open.
        candidate: Whom to promote.
        holdback: Percent of the live traffic that stays.
        until: When a sweep ends the watch that nobody has ended, in UTC.
        now: The time in UTC.
        keep: Seconds from now on for which the one before stays deployed; None: until somebody deletes it.

    Raises:
        StateConflict: No release is open.
        InvalidInput: The stable is not one of ours, or the owner's destinations leave no room for the share.
    """
    check_not_deleting(endpoint)
    release = endpoint.release
    if release is None:
        raise StateConflict(no_release(endpoint))
    if release.watching is not None:
        return endpoint
    check_can_be_held_back(endpoint)
    watching = Watching(previous=endpoint.stable, holdback=holdback, since=now, keep=keep)
    chosen = endpoint.destination(candidate)
    promoted = replace(endpoint, traffic=settle(endpoint, chosen), stable=chosen)
    promoted = replace(promoted, traffic=_held_back(promoted, watching), release=replace(release, watching=watching))
    promoted = settled(endpoint, promoted, now=now)
    return with_end(promoted, until)


def with_end(endpoint: Endpoint, until: datetime) -> Endpoint:
    """The endpoint whose watch a sweep ends then."""
    release = endpoint.release
    if release is None or release.watching is None:
        return endpoint
    return replace(
        endpoint, deadlines=with_deadline(endpoint.deadlines, Deadline(kind=WATCH, at=until, what=release.id))
    )


def held_back(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the weights of its watch, whatever somebody made of them."""
    watching = endpoint.release.watching if endpoint.release else None
    return endpoint if watching is None else replace(endpoint, traffic=_held_back(endpoint, watching))


def _held_back(endpoint: Endpoint, watching: Watching) -> Traffic:
    others = [share for share in endpoint.traffic.split if not endpoint.owns(share.destination)]
    theirs = sum(share.weight for share in others)
    if theirs + watching.holdback >= 100:
        raise InvalidInput(
            f"endpoint '{endpoint.name}' has no room for holdback={watching.holdback}: {theirs}% of its traffic are its owner's"
        )
    previous = WeightedDestination(destination=watching.previous, weight=watching.holdback)
    return replace(endpoint.traffic, split=split_between(endpoint.stable, [previous, *others]))
