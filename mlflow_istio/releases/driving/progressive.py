"""Drive a release from its first step to its end: look, decide purely, act once, note where it stands.

Everything a successor needs stands on the VirtualService: a process may die anywhere, and another goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from mlflow_istio.core.analysis.counters import Reading, check_totals
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.objects import Object, name_of, ready_replicas
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.release.advance import (
    Action,
    Call,
    GiveUp,
    MakeRoom,
    Observation,
    Promote,
    RollBack,
    Shift,
    Stop,
    advance,
)
from mlflow_istio.core.release.edges import missing_in
from mlflow_istio.core.release.evidence import counted_deployments, serves_nothing
from mlflow_istio.core.release.judgement import look_figures
from mlflow_istio.core.release.kpi_kinds import misread_kpi
from mlflow_istio.core.release.look_counters import counters_kept
from mlflow_istio.core.release.on_endpoint import (
    StaleRevision,
    ended,
    promoted,
    shifted,
    step_weights,
    watch_begun,
)
from mlflow_istio.core.release.plan import Event, ReleasePlan, Webhook
from mlflow_istio.core.release.progress import Progress, alive, progress_from_text
from mlflow_istio.core.release.watching import begun, watched
from mlflow_istio.errors import (
    ClusterError,
    MetricsError,
    MlflowIstioError,
    NotFound,
    NotReady,
    NotRouted,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases.context import Context, deployments_of, emit_warnings, endpoint_of, versions_of
from mlflow_istio.releases.deploying.controls import keep_as_large
from mlflow_istio.releases.driving.capacity import room_for
from mlflow_istio.releases.driving.drive import (
    Drive,
    DriverDependencies,
    DriveResult,
    Seen,
    acquire_lease,
    note,
    release_lease,
)
from mlflow_istio.releases.driving.notifications import notify, to_be_told
from mlflow_istio.releases.driving.warm_up import warm_added
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.moving import scaling
from mlflow_istio.releases.moving.shifting import Transition, enforce_due, move
from mlflow_istio.releases.reading.owners_services import NobodyThere, gone_services
from mlflow_istio.releases.reporting import report_release

PATIENCE = 300.0
"""Seconds for which a cluster that can't be reached is asked again before the driver gives up; `resume` goes on later."""


def drive(
    context: Context,
    dependencies: DriverDependencies,
    name: str,
    *,
    release: str | None = None,
    take_over: bool = False,
) -> DriveResult:
    """Drive the open release of an endpoint from where it stands to its end.

    Args:
        context: The ports.
        dependencies: Who helps.
        name: The endpoint.
        release: Which release is meant; None: the open one. One that has ended already says how.
        take_over: Whether to take it from a driver that still counts as alive.

    Raises:
        StateConflict: No release with a plan is open, or another process drives it.
        ClusterError: The cluster could not be reached for too long; the state stands there, and `resume` goes on.
    """
    emit_warnings(context, flush_outbox(context, name, publish=False))
    emit_warnings(context, scaling.finish(context, endpoint_of(context.cluster, name)))
    told = notify(context, dependencies.ask, name)
    endpoint = endpoint_of(context.cluster, name)
    if enforce_due(context, endpoint):
        endpoint = endpoint_of(context.cluster, name)
    if told and endpoint.release is None and endpoint.last is not None:
        return _ended_by_hand(endpoint, endpoint.last.id)  # all that was left to do
    if release is not None and endpoint.last is not None and endpoint.last.id == release:
        return _ended_by_hand(endpoint, release)
    if endpoint.release is None or endpoint.progress is None:
        raise StateConflict(
            f"endpoint '{name}' has no release that goes on by itself: start one with 'mlflow-istio release {name} models:/...'"
        )
    drive = Drive(
        context=context,
        dependencies=dependencies,
        name=name,
        virtual_service=endpoint.virtual_service,
        release=endpoint.release.id,
        driver=context.new_id(),
    )
    acquire_lease(drive, take_over)
    try:
        return _to_the_end(drive)
    except (KeyboardInterrupt, SystemExit):
        release_lease(drive)
        raise


