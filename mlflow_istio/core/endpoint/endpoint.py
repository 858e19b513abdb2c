"""What an endpoint's VirtualService says, as one value: its traffic, its release, and what the registry still has to learn.

All of it stands on one object, so one write under one resourceVersion changes all of it or nothing. Annotations are keyed
by endpoint, because several endpoints may share one VirtualService.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.objects import DOMAIN, Object, annotations_of, name_of, prefix, with_annotations
from mlflow_istio.core.basics.stored import NOT_STORED, compact, from_json, parsed, stored, to_json
from mlflow_istio.core.endpoint.adopted import Adopted
from mlflow_istio.core.endpoint.deadlines import CONTROL, Deadline
from mlflow_istio.core.endpoint.release_state import (
    ClosedRelease,
    EarlierRelease,
    Release,
)
from mlflow_istio.core.endpoint.routing_change import RoutingChange
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, attached_host
from mlflow_istio.errors import InvalidInput, StateConflict

PARTS = ("state", "release", "unrecorded", "progress", "untold", "deadlines", "policy", "deployed")
"""Parts of an endpoint that stand in annotations of their own."""

PROTOCOL = "protocol"
"""The setting that says what callers of an endpoint speak, where that is not HTTP."""

MAX_UNRECORDED = 100
MAX_UNRECORDED_BYTES = 128 * 1024
"""Changes kept on the object while the registry is down. All annotations together may hold 256 KiB: beyond these bounds only a
rollback, an abort or a deletion may still add its entry, and each of them can do so once or twice at most."""

STRAY = "stray."
"""Before the name of a route of ours that nothing here stands for any more: nobody can say whose users it took."""

MAX_EARLIER = 20
"""Ended releases before the last one whose ids the object remembers; what is older, the registry knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Everything the VirtualService says about one endpoint; stored as JSON, it is what the annotation ``state`` holds.

    Attributes:
        name: The endpoint; also the host of its own destinations.
        traffic: What it does with a request.
        stable: What users get today.
        route: Name of the route that carries the split: ours, or an adopted one.
        sequence: How many routing changes there were.
        change: Id of the newest change; the probe route answers with it.
        release: The open release, or None.
        last: How the last release ended, or None.
        earlier: Releases that ended before the last one, oldest first; at most ``MAX_EARLIER``.
        settings: Small settings that later commands need, such as alias names.
        outbox: Changes that the registry does not have yet, oldest first.
        progress: Where a progressive release stands, as text (``core.release.progress``); None when nothing drives it.
        pending_notification: Whom nobody has told yet that a release was rolled back, as JSON; None when everybody knows.
        deleting: Whether the endpoint is being deleted.
        adopted: The route it took over in somebody's VirtualService; None where the VirtualService is ours and has its name.
        deadlines: What must end later.
        attached: Deployments that somebody else runs, in order: requests reach them by a Service of their own.
        guard: Key that pinned requests and probes carry (``core.matching.pin_guard``); ``open`` where any caller may pin, None
            where nobody has decided yet.
        missing: Routes of ours that somebody took away, or out of the way of requests: ``pin.DEPLOYMENT``, ``answer``,
            ``rule.NAME``, ``arm.DEPLOYMENT``; a bent header route, too. It follows from the object, like the next two.
        bent: Routes of ours that somebody made match or answer otherwise, as they stand: those three, copies with a fault
            (``fault.ROUTE``) or the end of a cookie (``expire.RELEASE``), and strays.
        order: The live ones as they stand, where somebody changed their order.
    """

    name: str = field(metadata=NOT_STORED)
    traffic: Traffic = field(metadata=NOT_STORED)
    stable: Destination
    route: str
    sequence: int = field(default=0, metadata=stored(needed=True))
    change: str = field(default="", metadata=stored(needed=True))
    release: Release | None = field(default=None, metadata=NOT_STORED)
    last: ClosedRelease | None = None
    earlier: tuple[EarlierRelease, ...] = field(default=(), metadata=stored(sparse=True))
    settings: Mapping[str, str] = field(default_factory=dict)
    outbox: tuple[RoutingChange, ...] = field(default=(), metadata=NOT_STORED)
    progress: str | None = field(default=None, metadata=NOT_STORED)
    pending_notification: str | None = field(default=None, metadata=NOT_STORED)
    deleting: bool = False
    deadlines: tuple[Deadline, ...] = field(default=(), metadata=NOT_STORED)
    adopted: Adopted | None = field(default=None, metadata=stored(sparse=True))
    attached: tuple[str, ...] = field(default=(), metadata=stored(sparse=True))
    guard: str | None = field(default=None, repr=False, metadata=stored(sparse=True))
    missing: tuple[str, ...] = field(default=(), metadata=NOT_STORED)
    bent: Mapping[str, Object] = field(default_factory=dict, metadata=NOT_STORED)
    order: tuple[str, ...] = field(default=(), metadata=NOT_STORED)

    @property
    def virtual_service(self) -> str:
        """Name of the VirtualService that carries it."""
        return self.adopted.virtual_service if self.adopted else self.name

    @property
    def protocol(self) -> str:
        """What its callers speak: ``http`` or ``grpc``; all its deployments do."""
        return self.settings.get(PROTOCOL, "http")

    def destination(self, deployment: str) -> Destination:
        """Where a deployment's requests go."""
        host = attached_host(deployment) if deployment in self.attached else self.name
        return Destination(host=host, subset=deployment)

    def owns(self, destination: Destination) -> bool:
        """Whether the destination is one of our deployments, present or past, not a foreign service.

        The Service and the DestinationRule of the endpoint's name are ours, whatever routes others left there, and so are those
        that lead to what is attached, if not what stands behind them.
        """
        return destination.belongs_to(self.name)

    @property
    def owners_stable(self) -> bool:
        """Whether somebody else runs the stable: it is attached, or a destination of an adopted route."""
        return not self.owns(self.stable) or self.stable.subset in self.attached

    def has_change(self, change_id: str) -> bool:
        """Whether a change is on the object already: the reply to the write that brought it may have been lost."""
        return change_id == self.change or any(entry.id == change_id for entry in self.outbox)

    def wanting(self, *parts: str) -> Endpoint:
        """The endpoint whose routes of these names are asked for now, whatever somebody made of them."""
        bent = {part: route for part, route in self.bent.items() if part not in parts}
        return replace(self, missing=tuple(part for part in self.missing if part not in parts), bent=bent)

    def role_of(self, deployment: str) -> str:
        """What a deployment is to users: stable, candidate, holdback, control or idle.

        A holdback was stable before a promotion that is still watched. A control is one until it is taken away, whatever became of
        its release.
        """
        if self.owns(self.stable) and self.stable.subset == deployment:
            return "stable"
        watching = self.release.watching if self.release else None
        if watching is not None and watching.previous == self.destination(deployment):
            return "holdback"
        if self.release and deployment in self.release.candidates:
            return "candidate"
        due = any((deadline.kind, deadline.what) == (CONTROL, deployment) for deadline in self.deadlines)
        if due or (self.release and deployment == self.release.control):
            return "control"
        return "idle"


