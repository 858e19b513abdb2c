"""Who gains users by a change.

It is asked of destinations, arms, routes of their own and mirrors, never of header routes, which others can delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.policy.routes import answer_of


def gaining(before: Endpoint, after: Endpoint) -> tuple[str, ...]:
    """Deployments of ours that get more requests, or copies of them, than before; each once.

    One whose route of its own comes back after somebody took it away gains, too.
    """
    return tuple(dict.fromkeys(_gaining(before, after)))


def _gaining(before: Endpoint, after: Endpoint) -> Iterator[str]:
    was, now = before.traffic, after.traffic
    answered = answer_of(was.policy.route) is not None and answer_of(now.policy.route) is None
    weights = {} if answered else {share.destination: share.weight for share in was.split}
    for share in now.split:
        if after.owns(share.destination) and share.weight > weights.get(share.destination, 0):
            yield str(share.destination.subset)
    ways, left = _ways(before), _ways(after, written=True)
    yield from (deployment for deployment, match in left if (deployment, match) not in ways)
    below = [*(deployment for deployment, _ in left), *(_own_names(after))]
    for deployment, match in ways:  # whose users may fall to what stands below
        heir = next((other for other, same in left if same == match), None)
        yield from () if heir == deployment else [heir] if heir else below
    copies = {mirror.destination: mirror.percentage for mirror in was.mirrors}
    for mirror in now.mirrors:
        if after.owns(mirror.destination) and mirror.percentage > copies.get(mirror.destination, 0):
            yield str(mirror.destination.subset)


def _own_names(endpoint: Endpoint) -> Iterator[str]:
    """Deployments with weight."""
    for share in endpoint.traffic.split:
        if share.weight and endpoint.owns(share.destination):
            yield str(share.destination.subset)


def _ways(endpoint: Endpoint, *, written: bool = False) -> list[tuple[str, Any]]:
    """Deployment and match of every route above the split that hands requests on; once ``written``, arms all stand there again."""
    rules = [
        (rule.deployment, rule.match)
        for rule in endpoint.traffic.policy.rules
        if f"rule.{rule.name}" not in endpoint.missing and answer_of(rule.policy) is None
    ]
    return rules + [
        (arm.deployment, arm.match)
        for arm in endpoint.traffic.arms
        if written or f"arm.{arm.deployment}" not in endpoint.missing
    ]