def _to_the_end(drive: Drive) -> DriveResult:
    context = drive.context
    failing_since: float | None = None
    while True:
        try:
            result, interval = _round(drive)
            failing_since = None
        except StaleRevision:
            continue
        except NotFound:
            if context.cluster.get("VirtualService", drive.virtual_service) is not None:
                raise
            return DriveResult(
                release=drive.release, outcome="aborted", word="hold", reason="The endpoint was deleted.", by_hand=True
            )
        except ClusterError as exc:
            now = context.clock.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since > PATIENCE:
                raise
            words = f" ({first_line})" if (first_line := exc.detail.partition("\n")[0]) else ""
            drive.warn_once(f"could not go on with endpoint '{drive.name}', trying again: {exc.message}{words}")
            result, interval = None, 5.0
        if result is not None:
            return result
        context.clock.sleep(interval)


def _round(drive: Drive) -> tuple[DriveResult | None, float]:
    """One look and what follows from it; the ending, or None and the seconds until the next look."""
    context = drive.context
    endpoint = endpoint_of(context.cluster, drive.name)
    if endpoint.release is None or endpoint.release.id != drive.release or endpoint.progress is None:
        return _ended_by_hand(endpoint, drive.release), 0.0
    progress = progress_from_text(endpoint.progress)
    other = progress.driver
    if other is not None and other.id != drive.driver:
        raise StateConflict(f"release '{drive.release}' of endpoint '{drive.name}' is driven by {other.who} now")
    seen = _observe(drive, endpoint, progress)
    now = context.clock.now()
    if now < progress.since:
        drive.warn_once(
            f"the step of release '{drive.release}' began at {progress.since:%Y-%m-%d %H:%M:%S} UTC, which this machine's clock "
            "has yet to reach: nothing is counted until then; if the other clock was wrong, abort the release and begin another"
        )
    after, action = (advance if progress.watch is None else watched)(progress, seen, now)
    if isinstance(action, Call):
        answers = {
            hook.url: _asked(drive, endpoint.release, hook, action.event, action.gate, action.verdict)
            for hook in action.hooks
        }
        seen = replace(seen, webhooks=answers)
        after, action = advance(after, seen, now)
    if isinstance(action, MakeRoom):
        room = room_for(
            context,
            endpoint,
            progress.plan,
            action.weight,
            winner=action.winner,
            say=drive.warn_once,
            hurry=action.hurry,
        )
        if not (room or action.hurry):  # what has just come up
            room = warm_added(drive, progress, _deployments(drive))
        after, action = advance(after, replace(seen, room=room), now)
    after = _with_left_over(drive, progress, after)
    after = alive(replace(after, revision=progress.revision + 1), drive.driver, context.who, context.clock.now())
    _keep(drive, endpoint.release, after)
    drive.dependencies.watch(
        Seen(endpoint=endpoint, progress=after, verdict=action.verdict, doing=type(action).__name__)
    )
    return _act(drive, endpoint, progress, after, action, seen), progress.plan.interval


