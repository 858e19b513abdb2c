"""Move traffic: every verb is one pure transition, edited once, proved at the proxies, then recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.deadlines import due
from mlflow_istio.core.endpoint.endpoint import Endpoint, Stamp
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.claims import check_carried
from mlflow_istio.core.moves.strategies import Wish, check_strategy
from mlflow_istio.core.release.driver import course_of
from mlflow_istio.errors import StateConflict
from mlflow_istio.releases.context import (
    Desk,
    Outcome,
    deployments_of,
    edit_home,
    endpoint_of,
    root_of,
    versions_of,
    warned,
)
from mlflow_istio.releases.ledger import catch_up, run_for
from mlflow_istio.releases.moving.proof import check_targets, prove_change
from mlflow_istio.releases.moving.proposal import plan

Transition = Callable[[Endpoint], Endpoint]

DEFAULT_TIMEOUT = 30.0
"""Seconds to wait for a proxy; after an API server outage a change reached Envoy up to 12.6 s late (TESTBED)."""


def start(
    desk: Desk,
    name: str,
    *,
    strategy: str,
    candidates: tuple[str, ...],
    wish: Wish,
    release_id: str | None = None,
    supersede: bool = False,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Open a release of deployments that stand ready, and give them the traffic asked for.

    Args:
        desk: The ports.
        name: The endpoint.
        strategy: canary, ab, blue-green or shadow.
        candidates: Deployments to release.
        wish: Weight, mirror, header, cookie.
        release_id: Id to use; made anew when None.
        supersede: Whether to abort a release that is open first.
        reason: Why, for the ledger.
        timeout: Seconds to wait for each confirmation.

    Raises:
        StateConflict: Another release is open and is not superseded, the id has or had another plan or has ended, or a candidate
            is not deployed.
        InvalidInput: The wish does not fit.
        NotReady: A candidate has no ready replica.
        NotRouted: A proxy did not take a change over in time.
    """
    check_strategy(strategy)
    endpoint = endpoint_of(desk.cluster, name)
    warnings: tuple[str, ...] = ()
    release = plan(desk, endpoint, strategy, candidates, wish, release_id)
    transitions.check_plan(endpoint, release)
    transitions.check_not_ended(endpoint, release.id)
    if endpoint.release and supersede and endpoint.release.id != release.id:
        freed = transitions.abort(endpoint, "superseded")
        wanted = transitions.start(freed, release, wish)
        check_targets(
            desk, deployments_of(desk.cluster, name), freed, wanted, timeout=timeout
        )  # before anything is moved
        warnings = abort(desk, name, action="supersede", reason=reason or "superseded", timeout=timeout).warnings
        endpoint = endpoint_of(desk.cluster, name)
    transitions.start(endpoint, release, wish)  # refuse what can't work before a run is opened for it
    if endpoint.release is None:
        run, more = run_for(desk, name, release, new=True)
        release, warnings = replace(release, run=run), (*warnings, *warned(desk, more))
    outcome = move(
        desk,
        name,
        lambda now: transitions.start(now, release, wish),
        action="start",
        reason=reason,
        timeout=timeout,
    )
    hints = warned(desk, _users_missing(name, release, wish))
    return replace(outcome, warnings=(*warnings, *outcome.warnings, *hints))


def _users_missing(name: str, release: Release, wish: Wish) -> tuple[str, ...]:
    """A test that nobody takes part in is no mistake, but it never ends either."""
    given = wish.weight or any((wish.weights or {}).get(candidate) for candidate in release.candidates)
    if release.strategy != "ab" or wish.header or wish.arms or given:
        return ()
    return (
        f"the arms of release '{release.id}' get no users before they have weight: run 'mlflow deployments update-endpoint "
        f"--endpoint {name} -C weights=...' with every arm's percent",
    )


