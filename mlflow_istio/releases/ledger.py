"""Keep the registry in step with the object: left-overs first, in order, each once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint, without_recorded
from mlflow_istio.core.endpoint.numbering import lost_numbers, numbered_after, renumbered
from mlflow_istio.core.endpoint.registry_state import nothing_stands, registry_state_of
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.matching.pin_guard import without_keys
from mlflow_istio.errors import NotFound, RegistryError
from mlflow_istio.releases.context import (
    Context,
    deployments_of,
    edit_endpoint,
    edit_virtual_service,
    endpoint_of,
    versions_of,
)
from mlflow_istio.releases.reporting import OUTCOMES, report_ended

_ROUNDS = 5
"""How often tags and aliases are written anew because the endpoint changed while they were; the next command does the rest."""


def flush_outbox(
    context: Context,
    name: str,
    *,
    objects: Mapping[str, Mapping[str, Object]] | None = None,
    publish: bool = True,
    stored: Sequence[RoutingChange] = (),
) -> tuple[str, ...]:
    """Record what the registry does not have yet, then make its tags and aliases say what stands now.

    A registry that is down is a warning here, never an error: the changes wait on the object, and the next command
    records them. A change that took a deployment away waits until the tags of its version are gone, too: nothing else
    would know that there are any. What the caller has stored is recorded though somebody took it off the object meanwhile.

    Args:
        context: The ports.
        name: The endpoint.
        objects: Change id to the artifacts that are known for it, by file stem.
        publish: Whether to publish even when nothing was left over.
        stored: Changes that waited on the object as the caller has just written it.

    Returns:
        Warnings, one line each.
    """
    endpoint = endpoint_of(context.cluster, name)
    pending = endpoint.outbox
    waiting = {change.id for change in pending}
    taken_off = [change for change in stored if change.id not in waiting]
    recorded: list[RoutingChange] = []
    moved: list[str] = []
    try:
        if pending or taken_off:
            known = context.registry.history(context.scope, name)
            if taken_off:
                known, moved = _with_taken_off(context, endpoint, taken_off, known, objects or {})
            endpoint, notes = _with_numbers_of_their_own(context, endpoint, known)
            moved, pending = [*moved, *notes], endpoint.outbox
        for change in pending:
            moved += _record(
                context, endpoint, _with_run(context, endpoint, change), (objects or {}).get(change.id, {})
            )
            recorded.append(change)
    except RegistryError as exc:
        _forget(context, endpoint, (change for change in recorded if not _removed(change, endpoint)))
        left = len(pending) - len(recorded)
        if not left:
            return (
                *moved,
                f"whether the registry has what was just stored on endpoint '{name}' can't be told, and somebody has taken it off "
                f"the object ({exc.message})",
            )
        return (
            *moved,
            f"{left} routing change{'s wait' if left > 1 else ' waits'} on endpoint '{name}' itself until the registry takes "
            f"{'them' if left > 1 else 'it'} ({exc.message})",
        )
    if not (publish or recorded):
        return ()
    reported = (*moved, *report_ended(context, name, recorded))
    try:
        gone = _publish(context, endpoint, {label for change in recorded for label in _removed(change, endpoint)})
    except RegistryError as exc:
        _forget(context, endpoint, (change for change in recorded if not _removed(change, endpoint)))
        return (
            *reported,
            f"tags and aliases of endpoint '{name}' are not up to date ({exc.message}); any later command tries again",
        )
    _forget(context, endpoint, recorded)
    return (*reported, *gone)


def _with_taken_off(
    context: Context,
    endpoint: Endpoint,
    changes: Sequence[RoutingChange],
    known: Sequence[RoutingChange],
    objects: Mapping[str, Mapping[str, Object]],
) -> tuple[list[RoutingChange], list[str]]:
    """The ledger's changes with those that somebody took off the object, which are recorded here; a warning for each.

    Another process may have recorded them, which takes them off, too.
    """
    recorded, warnings = list(known), list[str]()
    ids = {change.id for change in known}
    for change in numbered_after([change for change in changes if change.id not in ids], known):
        warnings += _record(context, endpoint, _with_run(context, endpoint, change), objects.get(change.id, {}))
        recorded.append(change)
        stands = change.id == endpoint.change
        warnings.append(
            f"somebody took change {change.sequence} ({change.action}) off VirtualService '{endpoint.virtual_service}' before the "
            f"registry had it: it is recorded, and {'in force' if stands else 'not in force any more'}"
        )
    return recorded, warnings


def _with_numbers_of_their_own(
    context: Context, endpoint: Endpoint, known: Sequence[RoutingChange]
) -> tuple[Endpoint, list[str]]:
    """The endpoint whose waiting changes are numbered after all that the ledger has, and a warning where they were not.

    Somebody has applied an older copy of the object then, such as an export that Git has. So they have where numbers are missing.
    """
    after, warnings = endpoint, list[str]()
    if renumbered(endpoint, known) != endpoint:
        after, warnings = _renumbered(context, endpoint, known)
    lost = lost_numbers(after.outbox, known)
    if lost:
        which = f"change {lost[0]} is" if len(lost) == 1 else f"changes {lost[0]} to {lost[-1]} are"
        warnings.append(
            f"{which} neither in the registry nor on VirtualService '{endpoint.virtual_service}' any more: somebody applied an "
            f"older copy of it, or the registry of endpoint '{endpoint.name}' is not the one it was"
        )
    return after, warnings


def _renumbered(context: Context, endpoint: Endpoint, known: Sequence[RoutingChange]) -> tuple[Endpoint, list[str]]:
    after = edit_endpoint(context.cluster, endpoint.virtual_service, endpoint.name, lambda now: renumbered(now, known))
    return after, [
        f"somebody applied an older copy of VirtualService '{endpoint.virtual_service}', which had set endpoint "
        f"'{endpoint.name}' back to an earlier change: its changes are numbered on to {after.sequence}"
    ]


def publish_nothing(
    context: Context, name: str, settings: Mapping[str, str], versions: Iterable[str]
) -> tuple[str, ...]:
    """Take tags and aliases of an endpoint away that has no object any more; a registry that is down is a warning."""
    try:
        context.registry.publish(nothing_stands(context.scope, name, settings, versions))
    except RegistryError as exc:
        return (
            f"tags 'istio.{context.scope}.{name}.*' and aliases are left over in the registry ({exc.message}): remove them there",
        )
    return ()


def run_for(
    context: Context, name: str, release: Release | None, *, new: bool = False
) -> tuple[str | None, tuple[str, ...]]:
    """The run a change will be recorded in, opened before the edit; None with a warning while the registry is down.

    Raises:
        StateConflict: The release is new, and the registry knows its id of another plan, or of one that has ended.
    """
    try:
        if new:
            return context.registry.open_run(context.scope, name, release, new=True), ()
        return context.registry.open_run(context.scope, name, release), ()
    except RegistryError as exc:
        return None, (f"no run could be opened yet ({exc.message}); the changes wait on the object",)


def check_run(context: Context, name: str, release: Release) -> None:
    """Refuse a release whose id is used up, before anything is done for it; a registry that is down knows no better.

    Raises:
        StateConflict: The registry knows the id of another plan, or of one that has ended.
    """
    with contextlib.suppress(RegistryError):
        context.registry.check_run(context.scope, name, release)


def _record(
    context: Context, endpoint: Endpoint, change: RoutingChange, objects: Mapping[str, Object]
) -> tuple[str, ...]:
    """Record a change; one that ends a release ends its run, too, and is not recorded before that."""
    kept = {stem: without_keys(obj) for stem, obj in objects.items()}
    warnings = context.registry.record(context.scope, change, kept)
    outcome = OUTCOMES.get(change.action)
    if endpoint.release is not None and endpoint.release.id == change.release:
        return warnings  # a rollback to the middle of a release opened it again
    if change.run is not None and change.release is not None and outcome is not None:
        context.registry.close_run(change.run, outcome)
    return warnings


def _publish(context: Context, endpoint: Endpoint, removed: set[str]) -> tuple[str, ...]:
    """Write tags and aliases, and look whether the endpoint is still the same: the last writer must be right."""
    warnings: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        versions = versions_of(deployments_of(context.cluster, endpoint.name))
        gone = removed | set(versions.values()) if endpoint.deleting else removed
        warnings = context.registry.publish(registry_state_of(endpoint, context.scope, versions, gone))
        before = endpoint
        try:
            endpoint = endpoint_of(context.cluster, endpoint.name)
        except NotFound:
            labels = removed | set(versions.values())
            return context.registry.publish(nothing_stands(context.scope, endpoint.name, endpoint.settings, labels))
        if (endpoint.change, endpoint.release) == (before.change, before.release):
            break
    return warnings


def _removed(change: RoutingChange, endpoint: Endpoint) -> set[str]:
    """``MODEL/VERSION`` of deployments that a change took away, or that went with the endpoint."""
    if change.before is None:
        return set()
    left = () if endpoint.deleting else endpoint.traffic.pins
    gone = {pin for pin in change.before.pins if pin not in left}
    return {version for deployment, version in change.versions.items() if deployment in gone}


def _with_run(context: Context, endpoint: Endpoint, change: RoutingChange) -> RoutingChange:
    """A change made while the registry was down has no run: it gets its release's, or the standing one."""
    if change.run is not None:
        return change
    if change.release is None:
        return replace(change, run=context.registry.open_run(context.scope, endpoint.name, None))
    if endpoint.release is not None and endpoint.release.id == change.release:
        release = endpoint.release
    elif endpoint.last is not None and endpoint.last.id == change.release:
        last = endpoint.last
        release = Release(
            id=last.id, strategy=last.strategy, candidates=last.candidates, opened=change.time, who=change.who
        )
    else:
        release = Release(id=change.release, strategy="", candidates=(), opened=change.time, who=change.who)
    return replace(change, run=context.registry.open_run(context.scope, endpoint.name, release))


def _forget(context: Context, endpoint: Endpoint, recorded: Iterable[RoutingChange]) -> None:
    name, virtual_service = endpoint.name, endpoint.virtual_service
    ids = frozenset(change.id for change in recorded)
    if not ids:
        return

    edit_virtual_service(context.cluster, virtual_service, name, lambda obj: without_recorded(obj, name, ids))