def _act(
    drive: Drive, endpoint: Endpoint, before: Progress, after: Progress, action: Action, seen: Observation
) -> DriveResult | None:
    context, release, revision = drive.context, drive.release, before.revision
    verdict, time = action.verdict, drive.context.clock.now()

    def moved(transition: Transition, word: str, *, urgent: bool = False, why: Verdict = verdict) -> None:
        move(
            context,
            drive.name,
            transition,
            action=word,
            reason=why.reason,
            evidence=to_json(why),
            urgent=urgent,
            force=urgent and not seen.stable_ready and not _has_life(drive, endpoint, before),
            timeout=drive.dependencies.timeout,
        )

    def back(outcome: str, why: Verdict = verdict) -> DriveResult:
        hooks = before.plan.webhook_gates("rollback")
        pending_notification = to_be_told(hooks, _payload(drive, endpoint.release, "rollback", "rollback", why))
        word = "rollback" if outcome == "rolled-back" else outcome
        try:
            moved(lambda now: ended(now, release, revision, outcome, pending_notification), word, urgent=True, why=why)
        except (NotReady, NobodyThere) as exc:
            return _stopped(drive, endpoint, before, after, why, exc)
        return _ending(drive, endpoint, after, why, outcome)

    def refused(exc: MlflowIstioError) -> DriveResult | None:
        if before.watch is not None or context.clock.now() < before.started + timedelta(seconds=before.plan.deadline):
            _hold_back(drive, before, after, exc)
            return None
        late = Verdict(word="inconclusive", reason=f"The deadline has passed: {exc.message}")
        return back("inconclusive", late)

    if isinstance(action, Shift):
        try:
            control = after.evidence.control
            if control:
                keep_as_large(context, control, after.plan.candidate, drive.dependencies.timeout)
                if waiting := warm_added(drive, before, _deployments(drive)):
                    raise NotReady(waiting)
            ready = not control or seen.replicas.get(control, 0) > 0
            moved(lambda now: shifted(now, release, revision, after, control_ready=ready), "shift")
        except (NotReady, NotRouted, NobodyThere) as exc:
            return refused(exc)
        return None
    if isinstance(action, Promote):
        try:
            if before.watch is None and before.plan.watch and _can_be_watched(drive, after, seen):
                watch = begun(after, time)
                moved(lambda now: watch_begun(now, release, revision, action.candidate, watch, time), "promote")
                return None
            word = "promote" if before.watch is None else "watch-end"
            moved(lambda now: promoted(now, release, revision, action.candidate, time), word)
        except (NotReady, NotRouted, NobodyThere) as exc:
            return refused(exc)
        return _ending(drive, endpoint, after, verdict, "promoted")
    if isinstance(action, RollBack):
        return back("rolled-back")
    if isinstance(action, GiveUp):
        return back("inconclusive")
    if isinstance(action, Stop):
        note(drive, replace(after, driver=None), revision)
        return _ending(drive, endpoint, after, verdict, "inconclusive" if verdict.word == "inconclusive" else "held")
    note(drive, after, revision)
    return None


def _has_life(drive: Drive, endpoint: Endpoint, progress: Progress) -> bool:
    """Whether users have a living version, or an owner's service: they are not taken from there to a stable that is dead."""
    ready = {name_of(obj) for obj in deployments_of(drive.context.cluster, drive.name) if ready_replicas(obj)}
    return not endpoint.owns(endpoint.stable) or any(
        name in ready and endpoint.traffic.reaches(name) for name in progress.plan.candidates
    )


def _stopped(
    drive: Drive, endpoint: Endpoint, before: Progress, after: Progress, why: Verdict, exc: MlflowIstioError
) -> DriveResult:
    """The end where nobody can be sent back: the release stays open, and its traffic where it is."""
    reason = f"{why.reason} But there is no way back: {exc.message}."
    held = replace(why, word="hold", reason=reason)
    drive.warn_once(f"release '{drive.release}' stays open as it is: {exc.message}")
    stopped = replace(after, driver=None, stopped=True, verdict={"word": "hold", "reason": reason})
    note(drive, stopped, before.revision)
    return _ending(drive, endpoint, stopped, held, "held")


def _can_be_watched(drive: Drive, after: Progress, seen: Observation) -> bool:
    """Whether the stable can keep a share: nobody is sent to one that serves nothing."""
    broken = serves_nothing(after.evidence, seen.stable_ready)
    if broken:
        drive.warn_once(f"'{after.plan.stable}' serves nothing, so the promotion is not watched against it")
    return not broken


def _hold_back(drive: Drive, before: Progress, after: Progress, exc: MlflowIstioError) -> None:
    """A candidate that can't take its traffic yet: what was seen is kept, the step is not taken."""
    drive.warn_once(f"the step is not taken: {exc.message}")
    verdict = {"word": "hold", "reason": f"Waiting: {exc.message}"}
    held = replace(before, evidence=after.evidence if after.step == before.step else before.evidence)
    held = replace(held, looks=after.looks, driver=after.driver, revision=after.revision, verdict=verdict)
    note(drive, held, before.revision)


