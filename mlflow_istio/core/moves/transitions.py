"""What each verb does to an endpoint, purely: Endpoint -> Endpoint.

Each is checked against the state it finds inside the edit, so that two commands at once can't both win. Done again, each
returns the endpoint it got.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mlflow_istio.core.endpoint.deadlines import KEEP, without_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import ClosedRelease, Release
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.moves.policies import opened, settled
from mlflow_istio.core.moves.strategies import Wish, no_release, settle
from mlflow_istio.core.moves.strategies import shift as shifted
from mlflow_istio.core.moves.strategies import start as started
from mlflow_istio.errors import InvalidInput, StateConflict


def pin(endpoint: Endpoint, deployment: str) -> Endpoint:
    """Make a deployment reachable by its header, at no weight."""
    _not_deleting(endpoint)
    if deployment in endpoint.traffic.pins:
        return endpoint
    deadlines = without_deadline(endpoint.deadlines, KEEP, deployment)  # of one that had this name before
    return replace(endpoint, traffic=endpoint.traffic.with_pin(deployment), deadlines=deadlines)


def unpin(endpoint: Endpoint, deployment: str) -> Endpoint:
    """Take a deployment's header route away, as the first step of its removal.

    Raises:
        StateConflict: It has traffic, is stable, or belongs to the open release; or the endpoint is being deleted, and the
            deployment goes with it.
    """
    _not_deleting(endpoint)
    where = f"deployment '{deployment}' of endpoint '{endpoint.name}'"
    if endpoint.role_of(deployment) == "stable":
        raise StateConflict(f"{where} is stable: promote another first, or delete the whole endpoint")
    leading = [rule.name for rule in endpoint.traffic.policy.rules if rule.deployment == deployment]
    if leading:
        command = f"mlflow-istio route {endpoint.name} --remove {leading[0]}"
        raise StateConflict(f"{where} is where route '{leading[0]}' leads: remove it first ({command})")
    if endpoint.traffic.reaches(deployment):
        weight = endpoint.traffic.weights.get(deployment, 0)
        raise StateConflict(f"{where} has traffic (weight {weight}): abort the release or move its traffic away first")
    if endpoint.role_of(deployment) == "candidate":
        raise StateConflict(f"{where} is a candidate of the open release: abort it first (-C action=abort)")
    last = endpoint.last
    if last and last.previous == endpoint.destination(deployment):
        last = replace(last, previous=None)
    return replace(endpoint, traffic=endpoint.traffic.without_pin(deployment), last=last)


def start(endpoint: Endpoint, release: Release, wish: Wish) -> Endpoint:
    """Open a release and give its candidates the traffic asked for; a release that was opened already is left alone.

    Raises:
        StateConflict: Another release is open, the id had another plan, or a candidate is not deployed.
        InvalidInput: A candidate is stable already, or the wish does not fit the strategy.
    """
    _not_deleting(endpoint)
    known = endpoint.release or endpoint.last
    if known is not None and known.id == release.id:
        if not same_plan(known, release):
            raise StateConflict(
                f"release '{release.id}' of endpoint '{endpoint.name}' is a {known.strategy} of {', '.join(known.candidates)}: "
                "use another release_id for another plan"
            )
        return endpoint
    if endpoint.release is not None:
        raise StateConflict(open_release(endpoint))
    if not release.candidates:
        raise InvalidInput("a release needs a candidate: name a deployment with 'candidate'")
    if len(release.candidates) > 1 and release.strategy != "ab":
        raise InvalidInput(
            f"strategy={release.strategy} takes one candidate, not {len(release.candidates)}: use strategy=ab"
        )
    for name in release.candidates:
        if endpoint.owns(endpoint.stable) and endpoint.stable.subset == name:
            raise InvalidInput(f"deployment '{name}' is stable already: a candidate must be another")
    # The arms are those of the endpoint as it was planned for; one may have been taken away since.
    arms = release.assignment.values if release.assignment else {}
    for name in (*release.candidates, *arms):
        if name not in endpoint.traffic.pins:
            raise StateConflict(f"endpoint '{endpoint.name}' has no deployment '{name}': deploy it first")
    return opened(replace(endpoint, release=release, traffic=started(endpoint, release, wish)))


def shift(endpoint: Endpoint, wish: Wish) -> Endpoint:
    """Change the candidates' weight or the mirrored share of the open release."""
    _not_deleting(endpoint)
    return replace(endpoint, traffic=shifted(endpoint, wish))


def promote(
    endpoint: Endpoint, candidate: str | None = None, *, now: datetime | None = None, keep: timedelta | None = None
) -> Endpoint:
    """Make the candidate stable with all the traffic and close the release; one edit.

    Args:
        endpoint: The endpoint.
        candidate: Which one, where there are several.
        now: The time in UTC, for what must end later.
        keep: How long the version that is replaced stays; None: until it is deleted.

    Raises:
        StateConflict: No release is open (unless it was promoted just now: then nothing changes).
        InvalidInput: The candidate is none of the release's, or has to be named.
    """
    _not_deleting(endpoint)
    release = endpoint.release
    if release is None:
        if _just_ended(endpoint, "promoted") and candidate in (None, endpoint.stable.name):
            return endpoint
        raise StateConflict(no_release(endpoint))
    chosen = endpoint.destination(_choose(release, candidate))
    promoted = replace(
        endpoint,
        traffic=settle(endpoint, chosen),
        stable=chosen,
        release=None,
        progress=None,
        last=_close(release, "promoted", previous=endpoint.stable),
    )
    return settled(endpoint, promoted, now=now, keep=keep)