def writes_routes(before: Endpoint, after: Endpoint) -> bool:
    """Whether a change writes routes: not one that pauses or resumes the open release, or notes its progress."""
    if after.release and before.release:
        after = replace(after, release=before.release, progress=before.progress)
    return after != before


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeMetadata:
    """Who changes traffic, when and why; made outside the pure core.

    Attributes:
        id: The change's id.
        time: Now, in UTC.
        who: Who makes it.
        action: The verb.
        reason: Why.
        run: Run to record it in, if known.
        versions: Deployment to ``MODEL/VERSION``.
        evidence: What the decision rested on.
        fresh_key: A key for the guard of an endpoint that has none yet; empty: it stays without.
        urgent: Whether it may exceed the bound of unrecorded changes: a rollback is never refused for a registry that is down.
    """

    id: str
    time: datetime
    who: str
    action: str
    reason: str = ""
    run: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    fresh_key: str = field(default="", repr=False)
    urgent: bool = False


def check_not_deleting(endpoint: Endpoint) -> None:
    """Refuse what can't be done to an endpoint that is on its way out.

    Raises:
        StateConflict: It is being deleted; says how to finish that.
    """
    if endpoint.deleting:
        raise StateConflict(
            f"endpoint '{endpoint.name}' is being deleted: finish with mlflow deployments delete-endpoint"
        )


def annotation(endpoint: str, part: str) -> str:
    """The annotation key of one part of an endpoint: ``state``, ``release``, ``progress``, ``unrecorded``, ``deadlines``."""
    return f"{DOMAIN}/{part}.{endpoint}"