def _observe(drive: Drive, endpoint: Endpoint, progress: Progress) -> Observation:
    context, dependencies, plan = drive.context, drive.dependencies, progress.plan
    readings: Mapping[str, Reading] = {}
    unavailable = ""
    objects = _deployments(drive)
    cold = _warmed_now(drive, endpoint, progress, objects)
    if plan.guards and dependencies.metrics is not None:
        try:
            read = dependencies.metrics.read(drive.name, counted_deployments(plan, progress.evidence))
            check_totals(progress.evidence.counters, read)
            readings = read
            if problem := missing_in(plan, read, dependencies.metrics.name) or misread_kpi(plan, read):
                drive.warn_once(problem)
        except MetricsError as exc:
            unavailable = dependencies.metrics.name
            drive.warn_once(f"no figures: {exc.message}")
    elif plan.guards:
        unavailable = "any source of metrics (metrics=none)"
    ready = {name: ready_replicas(obj) for name, obj in objects.items()}
    verdict, winner = (
        (None, None) if dependencies.judge is None else dependencies.judge(endpoint, progress, context.clock.now())
    )
    return Observation(
        readings=readings,
        unavailable=unavailable,
        weights=step_weights(endpoint, plan),
        paused=endpoint.release is not None and endpoint.release.state == "paused",
        stable_ready=ready.get(plan.stable, 0) > 0
        if endpoint.owns(endpoint.stable)
        else not any(gone_services(context.cluster, endpoint, (endpoint.stable,))),
        replicas=ready,
        tag=_tag(drive, progress),
        verdict=verdict,
        winner=winner,
        cold=cold,
    )


def _deployments(drive: Drive) -> dict[str, Object]:
    return {name_of(obj): obj for obj in deployments_of(drive.context.cluster, drive.name)}


def _warmed_now(drive: Drive, endpoint: Endpoint, progress: Progress, deployments: Mapping[str, Object]) -> str:
    """Warm what was added, a little; why what is counted since the last look tells nothing, if it is so."""
    start = endpoint.release.replicas if endpoint.release else {}
    for name, obj in deployments.items():  # what was ready at the opening is warm, as far as it is known
        drive.warm.setdefault(name, start.get(name, ready_replicas(obj)))
    waiting = warm_added(drive, progress, deployments)
    before, drive.looked = drive.looked, drive.context.clock.now()
    if not waiting and before is not None and drive.cold_until is not None and before < drive.cold_until:
        waiting = "Waiting for answers of replicas that are warm by now."
    return waiting


def _tag(drive: Drive, progress: Progress) -> str | None:
    """The model version's tag, while a person is asked for something it can answer."""
    approval = progress.plan.approval
    if approval is None or approval.tag is None or progress.question is None or progress.question.answer:
        return None
    label = versions_of(deployments_of(drive.context.cluster, drive.name)).get(progress.plan.candidate, "")
    try:
        answer = _tagged(drive, label, f"{approval.tag}.{drive.release}", progress.question.gate)
        plain = _tagged(drive, label, approval.tag, progress.question.gate)
        return answer or (plain if plain != progress.question.left_over else None)
    except (RegistryError, NotFound) as exc:
        drive.warn_once(f"tag '{approval.tag}' of {label} could not be read: {exc.message}")
        return None


def _tagged(drive: Drive, label: str, key: str, gate: str) -> str | None:
    """What a tag of the model version says to a gate; one of the gate's own says it first."""
    return drive.context.runs.tag(label, f"{key}.{gate}") or drive.context.runs.tag(label, key)


