"""Carry out what has to end: faults, kept versions, stale cookies, watches that nobody drives, controls.

Run by every verb, the local supervisor, and a CronJob.

A deadline of a kind that is not known here stays on the object: it was set by a newer version, whose sweep ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mlflow_istio.core.endpoint.deadlines import CONTROL, COOKIE, FAULT, KEEP, WATCH, Deadline, due
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.mesh.destination_rule import with_policy
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.core.moves import policies, transitions
from mlflow_istio.core.moves.adoption import endpoints_in
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.releases.context import Context, edit_endpoint, emit_warnings, endpoint_of
from mlflow_istio.releases.deploying import controls, removal
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import policy, scaling
from mlflow_istio.releases.moving.shifting import move

Enforcer = Callable[[Context, str, Deadline], str | None]
"""Carries out a deadline; says in a few words what it did, where that is not what is done to deadlines of its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """One deadline that was carried out, or a thing that was put right.

    Attributes:
        endpoint: Its endpoint.
        what: What was done, in a few words.
        problem: Why it could not be done; empty when it was.
    """

    endpoint: str
    what: str
    problem: str = ""


def sweep(context: Context) -> tuple[Swept, ...]:
    """Carry out every deadline that has passed, on every endpoint; one that fails does not hold back the others.

    What the registry does not have yet is recorded, as by every command.
    """
    done: list[Swept] = []
    rules = {obj["metadata"]["name"]: obj for obj in context.cluster.list("DestinationRule", {})}
    for virtual_service in context.cluster.list("VirtualService", {}):
        for name in endpoints_in(virtual_service):
            try:
                endpoint = read_endpoint(virtual_service, name)
                if endpoint.outbox:
                    flush_outbox(
                        context, name, publish=False
                    )  # what an earlier sweep died over, or had no registry for
                if endpoint.release is None and endpoint.last is not None and endpoint.last.replicas:
                    left = scaling.finish(context, endpoint)  # what the driver of a release died over
                    what = f"replicas as they are to be after release '{endpoint.last.id}'"
                    done.append(Swept(endpoint=name, what=what, problem="".join(left)))
                done += _enforced(context, endpoint)
                rule = rules.get(name)
                if rule is not None and not endpoint.deleting and not due(endpoint.deadlines, context.clock.now()):
                    wanted, attached = endpoint.traffic.policy, endpoint.attached
                    stale = with_policy(rule, name, wanted) != rule
                    if stale and policy.follow(context, name, wanted, attached=attached):
                        done.append(Swept(endpoint=name, what="DestinationRule follows the endpoint again"))
            except MlflowIstioError as exc:
                done.append(Swept(endpoint=name, what="left as it is", problem=exc.message))
    return tuple(done)


def enforce(context: Context, name: str) -> None:
    """Carry out the deadlines of one endpoint that have passed; what fails is a warning and is tried again later."""
    for swept in _enforced(context, endpoint_of(context.cluster, name)):
        if swept.problem:
            emit_warnings(context, (f"endpoint '{name}': {swept.what} ({swept.problem})",))
        else:
            context.tell(f"endpoint '{name}': {swept.what}, as its deadline says")


def end_overdue_fault(context: Context, name: str, deadline: Deadline) -> None:
    """End a fault whose time is over."""
    del deadline
    policy.end_fault(context, name, reason="its time is over")


def end_overdue_cookie(context: Context, name: str, deadline: Deadline) -> None:
    """Stop expiring cookies that every browser has forgotten by now."""
    move(
        context,
        name,
        lambda now: policies.end_cookie(now, deadline.what),
        action="cookie-end",
        reason="the cookie's age is over",
    )


def end_kept_version(context: Context, name: str, deadline: Deadline) -> None:
    """Delete a version that was replaced and kept for a while; one that is needed again stays.

    The deadline goes last: whoever dies before that is done again.
    """
    endpoint = endpoint_of(context.cluster, name)
    if not endpoint.traffic.reaches(deadline.what) and endpoint.role_of(deadline.what) == "idle":
        removal.delete(context, deadline.what, reason="its time after the release is over")

    edit_endpoint(context.cluster, endpoint.virtual_service, name, lambda now: policies.drop_deadline(now, deadline))


def end_overdue_watch(context: Context, name: str, deadline: Deadline) -> None:
    """End a watch whose time is over and whose driver is gone: its users stop going to the replaced version.

    Raises:
        StateConflict: It is paused: only a person ends that.
    """
    endpoint = endpoint_of(context.cluster, name)
    release = endpoint.release
    if release is None or release.id != deadline.what or release.watching is None:
        edit_endpoint(
            context.cluster, endpoint.virtual_service, name, lambda now: policies.drop_deadline(now, deadline)
        )
        return
    if release.state == "paused":
        raise StateConflict(
            f"{transitions.watched_release(endpoint)}; it is paused, and 'mlflow-istio resume {name}' goes on"
        )
    time = context.clock.now()

    def over(now: Endpoint) -> Endpoint:
        still = now.release is not None and now.release.id == deadline.what and now.release.watching is not None
        return transitions.promote(now, now=time) if still else policies.drop_deadline(now, deadline)

    move(
        context,
        name,
        over,
        action="watch-end",
        reason="The watch's time is over, and nobody drives the release any more: what came after its last look was not judged.",
    )


def end_overdue_control(context: Context, name: str, deadline: Deadline) -> str | None:
    """Take away a control whose release is over, was never opened, or is driven by nobody any more; a driven one goes on."""
    until = controls.is_wanted_until(endpoint_of(context.cluster, name), deadline.what, context.clock.now())
    if until is not None:
        controls.put_off(context, name, deadline.what, until)
        return f"control ({deadline.what}) is still compared with"
    controls.take_away(context, name, deadline.what)
    return None


_ENFORCERS: Mapping[str, tuple[Enforcer, str]] = {
    FAULT: (end_overdue_fault, "fault ended"),
    COOKIE: (end_overdue_cookie, "stale cookie ended"),
    KEEP: (end_kept_version, "replaced version deleted"),
    WATCH: (end_overdue_watch, "watch ended"),
    CONTROL: (end_overdue_control, "control taken away"),
}
"""Kind of a deadline to what carries it out, and what is said of it."""


def _enforced(context: Context, endpoint: Endpoint) -> list[Swept]:
    quiet = replace(context, enforce=lambda _context, _name: None)
    done: list[Swept] = []
    for deadline in () if endpoint.deleting else due(endpoint.deadlines, context.clock.now()):
        if deadline.kind not in _ENFORCERS:
            continue
        enforcer, words = _ENFORCERS[deadline.kind]
        what = words + (f" ({deadline.what})" if deadline.what else "")
        try:
            line = enforcer(quiet, endpoint.name, deadline)
            done.append(Swept(endpoint=endpoint.name, what=line or what))
        except MlflowIstioError as exc:
            done.append(Swept(endpoint=endpoint.name, what=f"not yet: {what}", problem=exc.message))
    return done