def with_change(
    before: Endpoint | None, after: Endpoint, change_metadata: ChangeMetadata, resource_version: str
) -> Endpoint:
    """The endpoint after a change, with the change's entry waiting for the registry.

    Args:
        before: The endpoint before; None when it comes into being.
        after: The endpoint after, still without the entry.
        change_metadata: Who, when, why.
        resource_version: The version of the object the change is based on.

    Raises:
        StateConflict: Too many changes wait for the registry, and this one is not urgent.
    """
    if not change_metadata.urgent and _is_full(after.outbox):
        raise StateConflict(
            f"endpoint '{after.name}' has {len(after.outbox)} routing changes that the MLflow registry does not have yet: "
            "make the registry reachable (MLFLOW_TRACKING_URI) and run 'mlflow-istio history' before changing more; "
            "rollback and abort still work"
        )
    last = after.last
    closes = before is not None and last is not None and _closes(before, after)
    release = last if closes else after.release
    named = {
        share.destination.name for end in (before, after) if end for share in end.traffic.split if share.weight
    } | {name for end in (before, after) if end for name in end.traffic.pins}
    entry = RoutingChange(
        id=change_metadata.id,
        sequence=after.sequence + 1,
        time=change_metadata.time,
        endpoint=after.name,
        action=change_metadata.action,
        reason=change_metadata.reason,
        who=change_metadata.who,
        release=release.id if release else None,
        run=change_metadata.run or (release.run if release else None),
        before=before.traffic if before else None,
        after=None if after.deleting else after.traffic,
        versions={name: version for name, version in change_metadata.versions.items() if name in named},
        resource_version=resource_version,
        evidence=change_metadata.evidence,
        stable=None if after.deleting else after.stable,
        control=after.release.control if after.release else "",
    )
    if last is not None and closes:
        last = replace(last, sequence=entry.sequence, cleared=0)
    return replace(
        after,
        sequence=entry.sequence,
        change=entry.id,
        last=last,
        earlier=_earlier(before, after),
        outbox=(*after.outbox, entry),
    )


def _earlier(before: Endpoint | None, after: Endpoint) -> tuple[EarlierRelease, ...]:
    """The earlier releases after a change; the last one becomes one of them when another takes its place."""
    was = before.last if before else None
    now = {release.id for release in (after.last, after.release) if release}
    if was is None or was.id in now:
        return after.earlier
    kept = [earlier for earlier in after.earlier if earlier.id != was.id]
    return (*kept, EarlierRelease(id=was.id, outcome=was.outcome, sequence=was.sequence))[-MAX_EARLIER:]


def _closes(before: Endpoint, after: Endpoint) -> bool:
    """Whether this change ended a release, or undid its promotion."""
    ends = [(end.last.id, end.last.outcome) if end.last else None for end in (before, after)]
    return ends[0] != ends[1]


def _is_full(outbox: tuple[RoutingChange, ...]) -> bool:
    if len(outbox) >= MAX_UNRECORDED:
        return True
    return len(compact([to_json(change) for change in outbox])) > MAX_UNRECORDED_BYTES


def state_annotations(endpoint: Endpoint) -> dict[str, str | None]:
    """The annotations that hold the endpoint's state (None: not there)."""
    outbox = [to_json(change) for change in endpoint.outbox]
    deadlines = [to_json(deadline) for deadline in endpoint.deadlines]
    return {
        annotation(endpoint.name, "state"): compact(to_json(endpoint)),
        annotation(endpoint.name, "release"): compact(to_json(endpoint.release)) if endpoint.release else None,
        annotation(endpoint.name, "unrecorded"): compact(outbox) if outbox else None,
        annotation(endpoint.name, "deadlines"): compact(deadlines) if deadlines else None,
        annotation(endpoint.name, "progress"): endpoint.progress,
        annotation(endpoint.name, "untold"): endpoint.pending_notification,
    }


def has_endpoint(virtual_service: Mapping[str, Any], endpoint: str) -> bool:
    """Whether the VirtualService carries this endpoint; a copy of one that does, under another name, does not."""
    state = annotations_of(virtual_service).get(annotation(endpoint, "state"))
    if state is None:
        return False
    if name_of(virtual_service) == endpoint:
        return True
    try:
        adopted = parsed(state, "the state").get("adopted")
        where = None if adopted is None else adopted["virtualService"]
    except (InvalidInput, AttributeError, LookupError, TypeError):
        return True  # damaged: whoever reads it is told
    return where == name_of(virtual_service) or not (where is None or isinstance(where, str))