def abort(endpoint: Endpoint, outcome: str = "aborted", *, now: datetime | None = None) -> Endpoint:
    """Return all live traffic to stable and close the release; the candidate keeps running at no weight.

    Raises:
        StateConflict: No release is open, and the last one did not end this way.
    """
    _not_deleting(endpoint)
    if endpoint.release is None:
        if _just_ended(endpoint, "aborted", "rolled-back", "superseded", "inconclusive"):
            return endpoint
        raise StateConflict(no_release(endpoint))
    aborted = replace(
        endpoint,
        traffic=settle(endpoint, endpoint.stable),
        release=None,
        progress=None,
        last=_close(endpoint.release, outcome, previous=None),
    )
    return settled(endpoint, aborted, now=now)


def rollback(endpoint: Endpoint, *, now: datetime | None = None) -> Endpoint:
    """Go back to what users had before: out of an open release, or out of the last promotion; one edit.

    Raises:
        StateConflict: There is nothing to go back to, or it is no longer deployed.
    """
    _not_deleting(endpoint)
    if endpoint.release is not None:
        return abort(endpoint, "rolled-back", now=now)
    last = endpoint.last
    if _just_ended(endpoint, "aborted", "rolled-back", "superseded", "inconclusive"):
        return endpoint
    if last is None or last.previous is None:
        raise StateConflict(
            f"endpoint '{endpoint.name}' has nothing to roll back: '{endpoint.stable.name}' is stable, no release is open, and "
            "what was stable before is gone or was rolled back to already"
        )
    returned = replace(
        endpoint,
        traffic=settle(endpoint, last.previous),
        stable=last.previous,
        last=replace(last, outcome="rolled-back", previous=None),
    )
    return settled(endpoint, returned, now=now)


def pause(endpoint: Endpoint) -> Endpoint:
    """Stop a release from advancing by itself; the traffic stays.

    Raises:
        StateConflict: No release is open.
    """
    return _in_state(endpoint, "paused")


def resume(endpoint: Endpoint) -> Endpoint:
    """Let a paused release go on.

    Raises:
        StateConflict: No release is open.
    """
    return _in_state(endpoint, "open")


def mark_deleting(endpoint: Endpoint, *, force: bool = False) -> Endpoint:
    """Say on the object that the endpoint is being deleted; nothing else may change it from now on.

    Forced, it aborts an open release, whose traffic goes with the endpoint. Traffic of an adopted route returns to whom it
    came from, before our routes go.

    Raises:
        StateConflict: A release is open, and it is not forced.
    """
    if endpoint.release is not None and not force:
        raise StateConflict(
            f"{open_release(endpoint)} (or 'mlflow-istio delete-endpoint --force' deletes the endpoint with it)"
        )
    last = _close(endpoint.release, "aborted", previous=None) if endpoint.release else endpoint.last
    gone = replace(endpoint, deleting=True, release=None, progress=None, last=last)
    if endpoint.adopted is None or endpoint.deleting:
        return gone
    theirs = [share.destination for share in endpoint.traffic.split if not endpoint.owns(share.destination)]
    former = endpoint.adopted.stable
    stable = former if former in theirs or not theirs else theirs[0]
    return replace(gone, stable=stable, traffic=settle(endpoint, stable))


def check_release(endpoint: Endpoint, release_id: str | None) -> None:
    """Check that a verb that names a release means the open one or, where none is open, the last.

    A late step of a pipeline must not end somebody else's release.

    Raises:
        StateConflict: It is another.
    """
    known = endpoint.release or endpoint.last
    if release_id is not None and (known is None or known.id != release_id):
        found = f"'{known.id}' ({'open' if endpoint.release else 'ended'})" if known else "none"
        raise StateConflict(
            f"release '{release_id}' is not the newest of endpoint '{endpoint.name}', which is {found}: leave out 'release_id' to "
            "mean that one"
        )


def same_plan(one: Release | ClosedRelease, other: Release) -> bool:
    """Whether two releases do the same: strategy and candidates."""
    return one.strategy == other.strategy and one.candidates == other.candidates


def open_release(endpoint: Endpoint) -> str:
    """The message that names the open release."""
    release = endpoint.release
    if release is None:
        return f"endpoint '{endpoint.name}' has no open release"
    return (
        f"endpoint '{endpoint.name}' has an open release '{release.id}' ({release.strategy} of "
        f"{', '.join(release.candidates)}): promote, rollback or abort it first"
    )


def _choose(release: Release, candidate: str | None) -> str:
    if candidate is not None:
        if candidate not in release.candidates:
            raise InvalidInput(
                f"'{candidate}' is no candidate of release '{release.id}': its candidates are {', '.join(release.candidates)}"
            )
        return candidate
    if len(release.candidates) > 1:
        raise InvalidInput(
            f"release '{release.id}' has {len(release.candidates)} candidates: name the one to promote with "
            f"-C candidate={release.candidates[0]}"
        )
    return release.candidates[0]


def _just_ended(endpoint: Endpoint, *outcomes: str) -> bool:
    """Whether the newest change ended a release this way: the same command given again finds its work done."""
    last = endpoint.last
    return last is not None and last.outcome in outcomes and last.sequence == endpoint.sequence


def _close(release: Release, outcome: str, previous: Destination | None) -> ClosedRelease:
    return ClosedRelease(
        id=release.id,
        strategy=release.strategy,
        outcome=outcome,
        candidates=release.candidates,
        run=release.run,
        previous=previous,
    )


def _in_state(endpoint: Endpoint, state: str) -> Endpoint:
    _not_deleting(endpoint)
    if endpoint.release is None:
        raise StateConflict(no_release(endpoint))
    return replace(endpoint, release=replace(endpoint.release, state=state))


def _not_deleting(endpoint: Endpoint) -> None:
    if endpoint.deleting:
        raise StateConflict(
            f"endpoint '{endpoint.name}' is being deleted: finish with mlflow deployments delete-endpoint"
        )
