"""Drive a release from its first step to its end: look, decide purely, act once, note where it stands.

Everything a successor needs stands on the VirtualService: a process may die anywhere, and another goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.basics.objects import name_of, ready_replicas
from mlflow_istio.core.basics.stored import to_json
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.release.advance import (
    Action,
    Call,
    GiveUp,
    Observation,
    Promote,
    RollBack,
    Shift,
    Stop,
    advance,
)
from mlflow_istio.core.release.judgement import look_figures
from mlflow_istio.core.release.on_endpoint import (
    Overtaken,
    ended,
    promoted,
    shifted,
    step_weights,
)
from mlflow_istio.core.release.plan import Event, Webhook
from mlflow_istio.core.release.progress import Progress, alive, progress_from_text
from mlflow_istio.errors import (
    ClusterError,
    MetricsError,
    NotFound,
    NotReady,
    NotRouted,
    RegistryError,
    StateConflict,
)
from mlflow_istio.releases.context import Desk, deployments_of, endpoint_of, versions_of, warned
from mlflow_istio.releases.driving.drive import Crew, Ending, Seen, Work, claim, leave, note
from mlflow_istio.releases.driving.notifications import tell, to_be_told
from mlflow_istio.releases.ledger import catch_up
from mlflow_istio.releases.moving.shifting import Transition, move
from mlflow_istio.releases.reporting import report_release

PATIENCE = 300.0
"""Seconds for which a cluster that can't be reached is asked again before the driver gives up; `resume` goes on later."""


def drive(desk: Desk, crew: Crew, name: str, *, release: str | None = None, take_over: bool = False) -> Ending:
    """Drive the open release of an endpoint from where it stands to its end.

    Args:
        desk: The ports.
        crew: Who helps.
        name: The endpoint.
        release: Which release is meant; None: the open one. One that has ended already says how.
        take_over: Whether to take it from a driver that still counts as alive.

    Raises:
        StateConflict: No release with a plan is open, or another process drives it.
        ClusterError: The cluster could not be reached for too long; the state stands there, and `resume` goes on.
    """
    warned(desk, catch_up(desk, name, publish=False))
    told = tell(desk, crew.ask, name)
    endpoint = endpoint_of(desk.cluster, name)
    if told and endpoint.release is None and endpoint.last is not None:
        return _ended_by_hand(endpoint, endpoint.last.id)  # all that was left to do
    if release is not None and endpoint.last is not None and endpoint.last.id == release:
        return _ended_by_hand(endpoint, release)
    if endpoint.release is None or endpoint.progress is None:
        raise StateConflict(
            f"endpoint '{name}' has no release that goes on by itself: start one with 'mlflow-istio release {name} models:/...'"
        )
    work = Work(desk=desk, crew=crew, name=name, home=endpoint.home, release=endpoint.release.id, driver=desk.new_id())
    claim(work, take_over)
    try:
        return _to_the_end(work)
    except (KeyboardInterrupt, SystemExit):
        leave(work)
        raise


def _to_the_end(work: Work) -> Ending:
    desk = work.desk
    failing_since: float | None = None
    while True:
        try:
            ending, interval = _round(work)
            failing_since = None
        except Overtaken:
            continue
        except NotFound:
            if desk.cluster.get("VirtualService", work.home) is not None:
                raise
            return Ending(
                release=work.release, outcome="aborted", word="hold", reason="The endpoint was deleted.", by_hand=True
            )
        except ClusterError as exc:
            now = desk.clock.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since > PATIENCE:
                raise
            work.warn_once(f"could not look at endpoint '{work.name}', trying again: {exc.message}")
            ending, interval = None, 5.0
        if ending is not None:
            return ending
        desk.clock.sleep(interval)


def _round(work: Work) -> tuple[Ending | None, float]:
    """One look and what follows from it; the ending, or None and the seconds until the next look."""
    desk = work.desk
    endpoint = endpoint_of(desk.cluster, work.name)
    if endpoint.release is None or endpoint.release.id != work.release or endpoint.progress is None:
        return _ended_by_hand(endpoint, work.release), 0.0
    progress = progress_from_text(endpoint.progress)
    other = progress.driver
    if other is not None and other.id != work.driver:
        raise StateConflict(f"release '{work.release}' of endpoint '{work.name}' is driven by {other.who} now")
    seen = _observe(work, endpoint, progress)
    now = desk.clock.now()
    after, action = advance(progress, seen, now)
    if isinstance(action, Call):
        answers = {
            hook.url: _asked(work, endpoint.release, hook, action.event, action.gate, action.verdict)
            for hook in action.hooks
        }
        after, action = advance(after, replace(seen, webhooks=answers), now)
    after = _with_left_over(work, progress, after)
    after = alive(replace(after, revision=progress.revision + 1), work.driver, desk.who, desk.clock.now())
    _keep(work, endpoint.release, after)
    work.crew.watch(Seen(endpoint=endpoint, progress=after, verdict=action.verdict, doing=type(action).__name__))
    return _act(work, endpoint, progress, after, action, seen), progress.plan.interval


