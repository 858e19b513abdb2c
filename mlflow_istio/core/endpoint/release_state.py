"""The open release and the last one, as they stand on the VirtualService."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlflow_istio.core.basics.stored import stored
from mlflow_istio.core.endpoint.traffic import Destination
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
class Watching:
    """A release whose candidate is stable already, and is watched for a change that comes later.

    Attributes:
        previous: Who was stable before: it keeps a small share to compare with, and is the way back.
        holdback: That share, in percent of the live traffic.
        since: When the candidate was promoted, in UTC.
        keep: Seconds from then on for which the one before stays deployed; None: until somebody deletes it.
    """

    previous: Destination
    holdback: int
    since: datetime
    keep: float | None = field(default=None, metadata=stored(sparse=True))


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
        model_uri: What was asked for, word for word, which may mean another version by now; empty where deployments were named.
        replicas: Deployment to its replicas when it was opened, where they follow the traffic; empty where they are left alone.
        watching: Set from its promotion on, while it goes on watching; None before, and where it doesn't.
        control: Deployment of the stable's version that its candidate is compared with; empty where that is the stable itself.
    """

    id: str
    strategy: str
    candidates: tuple[str, ...]
    state: str = field(default="open", metadata=stored(needed=True))
    opened: datetime
    who: str = ""
    run: str | None = None
    assignment: Assignment | None = field(default=None, metadata=stored(sparse=True))
    versions: Mapping[str, str] = field(default_factory=dict, metadata=stored(sparse=True))
    options: str = field(default="", metadata=stored(sparse=True))
    model_uri: str = field(default="", metadata=stored(sparse=True))
    replicas: Mapping[str, int] = field(default_factory=dict, metadata=stored(sparse=True))
    watching: Watching | None = field(default=None, metadata=stored(sparse=True))
    control: str = field(default="", metadata=stored(sparse=True))


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
        model_uri: What was asked for, word for word; empty where deployments were named.
        replicas: Deployment to the replicas that it is still to end with; empty once all have them.
        cleared: How many changes right after the one that ended it only took its control away.
    """

    id: str
    strategy: str
    outcome: str
    candidates: tuple[str, ...] = ()
    run: str | None = None
    previous: Destination | None = None
    sequence: int = 0
    versions: Mapping[str, str] = field(default_factory=dict, metadata=stored(sparse=True))
    options: str = field(default="", metadata=stored(sparse=True))
    model_uri: str = field(default="", metadata=stored(sparse=True))
    replicas: Mapping[str, int] = field(default_factory=dict, metadata=stored(sparse=True))
    cleared: int = field(default=0, metadata=stored(sparse=True))


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


def replicas_after(release: Release, stable: str) -> dict[str, int]:
    """What each deployment ends with: what it had at the start, and who is promoted what the stable had.

    Args:
        release: The release that ends.
        stable: Who is stable afterwards.
    """
    others = [name for name in release.replicas if name not in release.candidates]
    if stable in release.candidates and others:
        return {**release.replicas, stable: release.replicas[others[0]]}
    return dict(release.replicas)


def same_plan(first: Release | ClosedRelease, second: Release | ClosedRelease) -> bool:
    """Whether two releases do the same: strategy, candidates, their versions, and what else the plan fixes.

    What one of them does not know of itself is taken for equal. Only an A/B test has several candidates, in any order.
    """
    if (first.strategy, sorted(first.candidates)) != (second.strategy, sorted(second.candidates)):
        return False
    both = set(first.versions) & set(second.versions)
    if any(first.versions[name] != second.versions[name] for name in both):
        return False
    return not (first.options and second.options) or first.options == second.options


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
    if strategy and (strategy, sorted(candidates.split(","))) != (release.strategy, sorted(release.candidates)):
        raise StateConflict(
            f"release '{release.id}' of endpoint '{endpoint}' was a {strategy} of {candidates}, says the registry: use another "
            "release_id for another plan"
        )
    if outcome:
        raise StateConflict(
            f"too late: release '{release.id}' of endpoint '{endpoint}' has ended as {outcome}, says the registry: use another "
            "release_id for another release"
        )