def _with_left_over(drive: Drive, before: Progress, after: Progress) -> Progress:
    """The progress whose new question knows what a tag said before it was asked: an approval belongs to one release."""
    question, approval = after.question, after.plan.approval
    known = before.question is not None and question is not None and before.question.gate == question.gate
    if question is None or question.answer or known or approval is None or approval.tag is None:
        return after
    label = versions_of(deployments_of(drive.context.cluster, drive.name)).get(after.plan.candidate, "")
    try:
        answer = _tagged(drive, label, approval.tag, question.gate)
    except (RegistryError, NotFound) as exc:
        drive.warn_once(f"tag '{approval.tag}' of {label} could not be read: {exc.message}")
        return after
    if answer is None:
        return after
    drive.warn_once(
        f"tag '{approval.tag}' of models:/{label} said {answer!r} before '{question.gate}' was asked: that was an earlier "
        f"release's answer; set '{approval.tag}.{drive.release}', or run 'mlflow-istio approve {drive.name}'"
    )
    return replace(after, question=replace(question, left_over=answer))


def _asked(drive: Drive, release: Release, hook: Webhook, event: Event, gate: str, verdict: Verdict) -> str:
    return drive.dependencies.ask(hook.url, _payload(drive, release, event, gate, verdict), hook.timeout)


def _payload(drive: Drive, release: Release | None, event: Event, gate: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "event": event,
        "endpoint": drive.name,
        "release": drive.release,
        "strategy": release.strategy if release else "",
        "candidates": list(release.candidates) if release else [],
        "gate": gate,
        "verdict": {"word": verdict.word, "reason": verdict.reason},
        "scope": drive.context.scope,
    }


def _keep(drive: Drive, release: Release, progress: Progress) -> None:
    """Write the look's figures to the release's run; a registry that is down costs the figures, not the release."""
    if release.run is None or progress.step < 0:
        return
    try:
        figures = {
            **look_figures(progress.plan, progress.evidence, progress.weight),
            **counters_kept(progress.plan, progress.evidence),
        }
        drive.context.runs.keep(release.run, figures=figures, step=progress.looks)
    except (RegistryError, NotFound) as exc:
        drive.warn_once(f"the figures of a look could not be kept: {exc.message}")


def _without_tokens(plan: ReleasePlan) -> ReleasePlan:
    """The plan as files and reports may have it."""
    return replace(plan, webhooks=tuple(replace(hook, url=hook.shown) for hook in plan.webhooks))


def _ending(drive: Drive, endpoint: Endpoint, progress: Progress, verdict: Verdict, outcome: str) -> DriveResult:
    """The last things: tell the webhooks of a rollback, keep plan, verdict and report."""
    release, context = endpoint.release, drive.context
    if outcome in ("rolled-back", "inconclusive"):
        try:
            notify(context, drive.dependencies.ask, drive.name)
        except (ClusterError, NotFound) as exc:
            drive.warn_once(
                f"webhooks may not know of the rollback; 'mlflow-istio resume {drive.name}' tells them: {exc.message}"
            )
    if release is not None and release.run is not None:
        text = json.dumps(
            {
                "release": release.id,
                "endpoint": drive.name,
                "outcome": outcome,
                "plan": to_json(_without_tokens(progress.plan)),
                "verdict": to_json(verdict),
                "looks": progress.looks,
            },
            indent=2,
        )
        try:
            context.runs.keep(release.run, texts={"release.json": text})
        except (RegistryError, NotFound) as exc:
            drive.warn_once(f"plan and verdict could not be kept: {exc.message}")
        else:
            for warning in report_release(context, drive.name, release.id):  # once more: now with the plan
                drive.warn_once(warning)
    return DriveResult(release=drive.release, outcome=outcome, word=verdict.word, reason=verdict.reason)


def _ended_by_hand(endpoint: Endpoint, release: str) -> DriveResult:
    last = endpoint.last
    if last is not None and last.id == release:
        reason = (
            f"Release '{release}' has ended: {last.outcome}; 'mlflow-istio history {endpoint.name}' tells who and why."
        )
        return DriveResult(release=release, outcome=last.outcome, word="hold", reason=reason, by_hand=True)
    reason = f"Release '{release}' is not open any more."
    return DriveResult(release=release, outcome="aborted", word="hold", reason=reason, by_hand=True)
