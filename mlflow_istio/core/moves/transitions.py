"""What each verb does to an endpoint, purely: Endpoint -> Endpoint.

Each is checked against the state it finds inside the edit, so that two commands at once can't both win. Done again, each
returns the endpoint it got.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mlflow_istio.core.endpoint.deadlines import KEEP, WATCH, without_deadline
from mlflow_istio.core.endpoint.endpoint import Endpoint, check_not_deleting
from mlflow_istio.core.endpoint.release_state import (
    Assignment,
    ClosedRelease,
    EarlierRelease,
    Release,
    describe_release,
    replicas_after,
    same_plan,
)
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.moves.owners_stable import present, with_present_stable
from mlflow_istio.core.moves.policies import opened, settled
from mlflow_istio.core.moves.strategies import TrafficRequest, no_release, settle
from mlflow_istio.core.moves.strategies import shift as shifted
from mlflow_istio.core.moves.strategies import start as started
from mlflow_istio.errors import InvalidInput, StateConflict


def pin(endpoint: Endpoint, deployment: str, named: str | None = None, *, attached: bool = False) -> Endpoint:
    """Make a deployment reachable by its header, at no weight.

    Args:
        endpoint: The endpoint.
        deployment: The deployment.
        named: ``MODEL/VERSION`` that its routes say in answers, since its server doesn't; None: it does.
        attached: Whether somebody else runs it.
    """
    check_not_deleting(endpoint)
    if attached and deployment not in endpoint.attached:
        endpoint = replace(endpoint, attached=tuple(sorted((*endpoint.attached, deployment))))
    route = f"pin.{deployment}"
    policy = endpoint.traffic.policy
    if named != policy.versions.get(deployment):
        others = {name: label for name, label in policy.versions.items() if name != deployment}
        policy = replace(policy, versions={**others, **({deployment: named} if named else {})})
        endpoint = replace(endpoint, traffic=replace(endpoint.traffic, policy=policy))
    if deployment in endpoint.traffic.pins and route not in endpoint.missing:
        return endpoint
    endpoint = endpoint.wanting(route)
    deadlines = without_deadline(endpoint.deadlines, KEEP, deployment)  # of one that had this name before
    return replace(endpoint, traffic=endpoint.traffic.with_pin(deployment), deadlines=deadlines)


def unpin(endpoint: Endpoint, deployment: str) -> Endpoint:
    """Take a deployment's header route away, as the first step of its removal.

    Raises:
        StateConflict: It has traffic, is stable, or belongs to the open release; or the endpoint is being deleted, and the
            deployment goes with it.
    """
    check_not_deleting(endpoint)
    where = f"deployment '{deployment}' of endpoint '{endpoint.name}'"
    if endpoint.role_of(deployment) == "stable":
        raise StateConflict(f"{where} is stable: promote another first, or delete the whole endpoint")
    leading = [rule.name for rule in endpoint.traffic.policy.rules if rule.deployment == deployment]
    if leading:
        command = f"mlflow-istio route {endpoint.name} --remove {leading[0]}"
        raise StateConflict(f"{where} is where route '{leading[0]}' leads: remove it first ({command})")
    if endpoint.role_of(deployment) == "holdback":
        raise StateConflict(f"{where} is what the release is watched against: {watched_release(endpoint)}")
    if endpoint.traffic.reaches(deployment):
        weight = endpoint.traffic.weights.get(deployment, 0)
        raise StateConflict(f"{where} has traffic (weight {weight}): abort the release or move its traffic away first")
    if endpoint.role_of(deployment) == "candidate":
        raise StateConflict(f"{where} is a candidate of the open release: abort it first (-C action=abort)")
    if endpoint.release and endpoint.release.control == deployment:
        raise StateConflict(f"{where} is the control of the open release, and goes when that ends")
    last = endpoint.last
    if last and last.previous == endpoint.destination(deployment):
        last = replace(last, previous=None)
    cleared = deployment in endpoint.traffic.pins and endpoint.role_of(deployment) == "control"
    if last and cleared and _is_newest(endpoint, last):
        last = replace(last, cleared=last.cleared + 1)  # the same command given again still finds its work done
    left = tuple(name for name in endpoint.attached if name != deployment)
    return replace(endpoint, traffic=endpoint.traffic.without_pin(deployment), last=last, attached=left)


def start(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> Endpoint:
    """Open a release and give its candidates the traffic asked for; a release that is open already is left alone.

    Raises:
        StateConflict: Another release is open, the id has or had another plan or has ended, or a candidate is not deployed.
        InvalidInput: A candidate is stable already, or the request does not fit the strategy.
    """
    check_not_deleting(endpoint)
    check_plan(endpoint, release)
    check_not_ended(endpoint, release.id)
    if endpoint.release is not None and endpoint.release.id == release.id:
        return endpoint
    if endpoint.release is not None:
        raise StateConflict(open_release(endpoint))
    if endpoint.protocol == "grpc" and release.assignment is not None:
        _check_metadatum(endpoint, release.assignment)
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
    for name in (*release.candidates, *arms, *((release.control,) if release.control else ())):
        check_deployed(endpoint, name)
        if endpoint.role_of(name) == "control" and name != release.control:
            raise StateConflict(
                f"deployment '{name}' of endpoint '{endpoint.name}' is a control, which goes with its release: name another"
            )
    endpoint = _with_way_back(endpoint)
    traffic = started(endpoint, release, traffic_request)
    endpoint = endpoint.wanting(*(f"arm.{arm.deployment}" for arm in traffic.arms))
    return opened(replace(endpoint, release=release, traffic=traffic))


def shift(endpoint: Endpoint, traffic_request: TrafficRequest) -> Endpoint:
    """Change the candidates' weight or the mirrored share of the open release."""
    check_not_deleting(endpoint)
    if endpoint.release is not None and endpoint.release.watching is not None:
        raise StateConflict(f"the weights of endpoint '{endpoint.name}' belong to a watch: {watched_release(endpoint)}")
    traffic = shifted(_with_way_back(endpoint), traffic_request)
    if traffic_request.match is not None:
        endpoint = endpoint.wanting(*(f"arm.{arm.deployment}" for arm in traffic.arms))
    return endpoint if traffic == endpoint.traffic else replace(_with_way_back(endpoint), traffic=traffic)