def _act(
    work: Work, endpoint: Endpoint, before: Progress, after: Progress, action: Action, seen: Observation
) -> Ending | None:
    desk, release, revision = work.desk, work.release, before.revision
    verdict = action.verdict

    def moved(transition: Transition, word: str, *, urgent: bool = False, why: Verdict = verdict) -> None:
        move(
            desk,
            work.name,
            transition,
            action=word,
            reason=why.reason,
            evidence=to_json(why),
            urgent=urgent,
            force=urgent and not seen.stable_ready,
            timeout=work.crew.timeout,
        )

    def back(outcome: str, why: Verdict = verdict) -> Ending:
        hooks = before.plan.webhook_gates("rollback")
        untold = to_be_told(hooks, _payload(work, endpoint.release, "rollback", "rollback", why))
        word = "rollback" if outcome == "rolled-back" else outcome
        moved(lambda now: ended(now, release, revision, outcome, untold), word, urgent=True, why=why)
        return _ending(work, endpoint, after, why, outcome)

    def refused(exc: ClusterError) -> Ending | None:
        if desk.clock.now() < before.started + timedelta(seconds=before.plan.deadline):
            _hold_back(work, before, after, exc)
            return None
        late = Verdict(word="inconclusive", reason=f"The deadline has passed: {exc.message}")
        return back("inconclusive", late)

    if isinstance(action, Shift):
        try:
            moved(lambda now: shifted(now, release, revision, after), "shift")
        except (NotReady, NotRouted) as exc:
            return refused(exc)
        return None
    if isinstance(action, Promote):
        try:
            moved(lambda now: promoted(now, release, revision, action.candidate), "promote")
        except (NotReady, NotRouted) as exc:
            return refused(exc)
        return _ending(work, endpoint, after, verdict, "promoted")
    if isinstance(action, RollBack):
        return back("rolled-back")
    if isinstance(action, GiveUp):
        return back("inconclusive")
    if isinstance(action, Stop):
        note(work, replace(after, driver=None), revision)
        return _ending(work, endpoint, after, verdict, "inconclusive" if verdict.word == "inconclusive" else "held")
    note(work, after, revision)
    return None


def _hold_back(work: Work, before: Progress, after: Progress, exc: ClusterError) -> None:
    """A candidate that can't take its traffic yet: what was seen is kept, the step is not taken."""
    work.warn_once(f"the step is not taken: {exc.message}")
    verdict = {"word": "hold", "reason": f"Waiting: {exc.message}"}
    held = replace(before, evidence=after.evidence if after.step == before.step else before.evidence)
    held = replace(held, looks=after.looks, driver=after.driver, revision=after.revision, verdict=verdict)
    note(work, held, before.revision)


def _observe(work: Work, endpoint: Endpoint, progress: Progress) -> Observation:
    desk, crew, plan = work.desk, work.crew, progress.plan
    readings: Mapping[str, Reading] = {}
    unavailable = ""
    if plan.guards and crew.metrics is not None:
        try:
            readings = crew.metrics.read(work.name, plan.deployments)
        except MetricsError as exc:
            unavailable = crew.metrics.name
            work.warn_once(f"no figures: {exc.message}")
    elif plan.guards:
        unavailable = "any source of metrics (metrics=none)"
    ready = {name_of(obj): ready_replicas(obj) for obj in deployments_of(desk.cluster, work.name)}
    verdict, winner = (None, None) if crew.judge is None else crew.judge(endpoint, progress, desk.clock.now())
    return Observation(
        readings=readings,
        unavailable=unavailable,
        weights=step_weights(endpoint, plan),
        paused=endpoint.release is not None and endpoint.release.state == "paused",
        stable_ready=ready.get(plan.stable, 0) > 0 if endpoint.owns(endpoint.stable) else True,
        tag=_tag(work, progress),
        verdict=verdict,
        winner=winner,
    )