def shift(
    desk: Desk,
    name: str,
    wish: Wish,
    *,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
    planned: Endpoint | None = None,
) -> Outcome:
    """Change the weight of the open release's candidates, or its mirrored share.

    Args:
        desk: The ports.
        name: The endpoint.
        wish: Weight or mirrored share.
        reason: Why, for the ledger.
        timeout: Seconds to wait for the proxies.
        planned: The endpoint as the caller has just read it; read here when None.

    Raises:
        StateConflict: No release is open, or a process drives it.
        InvalidInput: The wish does not fit the release.
        NotReady: A deployment that would get traffic has no ready replica.
        NotRouted: A proxy did not take the change over in time.
    """

    def by_hand(endpoint: Endpoint) -> Endpoint:
        wanted = transitions.shift(endpoint, wish)
        check_not_driven(endpoint, desk.clock.now())
        return wanted

    return move(desk, name, by_hand, action="shift", reason=reason, timeout=timeout, planned=planned)


def check_not_driven(endpoint: Endpoint, now: datetime) -> None:
    """Refuse a weight by hand while a process drives the release, which would put its own back.

    Raises:
        StateConflict: Names the process and says how to stop it.
    """
    course = course_of(endpoint.progress)
    driver = course.driven(now) if course else None
    if endpoint.release and endpoint.release.state != "paused" and driver:
        raise StateConflict(
            f"release '{endpoint.release.id}' of endpoint '{endpoint.name}' is driven by {driver.who}: run "
            f"'mlflow-istio pause {endpoint.name}' first (promote, rollback and abort work at once)"
        )