def promote(
    endpoint: Endpoint, candidate: str | None = None, *, now: datetime | None = None, keep: timedelta | None = None
) -> Endpoint:
    """Make the candidate stable with all the traffic and close the release; one edit. A watch ends well by it.

    Args:
        endpoint: The endpoint.
        candidate: Which one, where there are several.
        now: The time in UTC, for what must end later.
        keep: How long the version that is replaced stays; None: until it is deleted.

    Raises:
        StateConflict: No release is open (unless it was promoted just now: then nothing changes).
        InvalidInput: The candidate is none of the release's, or has to be named.
    """
    check_not_deleting(endpoint)
    release = endpoint.release
    if release is None:
        if _just_ended(endpoint, "promoted") and candidate in (None, endpoint.stable.name):
            return endpoint
        raise StateConflict(no_release(endpoint))
    if release.watching is not None:
        _choose(release, candidate)
        return _watched(endpoint, release, "promoted", now=now, keep=keep)
    endpoint = with_present_stable(endpoint)
    chosen = endpoint.destination(_choose(release, candidate))
    promoted = replace(
        endpoint,
        traffic=settle(endpoint, chosen),
        stable=chosen,
        release=None,
        progress=None,
        last=_close(release, "promoted", stable=chosen, previous=endpoint.stable),
    )
    return settled(endpoint, promoted, now=now, keep=keep)


