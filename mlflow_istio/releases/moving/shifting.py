"""Move traffic: every verb is one pure transition, edited once, proved at the proxies, then recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlflow_istio.core.basics.objects import Object, prefix
from mlflow_istio.core.endpoint.deadlines import CONTROL, due
from mlflow_istio.core.endpoint.endpoint import ChangeMetadata, Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.mesh.virtual_service import changed, read_endpoint
from mlflow_istio.core.moves import transitions
from mlflow_istio.core.moves.adoption import header_warnings
from mlflow_istio.core.moves.claims import check_carried
from mlflow_istio.core.moves.gaining import gaining, owners_gaining
from mlflow_istio.core.moves.strategies import TrafficRequest, check_strategy
from mlflow_istio.core.moves.strategies import shift as shifted
from mlflow_istio.core.release.driver import release_status_of
from mlflow_istio.errors import EditConflict, InvalidInput, MlflowIstioError, StateConflict
from mlflow_istio.releases.context import (
    Context,
    Outcome,
    deployments_of,
    edit_virtual_service,
    emit_warnings,
    endpoint_of,
    new_change,
    one_carrier,
    root_of,
    versions_of,
)
from mlflow_istio.releases.ledger import check_run, flush_outbox, run_for
from mlflow_istio.releases.moving import scaling
from mlflow_istio.releases.moving.proof import make_reachable, prove_change
from mlflow_istio.releases.moving.proposal import plan
from mlflow_istio.releases.reading.owners_services import noted_services, with_services

Transition = Callable[[Endpoint], Endpoint]

_ATTEMPTS = 5
"""How often a change is worked out anew because others moved the endpoint's traffic between asking and writing."""

_MOVING = ("weight", "weights", "mirror", "match")
"""What of a traffic request may be changed while its release is open."""

DEFAULT_TIMEOUT = 30.0
"""Seconds to wait for a proxy; after an API server outage a change reached Envoy up to 12.6 s late (TESTBED)."""


