"""The open release and the last one, as they stand on the VirtualService."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.traffic import Destination, destination_from_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """How a caller of an A/B release names a user's arm.

    Attributes:
        kind: ``header`` or ``cookie``.
        name: The header's or cookie's name.
        values: Deployment to the value that means it; stable is an arm too.
    """

    kind: str
    name: str
    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A plan that takes an endpoint from stable to a candidate.

    Attributes:
        id: Release id.
        strategy: canary, ab, blue-green or shadow.
        candidates: Deployments being released; more than one only for ab.
        state: ``open`` or ``paused``.
        opened: When it was opened, in UTC.
        who: Who opened it.
        run: Id of its MLflow run, or None while the registry has none.
        assignment: How users are assigned, for ab.
    """

    id: str
    strategy: str
    candidates: tuple[str, ...]
    state: str = "open"
    opened: datetime
    who: str = ""
    run: str | None = None
    assignment: Assignment | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedRelease:
    """How the last release ended, and what a rollback would return to.

    Attributes:
        id: Release id.
        strategy: Its strategy.
        outcome: promoted, rolled-back, aborted, superseded or inconclusive.
        candidates: Its candidates.
        run: Id of its MLflow run, or None.
        previous: Who was stable before a promotion; None once rolled back, or where nothing was promoted.
        sequence: Number of the routing change that ended it: whether anything happened since.
    """

    id: str
    strategy: str
    outcome: str
    candidates: tuple[str, ...] = ()
    run: str | None = None
    previous: Destination | None = None
    sequence: int = 0


def release_as_json(release: Release) -> Object:
    """The open release as the annotation holds it."""
    obj: Object = {
        "id": release.id,
        "strategy": release.strategy,
        "candidates": list(release.candidates),
        "state": release.state,
        "opened": release.opened.isoformat(),
        "who": release.who,
        "run": release.run,
    }
    if release.assignment:
        obj["assignment"] = {
            "kind": release.assignment.kind,
            "name": release.assignment.name,
            "values": dict(release.assignment.values),
        }
    return obj


def release_from_json(obj: Mapping[str, Any]) -> Release:
    """Read what ``release_as_json`` wrote."""
    assignment = obj.get("assignment")
    return Release(
        id=obj["id"],
        strategy=obj["strategy"],
        candidates=tuple(obj["candidates"]),
        state=obj["state"],
        opened=datetime.fromisoformat(obj["opened"]),
        who=obj.get("who", ""),
        run=obj.get("run"),
        assignment=Assignment(kind=assignment["kind"], name=assignment["name"], values=assignment["values"])
        if assignment
        else None,
    )


def closed_as_json(closed: ClosedRelease) -> Object:
    """The last release as the annotation holds it."""
    return {
        "id": closed.id,
        "strategy": closed.strategy,
        "outcome": closed.outcome,
        "candidates": list(closed.candidates),
        "run": closed.run,
        "previous": closed.previous.as_json() if closed.previous else None,
        "sequence": closed.sequence,
    }


def closed_from_json(obj: Mapping[str, Any], endpoint: str) -> ClosedRelease:
    """Read what ``closed_as_json`` wrote, for an endpoint."""
    return ClosedRelease(
        id=obj["id"],
        strategy=obj["strategy"],
        outcome=obj["outcome"],
        candidates=tuple(obj.get("candidates", ())),
        run=obj.get("run"),
        previous=destination_from_json(obj["previous"], endpoint) if obj.get("previous") else None,
        sequence=obj.get("sequence", 0),
    )