def abort(endpoint: Endpoint, outcome: str = "aborted", *, now: datetime | None = None) -> Endpoint:
    """Return all live traffic to stable and close the release; the candidate keeps running at no weight.

    Out of a watch that is to who was stable before the promotion. But a watch that is superseded ends well: its candidate has
    earned its promotion, and what comes next is compared with it.

    Raises:
        StateConflict: No release is open, and the last one did not end this way.
    """
    check_not_deleting(endpoint)
    if endpoint.release is None:
        if _just_ended(endpoint, "aborted", "rolled-back", "superseded", "inconclusive"):
            return endpoint
        raise StateConflict(no_release(endpoint))
    if endpoint.release.watching is not None:
        ending = "promoted" if outcome == "superseded" else outcome
        return _watched(endpoint, endpoint.release, ending, now=now)
    release, endpoint = endpoint.release, _with_way_back(endpoint)
    aborted = replace(
        endpoint,
        traffic=settle(endpoint, endpoint.stable),
        release=None,
        progress=None,
        last=_close(release, outcome, stable=endpoint.stable),
    )
    return settled(endpoint, aborted, now=now)


def _watched(
    endpoint: Endpoint, release: Release, outcome: str, *, now: datetime | None, keep: timedelta | None = None
) -> Endpoint:
    """The endpoint after a watch: all traffic to the promoted version, or back to the one before it."""
    watching = release.watching
    if watching is None:
        return endpoint
    previous = present(endpoint, watching.previous)
    well = outcome == "promoted"
    stable = endpoint.stable if well else previous
    after = replace(
        endpoint,
        traffic=settle(endpoint, stable),
        stable=stable,
        release=None,
        progress=None,
        last=_close(release, outcome, stable=stable, previous=previous if well else None),
        deadlines=without_deadline(endpoint.deadlines, WATCH),
    )
    if keep is None and watching.keep is not None and well and now is not None:
        keep = max(timedelta(0), watching.since + timedelta(seconds=watching.keep) - now)
    return settled(replace(endpoint, stable=previous), after, now=now, keep=keep if well else None)