def endpoint_from(virtual_service: Mapping[str, Any], name: str, traffic: Traffic) -> Endpoint:
    """Join the annotations of a VirtualService with the traffic read from its routes.

    Raises:
        InvalidInput: The annotations were damaged; names the object and the key.
    """
    annotations = annotations_of(virtual_service)
    state = _loads(virtual_service, annotations, annotation(name, "state"))
    if state is None:
        raise InvalidInput(f"VirtualService '{name_of(virtual_service)}' does not carry endpoint '{name}'")
    release = _loads(virtual_service, annotations, annotation(name, "release"))
    outbox = _loads(virtual_service, annotations, annotation(name, "unrecorded")) or []
    deadlines = _loads(virtual_service, annotations, annotation(name, "deadlines")) or []
    try:
        return from_json(
            Endpoint,
            state,
            name=name,
            endpoint=name,
            traffic=traffic,
            release=from_json(Release, release) if release else None,
            outbox=tuple(from_json(RoutingChange, change) for change in outbox),
            progress=annotations.get(annotation(name, "progress")),
            pending_notification=annotations.get(annotation(name, "untold")),
            deadlines=tuple(from_json(Deadline, deadline) for deadline in deadlines),
        )
    except (TypeError, InvalidInput) as exc:  # a list that is none can't be walked
        raise InvalidInput(
            f"VirtualService '{name_of(virtual_service)}': the annotations of endpoint '{name}' are damaged ({exc}); "
            "restore them from a backup, or delete the endpoint with 'mlflow-istio delete-endpoint --force'"
        ) from exc


def route_name(virtual_service: Mapping[str, Any], endpoint: str) -> str:
    """Name of the route that carries the endpoint's split, read before its traffic is."""
    state = _loads(virtual_service, annotations_of(virtual_service), annotation(endpoint, "state"))
    named = state.get("route") if isinstance(state, dict) else None
    return str(named or f"{prefix(endpoint)}split")


def guard_of(virtual_service: Mapping[str, Any], endpoint: str) -> str | None:
    """What guards the endpoint's pinned routes; see ``Endpoint.guard``."""
    state = _loads(virtual_service, annotations_of(virtual_service), annotation(endpoint, "state"))
    guard = state.get("guard") if isinstance(state, dict) else None
    return guard if isinstance(guard, str) else None


def deployed_annotation(endpoint: Endpoint) -> dict[str, str | None]:
    """The annotation that names the deployments. Routes tell them, too, but somebody else may put other routes there."""
    return {annotation(endpoint.name, "deployed"): compact(list(endpoint.traffic.pins))}


def deployed_names(virtual_service: Mapping[str, Any], endpoint: str) -> tuple[str, ...] | None:
    """Names of the endpoint's deployments; None on an object of an earlier version, which left them to routes.

    Raises:
        InvalidInput: The annotation was damaged.
    """
    key = annotation(endpoint, "deployed")
    names = _loads(virtual_service, annotations_of(virtual_service), key)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InvalidInput(
            f"VirtualService '{name_of(virtual_service)}': annotation {key} is no list of names: take it away, or restore it "
            "from a backup"
        )
    return None if names is None else tuple(names)


def without_recorded(virtual_service: Object, endpoint: str, recorded: frozenset[str]) -> Object:
    """The VirtualService without the entries that the registry now has; the same object when there are none."""
    key = annotation(endpoint, "unrecorded")
    entries = _loads(virtual_service, annotations_of(virtual_service), key) or []
    left = [entry for entry in entries if entry["id"] not in recorded]
    if len(left) == len(entries):
        return virtual_service
    return with_annotations(virtual_service, {key: compact(left) if left else None})


def _loads(virtual_service: Mapping[str, Any], annotations: Mapping[str, str], key: str) -> Any:
    if key not in annotations:
        return None
    try:
        return parsed(annotations[key], f"annotation {key}")
    except InvalidInput as exc:
        raise InvalidInput(
            f"VirtualService '{name_of(virtual_service)}': {exc.message}; "
            "restore it from a backup, or delete the endpoint with 'mlflow-istio delete-endpoint --force'"
        ) from exc
