"""The open release and the last one, as they stand on the VirtualService."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.traffic import Destination, destination_from_json
from mlflow_istio.errors import StateConflict


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
        versions: Candidate to the ``MODEL/VERSION`` it was planned with.
        options: Digest of what else the plan fixes; empty where nobody wrote it down.
    """

    id: str
    strategy: str
    candidates: tuple[str, ...]
    state: str = "open"
    opened: datetime
    who: str = ""
    run: str | None = None
    assignment: Assignment | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    options: str = ""


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
        versions: Candidate to the ``MODEL/VERSION`` it was planned with.
        options: Digest of what else the plan fixed; empty where nobody wrote it down.
    """

    id: str
    strategy: str
    outcome: str
    candidates: tuple[str, ...] = ()
    run: str | None = None
    previous: Destination | None = None
    sequence: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    options: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierRelease:
    """What is left of a release that ended before the last one: enough to know its id again.

    Attributes:
        id: Release id.
        outcome: How it ended.
        sequence: Number of the routing change that ended it.
    """

    id: str
    outcome: str
    sequence: int = 0


def same_plan(one: Release | ClosedRelease, other: Release | ClosedRelease) -> bool:
    """Whether two releases do the same: strategy, candidates, their versions, and what else the plan fixes.

    What one of them does not know of itself is taken for equal.
    """
    if (one.strategy, one.candidates) != (other.strategy, other.candidates):
        return False
    both = set(one.versions) & set(other.versions)
    if any(one.versions[name] != other.versions[name] for name in both):
        return False
    return not (one.options and other.options) or one.options == other.options


def describe_release(release: Release | ClosedRelease) -> str:
    """Strategy and candidates with their versions, such as ``canary of churn-v2 (churn/2)``."""
    named = [
        f"{name} ({release.versions[name]})" if release.versions.get(name) else name for name in release.candidates
    ]
    return f"{release.strategy} of {', '.join(named)}"


def check_run_is_free(endpoint: str, release: Release, strategy: str, candidates: str, outcome: str) -> None:
    """Refuse to open a release whose run in the registry was another's, or has ended.

    Args:
        endpoint: The endpoint.
        release: The release that is to be opened.
        strategy: Strategy of the release that the run was made for.
        candidates: Its candidates, comma-separated.
        outcome: How it ended; empty while it is open.

    Raises:
        StateConflict: Says what the run holds.
    """
    if strategy and (strategy, candidates) != (release.strategy, ",".join(release.candidates)):
        raise StateConflict(
            f"release '{release.id}' of endpoint '{endpoint}' was a {strategy} of {candidates}, says the registry: use another "
            "release_id for another plan"
        )
    if outcome:
        raise StateConflict(
            f"too late: release '{release.id}' of endpoint '{endpoint}' has ended as {outcome}, says the registry: use another "
            "release_id for another release"
        )


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
    return obj | _plan_as_json(release)


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
        versions=obj.get("versions", {}),
        options=obj.get("options", ""),
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
        **_plan_as_json(closed),
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
        versions=obj.get("versions", {}),
        options=obj.get("options", ""),
    )


def earlier_as_json(earlier: EarlierRelease) -> Object:
    """An earlier release as the annotation holds it."""
    return {"id": earlier.id, "outcome": earlier.outcome, "sequence": earlier.sequence}


def earlier_from_json(obj: Mapping[str, Any]) -> EarlierRelease:
    """Read what ``earlier_as_json`` wrote."""
    return EarlierRelease(id=obj["id"], outcome=obj["outcome"], sequence=obj.get("sequence", 0))


def _plan_as_json(release: Release | ClosedRelease) -> Object:
    return {
        **({"versions": dict(release.versions)} if release.versions else {}),
        **({"options": release.options} if release.options else {}),
    }