def rollback(endpoint: Endpoint, *, now: datetime | None = None) -> Endpoint:
    """Go back to what users had before: out of an open release, or out of the last promotion; one edit.

    Raises:
        StateConflict: There is nothing to go back to, or it is no longer deployed.
    """
    check_not_deleting(endpoint)
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
    previous = present(endpoint, last.previous)
    returned = replace(
        endpoint,
        traffic=settle(endpoint, previous),
        stable=previous,
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
    last = _close(endpoint.release, "aborted", stable=endpoint.stable) if endpoint.release else endpoint.last
    gone = replace(endpoint, deleting=True, release=None, progress=None, last=last)
    if endpoint.adopted is None or endpoint.deleting:
        return gone
    stable = _to_be_left(endpoint, endpoint.adopted.stable)
    return replace(gone, stable=stable, traffic=settle(endpoint, stable))


def _to_be_left(endpoint: Endpoint, former: Destination) -> Destination:
    """Who gets the traffic of an adopted route that is given back: a deletion is never refused for what its owner did there."""
    theirs = [share for share in endpoint.traffic.split if not endpoint.owns(share.destination)]
    try:
        return present(endpoint, former)
    except StateConflict:
        return max(theirs, key=lambda share: share.weight).destination if theirs else former


def check_release(endpoint: Endpoint, release_id: str | None) -> None:
    """Check that a verb that names a release means the open one or, where none is open, the last.

    A late step of a pipeline must not end somebody else's release.

    Raises:
        StateConflict: It is another; of one that has ended it says how.
    """
    known = endpoint.release or endpoint.last
    if release_id is None or (known is not None and known.id == release_id):
        return
    ended = ended_release(endpoint, release_id)
    if ended is not None and known is not None:
        raise StateConflict(
            f"too late: release '{release_id}' is not the newest of endpoint '{endpoint.name}': it has ended as {ended.outcome} "
            f"(change {ended.sequence}), and release '{known.id}' came after it; 'mlflow-istio history {endpoint.name}' shows the "
            f"changes, and 'mlflow-istio rollback {endpoint.name} --to CHANGE' goes back to one"
        )
    standing = f"'{known.id}' ({'open' if endpoint.release else 'ended'})" if known else "none"
    raise StateConflict(
        f"release '{release_id}' is not the newest of endpoint '{endpoint.name}', which is {standing}: leave out 'release_id' to "
        "mean that one"
    )


def known_release(endpoint: Endpoint, release_id: str | None) -> Release | ClosedRelease | None:
    """The open or last release, if it has this id; None for any other."""
    both = (endpoint.release, endpoint.last)
    return next((release for release in both if release is not None and release.id == release_id), None)


def in_known_order(endpoint: Endpoint, release_id: str | None, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates in the order in which the release that is meant has them; any order means the same A/B test."""
    known = endpoint.release if release_id is None else known_release(endpoint, release_id)
    return known.candidates if known and sorted(known.candidates) == sorted(candidates) else candidates


def ended_release(endpoint: Endpoint, release_id: str) -> ClosedRelease | EarlierRelease | None:
    """How the release of an id ended, as far as the endpoint remembers; None where it is open, or was never there."""
    if endpoint.release is not None and endpoint.release.id == release_id:
        return None
    known = (*endpoint.earlier, *((endpoint.last,) if endpoint.last else ()))
    return next((release for release in reversed(known) if release.id == release_id), None)


def check_plan(endpoint: Endpoint, release: Release) -> None:
    """Refuse a release whose id has or had another plan: one id means one plan.

    Raises:
        StateConflict: Names the plan that the id has.
    """
    for known in (endpoint.release, endpoint.last):
        if known is None or known.id != release.id or same_plan(known, release):
            continue
        only_options = describe_release(known) == describe_release(release)
        ended = f" (it has ended as {known.outcome})" if isinstance(known, ClosedRelease) else ""
        raise StateConflict(
            f"release '{release.id}' of endpoint '{endpoint.name}' is a {describe_release(known)}"
            f"{' with other options' if only_options else ''}: use another release_id for another plan{ended}"
        )


def check_not_ended(endpoint: Endpoint, release_id: str) -> None:
    """Refuse to open or to move a release that has ended.

    Raises:
        StateConflict: Says how it ended.
    """
    ended = ended_release(endpoint, release_id)
    if ended is not None:
        raise StateConflict(
            f"too late: release '{release_id}' of endpoint '{endpoint.name}' has ended as {ended.outcome} (change "
            f"{ended.sequence}): use another release_id for another release"
        )


def check_part(endpoint: Endpoint, release_id: str, deployment: str, version: str) -> None:
    """Refuse to deploy under the id of a release that has another plan, or has ended without this deployment.

    Args:
        endpoint: The endpoint.
        release_id: The release that the deployment is meant for; one that was never opened has no plan yet.
        deployment: The deployment.
        version: ``MODEL/VERSION`` that it is to serve.

    Raises:
        StateConflict: Names the plan that the id has.
    """
    for known in (endpoint.release, endpoint.last):
        if known is None or known.id != release_id:
            continue
        if deployment in known.candidates and known.versions.get(deployment, version) == version:
            return
        ended = f" (it has ended as {known.outcome})" if isinstance(known, ClosedRelease) else ""
        raise StateConflict(
            f"release '{release_id}' of endpoint '{endpoint.name}' is a {describe_release(known)}, which '{deployment}' "
            f"({version}) is no part of: use another release_id for another plan{ended}"
        )
    check_not_ended(endpoint, release_id)


def is_done(endpoint: Endpoint, release_id: str | None, action: str, candidate: str | None = None) -> bool:
    """Whether what a verb would do to a named release is done already, whatever else happened to the endpoint since.

    Args:
        endpoint: The endpoint.
        release_id: The release; None: whichever is the newest, of which nothing is known to be done.
        action: promote, rollback or abort.
        candidate: Whom ``promote`` names, or None.

    Raises:
        StateConflict: It is not the newest release, or has ended in a way that the verb can't change any more.
    """
    check_release(endpoint, release_id)
    last = endpoint.last
    if release_id is None or endpoint.release is not None or last is None:
        return False
    if action == "promote" and last.outcome == "promoted" and candidate not in (None, endpoint.stable.name):
        raise StateConflict(
            f"too late: release '{release_id}' of endpoint '{endpoint.name}' has promoted '{endpoint.stable.name}', not "
            f"'{candidate}': start another release for that one"
        )
    if (action == "promote") == (last.outcome == "promoted"):
        return True
    if action == "rollback":  # of a promotion
        return False
    raise StateConflict(
        f"too late: release '{release_id}' of endpoint '{endpoint.name}' has ended as {last.outcome} (change {last.sequence}): "
        + ("start another release" if action == "promote" else "action=rollback undoes a promotion")
    )


def _check_metadatum(endpoint: Endpoint, assignment: Assignment) -> None:
    """Refuse what no caller of gRPC can name its arm by.

    Raises:
        InvalidInput: Names the option.
    """
    if assignment.kind == "cookie":
        raise InvalidInput(
            f"option 'cookie' can't be: endpoint '{endpoint.name}' speaks gRPC, whose callers keep no cookies; use 'header', which "
            "is a metadatum"
        )
    if assignment.name.lower().endswith("-bin"):  # gRPC over HTTP2, "Binary-Header"
        raise InvalidInput(
            f"option 'header' can't be {assignment.name!r}: endpoint '{endpoint.name}' speaks gRPC, which sends what is called "
            "-bin in Base64, so no arm would be known by its value; use another name"
        )


def check_deployed(endpoint: Endpoint, name: str) -> None:
    """Refuse what is no deployment of an endpoint.

    Raises:
        StateConflict: It is none.
    """
    if name not in endpoint.traffic.pins:
        raise StateConflict(f"endpoint '{endpoint.name}' has no deployment '{name}': deploy it first")


def open_release(endpoint: Endpoint) -> str:
    """The message that names the open release."""
    release = endpoint.release
    if release is None:
        return f"endpoint '{endpoint.name}' has no open release"
    if release.watching is not None:
        return f"endpoint '{endpoint.name}' is not free yet: {watched_release(endpoint)} (so does supersede=true)"
    return (
        f"endpoint '{endpoint.name}' has an open release '{release.id}' ({release.strategy} of "
        f"{', '.join(release.candidates)}): promote, rollback or abort it first"
    )


def watched_release(endpoint: Endpoint) -> str:
    """The clause that names the release whose promotion is still watched, and what ends that."""
    release = endpoint.release
    return (
        f"release '{release.id if release else ''}' has promoted '{endpoint.stable.name}' and watches it until its time is over; "
        "rollback goes back, promote ends that well now"
    )


def _with_way_back(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the stable that is there today, for what sends somebody to it.

    Raises:
        StateConflict: It is its owner's and is not there any more.
    """
    return replace(endpoint, stable=present(endpoint, endpoint.stable))


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
    return last is not None and last.outcome in outcomes and _is_newest(endpoint, last)


def _is_newest(endpoint: Endpoint, last: ClosedRelease) -> bool:
    """Whether nothing has changed since a release ended, but that its control was taken away."""
    return last.sequence + last.cleared == endpoint.sequence


def _close(
    release: Release, outcome: str, *, stable: Destination, previous: Destination | None = None
) -> ClosedRelease:
    return ClosedRelease(
        id=release.id,
        strategy=release.strategy,
        outcome=outcome,
        candidates=release.candidates,
        run=release.run,
        previous=previous,
        versions=release.versions,
        options=release.options,
        model_uri=release.model_uri,
        replicas=replicas_after(release, stable.name),
    )


def _in_state(endpoint: Endpoint, state: str) -> Endpoint:
    check_not_deleting(endpoint)
    if endpoint.release is None:
        raise StateConflict(no_release(endpoint))
    return replace(endpoint, release=replace(endpoint.release, state=state))
