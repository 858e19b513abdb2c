"""A control's share of the traffic, from its announcement to its end, purely.

A control is a second deployment of the stable's version, as large, as old and as loaded as the candidate, to compare it with. The
deadline that names it stands on the endpoint before its first pod is there, and after its release until its last one is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from mlflow_istio.core.basics.names import MAX_NAME
from mlflow_istio.core.endpoint.deadlines import CONTROL, Deadline, with_deadline, without_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.traffic import Destination, WeightedDestination

_SUFFIX = "-control"


def control_name(stable: str) -> str:
    """The name of a control of this deployment; a long name is cut, and told apart by a digest."""
    name = f"{stable}{_SUFFIX}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(stable.encode()).hexdigest()[:6]
    return f"{stable[: MAX_NAME - len(_SUFFIX) - 7]}-{digest}{_SUFFIX}"


def control_share(weight: float, left: float) -> float:
    """A control's percent: the candidate's, or what is left of the traffic where that is less.

    Args:
        weight: The candidate's percent.
        left: What neither the candidate nor a foreign destination gets.
    """
    return min(weight, left)


def beside_control(
    endpoint: Endpoint, release: Release, split: Sequence[WeightedDestination]
) -> tuple[WeightedDestination, ...]:
    """The split in which the release's control has its share, taken from the stable's; the same without a control."""
    if not release.control:
        return tuple(split)
    control = endpoint.destination(release.control)
    weights = {share.destination: share.weight for share in split}
    ours = sum(weights.get(endpoint.destination(name), 0) for name in release.candidates)
    share = int(control_share(ours, weights.get(endpoint.stable, 0)))
    return _shared(split, endpoint.stable, control, share)


def without_share(endpoint: Endpoint) -> Endpoint:
    """The endpoint whose control has nothing to answer: one that is not ready must get no users."""
    release = endpoint.release
    if release is None or not release.control:
        return endpoint
    control = endpoint.destination(release.control)
    shares = {share.destination: share.weight for share in endpoint.traffic.split}
    given_back = [
        replace(share, weight=share.weight + shares.get(control, 0)) if share.destination == endpoint.stable else share
        for share in endpoint.traffic.split
        if share.destination != control
    ]
    return replace(endpoint, traffic=replace(endpoint.traffic, split=_shared(given_back, endpoint.stable, control, 0)))


def announced(endpoint: Endpoint, control: str, until: datetime) -> Endpoint:
    """The endpoint that knows of a control before it is there: a sweep takes it away then, whoever died meanwhile."""
    check_not_deleting(endpoint)
    return replace(
        endpoint, deadlines=with_deadline(endpoint.deadlines, Deadline(kind=CONTROL, at=until, what=control))
    )


def dismissed(endpoint: Endpoint, control: str) -> Endpoint:
    """The endpoint without a control's part in the open release: its share is the stable's again, and it can be taken away."""
    release = endpoint.release
    if release is None or release.control != control:
        return endpoint
    freed = without_share(endpoint)
    own = endpoint.destination(control)
    split = tuple(share for share in freed.traffic.split if share.destination != own)
    return replace(freed, traffic=replace(freed.traffic, split=split), release=replace(release, control=""))


def forgotten(endpoint: Endpoint, control: str) -> Endpoint:
    """The endpoint after a control was taken away."""
    return replace(endpoint, deadlines=without_deadline(endpoint.deadlines, CONTROL, control))


def with_control_due(before: Endpoint, after: Endpoint) -> Endpoint:
    """The endpoint after a release ended: its control is to be taken away by whoever comes next.

    Args:
        before: The endpoint before, with the release.
        after: The endpoint after; a release that goes on without it has none any more.
    """
    release = before.release
    if release is None or not release.control:
        return after
    if after.release is not None and after.release.control:
        after = replace(after, release=replace(after.release, control=""))
    return announced(after, release.control, release.opened)  # which is long ago: at once


def _shared(
    split: Sequence[WeightedDestination], stable: Destination, control: Destination, weight: int
) -> tuple[WeightedDestination, ...]:
    """The split whose stable gives a weight to the control, which stands last of ours."""
    shares = [
        replace(share, weight=share.weight - weight) if share.destination == stable else share
        for share in split
        if share.destination != control
    ]
    own = [share for share in shares if share.destination.belongs_to(control.host)]
    others = [share for share in shares if share not in own]
    return (*own, WeightedDestination(destination=control, weight=weight), *others)