def promote(
    desk: Desk,
    name: str,
    *,
    candidate: str | None = None,
    reason: str = "",
    force: bool = False,
    keep_old: timedelta | None = None,
    release_id: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Make the candidate stable with all the traffic, in one edit; the old version keeps running at no weight.

    With ``keep_old`` a deadline stands on the object, after which ``sweep`` deletes the old version.

    Raises:
        StateConflict: No release is open.
        NotReady: The candidate has no ready replica, and it is not forced.
        NotRouted: A proxy did not take the change over in time.
    """
    time = desk.clock.now()
    return move(
        desk,
        name,
        _of(release_id, "promote", lambda now: transitions.promote(now, candidate, now=time, keep=keep_old), candidate),
        action="promote",
        reason=reason,
        evidence=evidence,
        force=force,
        timeout=timeout,
    )


def rollback(
    desk: Desk,
    name: str,
    *,
    reason: str = "",
    force: bool = False,
    release_id: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Return to what users had before, in one edit: out of an open release, or out of the last promotion.

    Works while the registry is down.

    Raises:
        StateConflict: There is nothing to go back to.
        NotReady: The version to go back to has no ready replica, and it is not forced.
        NotRouted: A proxy did not take the change over in time.
    """
    time = desk.clock.now()
    return move(
        desk,
        name,
        _of(release_id, "rollback", lambda now: transitions.rollback(now, now=time)),
        action="rollback",
        reason=reason,
        force=force,
        urgent=True,
        timeout=timeout,
    )


def abort(
    desk: Desk,
    name: str,
    *,
    action: str = "abort",
    reason: str = "",
    force: bool = False,
    release_id: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Return all live traffic to stable and close the release; the candidate keeps running at no weight.

    Works while the registry is down.

    Raises:
        StateConflict: No release is open.
        NotReady: Stable has no ready replica, and it is not forced.
        NotRouted: A proxy did not take the change over in time.
    """
    result = "superseded" if action == "supersede" else "aborted"
    time = desk.clock.now()
    return move(
        desk,
        name,
        _of(release_id, "abort", lambda now: transitions.abort(now, result, now=time)),
        action=action,
        reason=reason,
        evidence=evidence,
        force=force,
        urgent=True,
        timeout=timeout,
    )


def _of(release_id: str | None, action: str, transition: Transition, candidate: str | None = None) -> Transition:
    """The transition, if the release it means is the endpoint's newest; nothing, if it is done already."""

    def checked(now: Endpoint) -> Endpoint:
        return now if transitions.is_done(now, release_id, action, candidate) else transition(now)

    return checked


def pause(desk: Desk, name: str) -> Outcome:
    """Stop the open release from advancing by itself; the traffic stays.

    Raises:
        StateConflict: No release is open.
    """
    return move(desk, name, transitions.pause, action="pause")


def resume(desk: Desk, name: str) -> Outcome:
    """Let a paused release go on.

    Raises:
        StateConflict: No release is open.
    """
    return move(desk, name, transitions.resume, action="resume")


def move(
    desk: Desk,
    name: str,
    transition: Transition,
    *,
    action: str,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
    force: bool = False,
    urgent: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    planned: Endpoint | None = None,
) -> Outcome:
    """Do one transition: check its targets, edit once, wait for the proxies, record.

    Given again after it died at any point, it finishes what is left: the edit is not done twice, the proxies are asked,
    the ledger catches up.

    Args:
        desk: The ports.
        name: The endpoint.
        transition: What to change; raises what forbids it. It is evaluated on the object inside the edit.
        action: The verb, for the ledger.
        reason: Why.
        evidence: What the decision rested on.
        force: Whether to send traffic to a deployment that is not ready.
        urgent: Whether the bound of unrecorded changes is waived.
        timeout: Seconds to wait for the proxies.
        planned: The endpoint as the caller has just read it, for which targets are checked; read here when None.
    """
    planned = planned or endpoint_of(desk.cluster, name)
    if not urgent and due(planned.deadlines, desk.clock.now()):
        desk.enforce(replace(desk, enforce=lambda _desk, _name: None), name)
        planned = endpoint_of(desk.cluster, name)
    deployments = deployments_of(desk.cluster, name)
    root = root_of(desk.cluster, planned)
    if not force:
        check_targets(desk, deployments, planned, transition(planned), timeout=timeout)
    stamp = Stamp(
        id=desk.new_id(),
        time=desk.clock.now(),
        who=desk.who,
        action=action,
        reason=reason,
        versions=versions_of(deployments),
        evidence=evidence or {},
        urgent=urgent,
    )

    def edit(virtual_service: Object) -> Object:
        now = read_endpoint(virtual_service, name)
        if now.has_change(stamp.id):  # a lost reply: what forbids the change a second time must not be asked
            return virtual_service
        wanted = transition(now)
        _check_same_release(planned, now, wanted)
        new = changed(virtual_service, wanted, stamp)
        if root is not None:
            check_carried(root, virtual_service, new, name)
        return new

    before, after = edit_home(desk.cluster, planned.home, name, edit)
    endpoint = read_endpoint(after, name)
    proxies = prove_change(desk, endpoint, timeout, after)
    unproved = f"no proxy of endpoint '{name}' can be reached from here: the change is stored, not proved"
    warnings = (
        *(() if proxies else (unproved,)),
        *catch_up(desk, name, objects={stamp.id: {"before": before, "after": after}}),
    )
    return Outcome(endpoint=endpoint, changed=after != before, proxies=proxies, warnings=warned(desk, warnings))


def _check_same_release(planned: Endpoint, now: Endpoint, wanted: Endpoint) -> None:
    """Targets were checked, and people decided, for the release that was there when the command began.

    Raises:
        StateConflict: Another one is there by now, and this change would move its traffic.
    """

    def what(endpoint: Endpoint) -> tuple[object, ...]:
        traffic = endpoint.traffic
        return (endpoint.release, endpoint.stable, traffic.split, traffic.arms, traffic.mirrors)

    ends = [end.release or end.last for end in (planned, now)]
    was, found = (f"'{end.id}'" if end else "none" for end in ends)
    if was != found and what(wanted) != what(now):
        raise StateConflict(
            f"endpoint '{now.name}' was changed by somebody else meanwhile (release was {was}, is {found}): look at "
            f"'mlflow-istio status {now.name}' and run the command again"
        )