def start(
    context: Context,
    name: str,
    *,
    strategy: str,
    candidates: tuple[str, ...],
    traffic_request: TrafficRequest,
    release_id: str | None = None,
    supersede: bool = False,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Open a release of deployments that stand ready, and give them the traffic asked for.

    Args:
        context: The ports.
        name: The endpoint.
        strategy: canary, ab, blue-green or shadow.
        candidates: Deployments to release.
        traffic_request: Weight, mirror, header, cookie.
        release_id: Id to use; made anew when None.
        supersede: Whether to abort a release that is open first.
        reason: Why, for the ledger.
        timeout: Seconds to wait for each confirmation.

    Raises:
        StateConflict: Another release is open and is not superseded, the id has or had another plan or has ended, or a candidate
            is not deployed.
        InvalidInput: The request does not fit.
        NotReady: A candidate has no ready replica.
        NotRouted: A proxy did not take a change over in time.
    """
    check_strategy(strategy)
    endpoint = endpoint_of(context.cluster, name)
    warnings: tuple[str, ...] = ()
    release = plan(context, endpoint, strategy, candidates, traffic_request, release_id)
    transitions.check_plan(endpoint, release)
    transitions.check_not_ended(endpoint, release.id)
    if endpoint.release and supersede and endpoint.release.id != release.id:
        freed = transitions.abort(endpoint, "superseded")
        wanted = transitions.start(freed, release, traffic_request)
        make_reachable(
            context, deployments_of(context.cluster, name), freed, wanted, timeout=timeout
        )  # before anything is moved
        if release_id is not None:
            check_run(context, name, release)
        warnings = abort(context, name, action="supersede", reason=reason or "superseded", timeout=timeout).warnings
        endpoint = endpoint_of(context.cluster, name)
    transitions.start(endpoint, release, traffic_request)  # refuse what can't work before a run is opened for it
    if endpoint.release is None:
        run, more = run_for(context, name, release, new=True)
        release, warnings = replace(release, run=run), (*warnings, *emit_warnings(context, more))
    outcome = move(
        context,
        name,
        lambda now: transitions.start(now, release, traffic_request),
        action="start",
        reason=reason,
        by_hand=True,
        timeout=timeout,
    )
    hints = emit_warnings(
        context, (*_open_already(endpoint, release, traffic_request), *_users_missing(name, release, traffic_request))
    )
    return replace(outcome, warnings=(*warnings, *outcome.warnings, *hints))


def _open_already(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest) -> tuple[str, ...]:
    """A warning where the open release keeps other weights than are asked for: the same command given again must not undo steps."""
    if endpoint.release is None or endpoint.release.id != release.id:
        return ()
    moving = replace(TrafficRequest(), **{option: getattr(traffic_request, option) for option in _MOVING})
    if not moving.given:
        return ()
    try:
        if shifted(endpoint, moving) == endpoint.traffic:
            return ()
    except InvalidInput:
        pass  # what can't be has no effect either
    named = " and ".join(f"'{option}'" for option in moving.given)
    verb = "has" if len(moving.given) == 1 else "have"
    return (
        f"release '{release.id}' of endpoint '{endpoint.name}' is open already and keeps its traffic, so {named} {verb} no effect: "
        f"move it with 'mlflow deployments update-endpoint --endpoint {endpoint.name} -C {moving.given[0]}=...'",
    )


def _users_missing(name: str, release: Release, traffic_request: TrafficRequest) -> tuple[str, ...]:
    """A test that nobody takes part in is no mistake, but it never ends either."""
    given = traffic_request.weight or any(
        (traffic_request.weights or {}).get(candidate) for candidate in release.candidates
    )
    if release.strategy != "ab" or traffic_request.header or traffic_request.arms or given:
        return ()
    return (
        f"the arms of release '{release.id}' get no users before they have weight: run 'mlflow deployments update-endpoint "
        f"--endpoint {name} -C weights=...' with every arm's percent",
    )


def shift(
    context: Context,
    name: str,
    traffic_request: TrafficRequest,
    *,
    reason: str = "",
    timeout: float = DEFAULT_TIMEOUT,
    planned: Endpoint | None = None,
) -> Outcome:
    """Change the weight of the open release's candidates, or its mirrored share.

    Args:
        context: The ports.
        name: The endpoint.
        traffic_request: Weight or mirrored share.
        reason: Why, for the ledger.
        timeout: Seconds to wait for the proxies.
        planned: The endpoint as the caller has just read it; read here when None.

    Raises:
        StateConflict: No release is open, or a process drives it.
        InvalidInput: The request does not fit the release.
        NotReady: A deployment that would get traffic has no ready replica.
        NotRouted: A proxy did not take the change over in time.
    """

    def by_hand(endpoint: Endpoint) -> Endpoint:
        wanted = transitions.shift(endpoint, traffic_request)
        check_not_driven(endpoint, context.clock.now())
        return wanted

    return move(context, name, by_hand, action="shift", reason=reason, by_hand=True, timeout=timeout, planned=planned)


def check_not_driven(endpoint: Endpoint, now: datetime) -> None:
    """Refuse a weight by hand while a process drives the release, which would put its own back.

    Raises:
        StateConflict: Names the process and says how to stop it.
    """
    release_status = release_status_of(endpoint.progress)
    driver = release_status.driven(now) if release_status else None
    if endpoint.release and endpoint.release.state != "paused" and driver:
        raise StateConflict(
            f"release '{endpoint.release.id}' of endpoint '{endpoint.name}' is driven by {driver.who}: run "
            f"'mlflow-istio pause {endpoint.name}' first (promote, rollback and abort work at once)"
        )


def promote(
    context: Context,
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
    time = context.clock.now()
    transition = _of(
        release_id, "promote", lambda now: transitions.promote(now, candidate, now=time, keep=keep_old), candidate
    )
    planned = endpoint_of(context.cluster, name)
    scaling.prepare_promotion(context, planned, transition(planned), wait=not force, timeout=timeout)
    return move(
        context,
        name,
        transition,
        action="promote",
        reason=reason,
        evidence=evidence,
        force=force,
        timeout=timeout,
    )


def rollback(
    context: Context,
    name: str,
    *,
    reason: str = "",
    force: bool = False,
    release_id: str | None = None,
    undo_promotion: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> Outcome:
    """Return to what users had before, in one edit: out of an open release, or out of the last promotion.

    Works while the registry is down. Without ``undo_promotion``, the release that is named is refused once it was promoted, as
    ``abort`` refuses it: judged on the object inside the edit, whoever promotes it meanwhile.

    Raises:
        StateConflict: There is nothing to go back to, or it was promoted and that must stay.
        NotReady: The version to go back to has no ready replica, and it is not forced.
        NotRouted: A proxy did not take the change over in time.
    """
    time = context.clock.now()
    return move(
        context,
        name,
        _of(release_id, "rollback" if undo_promotion else "abort", lambda now: transitions.rollback(now, now=time)),
        action="rollback",
        reason=reason,
        force=force,
        urgent=True,
        timeout=timeout,
    )


def abort(
    context: Context,
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
    result, planned = "superseded" if action == "supersede" else "aborted", None
    if action == "supersede":
        planned = endpoint_of(context.cluster, name)
        if planned.release is not None and planned.release.watching is not None:
            action = "watch-end"  # its candidate has earned its promotion
    time = context.clock.now()
    return move(
        context,
        name,
        _of(release_id, "abort", lambda now: transitions.abort(now, result, now=time)),
        action=action,
        reason=reason,
        evidence=evidence,
        force=force,
        urgent=True,
        timeout=timeout,
        planned=planned,
    )


def _of(release_id: str | None, action: str, transition: Transition, candidate: str | None = None) -> Transition:
    """The transition, if the release it means is the endpoint's newest; nothing, if it is done already."""

    def checked(now: Endpoint) -> Endpoint:
        return now if transitions.is_done(now, release_id, action, candidate) else transition(now)

    return checked


def pause(context: Context, name: str) -> Outcome:
    """Stop the open release from advancing by itself; the traffic stays.

    Raises:
        StateConflict: No release is open.
    """
    return move(context, name, transitions.pause, action="pause")


def resume(context: Context, name: str) -> Outcome:
    """Let a paused release go on.

    Raises:
        StateConflict: No release is open.
    """
    return move(context, name, transitions.resume, action="resume")


def move(
    context: Context,
    name: str,
    transition: Transition,
    *,
    action: str,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
    force: bool = False,
    urgent: bool = False,
    returning: bool = False,
    by_hand: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    planned: Endpoint | None = None,
) -> Outcome:
    """Do one transition: check its targets, edit once, wait for the proxies, record.

    Given again after it died at any point, it finishes what is left: the edit is not done twice, the proxies are asked,
    the ledger catches up.

    Args:
        context: The ports.
        name: The endpoint.
        transition: What to change; raises what forbids it. It is evaluated on the object inside the edit.
        action: The verb, for the ledger.
        reason: Why.
        evidence: What the decision rested on.
        force: Whether to send traffic to a deployment that is not ready.
        urgent: Whether the bound of unrecorded changes is waived.
        returning: Whether traffic only goes back to whom it came from, so that nobody is asked: the endpoint goes.
        by_hand: Whether a person says the weights, so that it is said where somebody gets more than their replicas' share.
        timeout: Seconds to wait for the proxies.
        planned: The endpoint as the caller has just read it, for which targets are checked; read here when None.
    """
    planned = planned or endpoint_of(context.cluster, name)
    if not urgent and enforce_due(context, planned):
        planned = endpoint_of(context.cluster, name)
    if planned.last is not None and planned.last.replicas and not urgent:
        emit_warnings(context, scaling.finish(context, planned))  # what a command died over
        planned = endpoint_of(context.cluster, name)
    if urgent:
        scaling.prepare_return(context, planned, transition(planned), timeout)
    change_metadata = new_change(context, action, reason=reason, evidence=evidence, urgent=urgent)
    one_carrier(context, name, refuse=not (urgent or force))
    for _ in range(_ATTEMPTS):
        try:
            before, after, deployments = _moved(
                context, planned, transition, change_metadata, force=force, returning=returning, timeout=timeout
            )
            break
        except _UnaskedTarget:
            planned = endpoint_of(context.cluster, name)
    else:
        raise EditConflict(f"the routes of endpoint '{name}' kept being changed by others: run the command again")
    endpoint = read_endpoint(after, name)
    proof = prove_change(context, endpoint, timeout, after)
    opened = endpoint.release is not None and (planned.release is None or planned.release.id != endpoint.release.id)
    replaced = endpoint.stable != planned.stable and endpoint.owns(endpoint.stable)
    warnings = (
        *proof.warnings,
        *_left_bent(endpoint),
        *(header_warnings(after, name) if after != before and (opened or replaced) else ()),
        *flush_outbox(
            context, name, objects={change_metadata.id: {"before": before, "after": after}}, stored=endpoint.outbox
        ),
        *scaling.finish(context, endpoint),
        *(scaling.thin(endpoint, deployments) if by_hand else ()),
    )
    emit_warnings(context, warnings)
    endpoint, left_over = _without_control(context, endpoint)
    warnings += emit_warnings(context, left_over)
    return Outcome(endpoint=endpoint, changed=after != before, proxies=proof.proxies, warnings=warnings)


def _without_control(context: Context, endpoint: Endpoint) -> tuple[Endpoint, tuple[str, ...]]:
    """A release that has ended takes its control along; where that fails, what was asked for is done, and a warning says so."""
    if not any(deadline.kind == CONTROL for deadline in endpoint.deadlines):
        return endpoint, ()
    try:
        return (endpoint_of(context.cluster, endpoint.name) if enforce_due(context, endpoint) else endpoint), ()
    except MlflowIstioError as exc:
        return endpoint, (f"a control is left over until the next sweep: {exc.message}",)


def enforce_due(context: Context, endpoint: Endpoint) -> bool:
    """Carry out the endpoint's deadlines that have passed; whether there were any."""
    if endpoint.deleting or not due(endpoint.deadlines, context.clock.now()):
        return False
    context.enforce(replace(context, enforce=lambda _context, _name: None), endpoint.name)
    return True


def _left_bent(endpoint: Endpoint) -> tuple[str, ...]:
    """A warning for routes of ours that somebody made match or answer otherwise: nobody's users are moved unasked."""
    names = [
        f"'{prefix(endpoint.name)}{part}'" for part in endpoint.bent if part.startswith(("answer", "rule.", "arm."))
    ]
    if not names:
        return ()
    return (
        f"{' and '.join(names)} of VirtualService '{endpoint.virtual_service}' {'stay' if len(names) > 1 else 'stays'} as somebody "
        f"edited {'them' if len(names) > 1 else 'it'}: 'mlflow-istio doctor {endpoint.name} --fix' writes what was asked for again",
    )


class _UnaskedTarget(StateConflict):
    """Inside the edit it came out that another deployment would gain than those that were asked."""


def _moved(
    context: Context,
    planned: Endpoint,
    transition: Transition,
    change_metadata: ChangeMetadata,
    *,
    force: bool,
    returning: bool,
    timeout: float,
) -> tuple[Object, Object, list[Object]]:
    """Ask whoever would gain, then edit once: the VirtualService before and after, and the Deployments as they were asked for.

    Raises:
        _UnaskedTarget: Somebody changed the endpoint meanwhile, so that another one gains.
    """
    name = planned.name
    deployments = deployments_of(context.cluster, name)
    change_metadata = replace(change_metadata, versions=versions_of(deployments))
    root = root_of(context.cluster, planned)
    seen = noted_services(context.cluster, planned)
    asked: frozenset[str] = frozenset()
    theirs: tuple[Destination, ...] = ()
    if not returning:
        wanted = transition(planned)
        theirs = owners_gaining(planned, wanted)
        asked = make_reachable(
            context, deployments, planned, wanted, force=force, urgent=change_metadata.urgent, timeout=timeout
        )

    def edit(virtual_service: Object) -> Object:
        now = read_endpoint(virtual_service, name)
        if now.has_change(change_metadata.id):  # a lost reply: what forbids the change a second time must not be asked
            return virtual_service
        wanted = transition(now)
        _check_same_release(planned, now, wanted)
        gain = (*gaining(now, wanted), *owners_gaining(now, wanted))
        if not returning and not {*asked, *theirs}.issuperset(gain):
            raise _UnaskedTarget(f"endpoint '{name}' was changed by somebody else meanwhile: run the command again")
        if wanted != now and seen:
            wanted = with_services(wanted, seen)
        new = changed(virtual_service, wanted, change_metadata, root)
        if root is not None:
            check_carried(root, virtual_service, new, name)
        return new

    return (*edit_virtual_service(context.cluster, planned.virtual_service, name, edit), deployments)


def _check_same_release(planned: Endpoint, now: Endpoint, wanted: Endpoint) -> None:
    """Targets were checked, and people decided, for the release that was there when the command began.

    Raises:
        StateConflict: Another one is there by now, and this change would move its traffic.
    """

    def what(endpoint: Endpoint) -> tuple[object, ...]:
        traffic = endpoint.traffic
        return (endpoint.release, endpoint.stable, traffic.split, traffic.arms, traffic.mirrors)

    ends = [end.release or end.last for end in (planned, now)]
    was, is_now = (f"'{end.id}'" if end else "none" for end in ends)
    if was != is_now and what(wanted) != what(now):
        raise StateConflict(
            f"endpoint '{now.name}' was changed by somebody else meanwhile (release was {was}, is {is_now}): look at "
            f"'mlflow-istio status {now.name}' and run the command again"
        )
