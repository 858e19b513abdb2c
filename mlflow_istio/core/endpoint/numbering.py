"""Numbers of changes never fall, whatever older copy of its object somebody applies: the ledger knows how far they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.routing_change import RoutingChange


def renumbered(endpoint: Endpoint, recorded: Sequence[RoutingChange]) -> Endpoint:
    """The endpoint whose waiting changes have numbers after all that the ledger has; as it is where they do.

    Args:
        endpoint: The endpoint.
        recorded: The ledger's changes of it.
    """
    known = {change.id for change in recorded}
    highest = max((change.sequence for change in recorded if not change.forged), default=0)
    numbers: dict[str, int] = {}
    for change in endpoint.outbox:
        if change.id in known:
            continue  # it was recorded by a process that died, or is about to say so
        highest = numbers[change.id] = max(change.sequence, highest + 1)
    outbox = tuple(replace(change, sequence=numbers.get(change.id, change.sequence)) for change in endpoint.outbox)
    if outbox == endpoint.outbox:
        return endpoint
    last = endpoint.last
    ends = [numbers[old.id] for old in endpoint.outbox if last and old.sequence == last.sequence and old.id in numbers]
    return replace(
        endpoint,
        outbox=outbox,
        sequence=numbers.get(endpoint.change, endpoint.sequence),
        last=replace(last, sequence=ends[0]) if last and ends else last,
    )


def numbered_after(changes: Sequence[RoutingChange], recorded: Sequence[RoutingChange]) -> tuple[RoutingChange, ...]:
    """Changes that stand on no object any more, with numbers after all that the ledger has."""
    highest, numbered = max((change.sequence for change in recorded), default=0), []
    for change in changes:
        highest = max(change.sequence, highest + 1)
        numbered.append(replace(change, sequence=highest))
    return tuple(numbered)


def lost_numbers(pending: Sequence[RoutingChange], recorded: Sequence[RoutingChange]) -> tuple[int, ...]:
    """Numbers between the ledger's newest change and those that wait: changes that were stored, and that nothing has any more."""
    known = {change.id for change in recorded}
    waiting = [change.sequence for change in pending if change.id not in known]
    highest = max((change.sequence for change in recorded), default=0)
    return tuple(number for number in range(highest + 1, max(waiting, default=0)) if number not in waiting)


def set_back_to(endpoint: Endpoint, recorded: Sequence[RoutingChange]) -> int | None:
    """The newest change that the ledger has, where the object is older than that; None where it is not."""
    waiting = {change.id for change in endpoint.outbox}
    others = [change for change in recorded if change.id not in waiting and not change.forged]
    newer = [change.sequence for change in others if change.sequence > endpoint.sequence]
    return max(newer, default=None)