def _tag(work: Work, progress: Progress) -> str | None:
    """The model version's tag, while a person is asked for something it can answer."""
    approval = progress.plan.approval
    if approval is None or approval.tag is None or progress.question is None or progress.question.answer:
        return None
    label = versions_of(deployments_of(work.desk.cluster, work.name)).get(progress.plan.candidate, "")
    try:
        said = _tagged(work, label, f"{approval.tag}.{work.release}", progress.question.gate)
        plain = _tagged(work, label, approval.tag, progress.question.gate)
        return said or (plain if plain != progress.question.left_over else None)
    except (RegistryError, NotFound) as exc:
        work.warn_once(f"tag '{approval.tag}' of {label} could not be read: {exc.message}")
        return None


def _tagged(work: Work, label: str, key: str, gate: str) -> str | None:
    """What a tag of the model version says to a gate; one of the gate's own says it first."""
    return work.desk.runs.tag(label, f"{key}.{gate}") or work.desk.runs.tag(label, key)


def _with_left_over(work: Work, before: Progress, after: Progress) -> Progress:
    """The progress whose new question knows what a tag said before it was asked: an approval belongs to one release."""
    question, approval = after.question, after.plan.approval
    known = before.question is not None and question is not None and before.question.gate == question.gate
    if question is None or question.answer or known or approval is None or approval.tag is None:
        return after
    label = versions_of(deployments_of(work.desk.cluster, work.name)).get(after.plan.candidate, "")
    try:
        said = _tagged(work, label, approval.tag, question.gate)
    except (RegistryError, NotFound) as exc:
        work.warn_once(f"tag '{approval.tag}' of {label} could not be read: {exc.message}")
        return after
    if said is None:
        return after
    work.warn_once(
        f"tag '{approval.tag}' of models:/{label} said {said!r} before '{question.gate}' was asked: that was an earlier release's "
        f"answer; set '{approval.tag}.{work.release}', or run 'mlflow-istio approve {work.name}'"
    )
    return replace(after, question=replace(question, left_over=said))


def _asked(work: Work, release: Release, hook: Webhook, event: Event, gate: str, verdict: Verdict) -> str:
    return work.crew.ask(hook.url, _payload(work, release, event, gate, verdict), hook.timeout)


def _payload(work: Work, release: Release | None, event: Event, gate: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "event": event,
        "endpoint": work.name,
        "release": work.release,
        "strategy": release.strategy if release else "",
        "candidates": list(release.candidates) if release else [],
        "gate": gate,
        "verdict": {"word": verdict.word, "reason": verdict.reason},
        "scope": work.desk.scope,
    }


def _keep(work: Work, release: Release, progress: Progress) -> None:
    """Write the look's figures to the release's run; a registry that is down costs the figures, not the release."""
    if release.run is None or progress.step < 0:
        return
    try:
        figures = look_figures(progress.plan, progress.evidence, progress.weight)
        work.desk.runs.keep(release.run, figures=figures, step=progress.looks)
    except (RegistryError, NotFound) as exc:
        work.warn_once(f"the figures of a look could not be kept: {exc.message}")


def _ending(work: Work, endpoint: Endpoint, progress: Progress, verdict: Verdict, outcome: str) -> Ending:
    """The last things: tell the webhooks of a rollback, keep plan, verdict and report."""
    release, desk = endpoint.release, work.desk
    if outcome in ("rolled-back", "inconclusive"):
        try:
            tell(desk, work.crew.ask, work.name)
        except (ClusterError, NotFound) as exc:
            work.warn_once(
                f"webhooks may not know of the rollback; 'mlflow-istio resume {work.name}' tells them: {exc.message}"
            )
    if release is not None and release.run is not None:
        text = json.dumps(
            {
                "release": release.id,
                "endpoint": work.name,
                "outcome": outcome,
                "plan": to_json(progress.plan),
                "verdict": to_json(verdict),
                "looks": progress.looks,
            },
            indent=2,
        )
        try:
            desk.runs.keep(release.run, texts={"release.json": text})
        except (RegistryError, NotFound) as exc:
            work.warn_once(f"plan and verdict could not be kept: {exc.message}")
        else:
            for warning in report_release(desk, work.name, release.id):  # once more: now with the plan
                work.warn_once(warning)
    return Ending(release=work.release, outcome=outcome, word=verdict.word, reason=verdict.reason)


def _ended_by_hand(endpoint: Endpoint, release: str) -> Ending:
    last = endpoint.last
    if last is not None and last.id == release:
        reason = (
            f"Release '{release}' has ended: {last.outcome}; 'mlflow-istio history {endpoint.name}' tells who and why."
        )
        return Ending(release=release, outcome=last.outcome, word="hold", reason=reason, by_hand=True)
    reason = f"Release '{release}' is not open any more."
    return Ending(release=release, outcome="aborted", word="hold", reason=reason, by_hand=True)
