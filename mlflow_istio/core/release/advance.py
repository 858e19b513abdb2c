"""What comes next in a progressive release: purely from its plan, where it stands, and one look at the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.promotion import about
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.moves.control_share import control_share
from mlflow_istio.core.release.driver import Question
from mlflow_istio.core.release.evidence import Look, counted_deployments, serves_nothing, taken_in, waiting_for_control
from mlflow_istio.core.release.judgement import LookContext, brief, judge
from mlflow_istio.core.release.plan import Event, ReleasePlan, Webhook
from mlflow_istio.core.release.progress import Progress
from mlflow_istio.core.release.warming import counted_by, counts_after

APPROVING = frozenset({"approve", "approved", "true", "yes"})
REJECTING = frozenset({"reject", "rejected", "false", "no"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """One look at the world.

    Attributes:
        readings: Deployment to its raw counters; one without data is absent.
        unavailable: Why no figures could be read at all; empty when they could.
        weights: Deployment to percent of the live traffic (shadow: mirrored), as the object says.
        paused: Whether a person paused the release.
        stable_ready: Whether the stable has a ready replica.
        replicas: Deployment to its ready replicas; empty where nobody knows.
        tag: Value of the model version's tag that approves, if one is asked for.
        webhooks: URL to what it answered for the next gate: empty when it agreed, else what it said.
        verdict: Of the comparison that an A/B/n and a shadow have instead of guards; None when there is none yet.
        winner: The arm that won an A/B/n.
        cold: Why this look tells nothing and no step is taken: replicas that were added are being warmed. Empty when none are.
        room: Why the replicas that the next step needs are not there yet; empty when they are, None when nobody has looked.
    """

    readings: Mapping[str, Reading] = field(default_factory=dict)
    unavailable: str = ""
    weights: Mapping[str, float]
    paused: bool = False
    stable_ready: bool = True
    replicas: Mapping[str, int] = field(default_factory=dict)
    tag: str | None = None
    webhooks: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict | None = None
    winner: str | None = None
    cold: str = ""
    room: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """What to do now.

    Attributes:
        verdict: What it rests on.
    """

    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait(Action):
    """Look again after the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask(Action):
    """A person must answer the progress' question; look again after the interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift(Action):
    """Give the candidate so much traffic."""

    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Action):
    """Ask these webhooks, then advance with their answers."""

    event: Event
    gate: str
    hooks: tuple[Webhook, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeRoom(Action):
    """Bring up the replicas that the next step needs, then advance with what is still missing.

    Attributes:
        weight: The candidates' percent at that step.
        winner: Who is promoted, where promotion is the step.
        hurry: Whether users have nobody else, so that nobody waits for replicas.
    """

    weight: float
    winner: str | None
    hurry: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Promote(Action):
    """Make the candidate stable."""

    candidate: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RollBack(Action):
    """Return the traffic to the stable; the candidate is not good enough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiveUp(Action):
    """Time is up without proof: return the traffic to the stable and end as inconclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop(Action):
    """Leave the traffic as it is and stop driving; a person decides."""


def advance(progress: Progress, seen: Observation, now: datetime, *, figures: bool = True) -> tuple[Progress, Action]:
    """Take in one look and say what to do.

    The same progress, observation and time always give the same answer, so a process that died after looking may be
    followed by one that looks again.

    Args:
        progress: Where the release stands.
        seen: The look.
        now: The time in UTC.
        figures: Whether somebody reads the verdict's figures; without them the same is done, in a fraction of the time.

    Returns:
        Where it stands then (to be stored together with what the action writes), and the action.
    """
    if not seen.webhooks and seen.room is None:
        progress = replace(progress, looks=progress.looks + 1)
    if seen.paused:
        return _paused(progress, now)
    progress = _unpaused(progress, now)
    if progress.step >= 0 and any(
        seen.weights.get(name, weight) != weight for name, weight in _wanted(progress, seen).items()
    ):
        held = replace(progress, evidence=progress.evidence.rebased())
        if _seconds(progress.started, now) >= progress.plan.deadline:
            reason = "The deadline has passed: somebody keeps changing the traffic."
            verdict = Verdict(word="inconclusive", reason=reason)
            return _given_up(_with(held, verdict), verdict)
        verdict = _hold(f"The traffic is not what the step says: {progress.weight:g}% is restored.")
        return _with(held, verdict), Shift(verdict=verdict, weight=progress.weight)
    progress, missing = _looked(progress, seen, now)
    verdict = _judged(progress, seen, missing, now, figures=figures)
    progress = _with(progress, verdict)
    if verdict.word == "rollback":
        return progress, RollBack(verdict=verdict)
    if verdict.word == "inconclusive":
        return _given_up(progress, verdict)
    if verdict.word == "hold":
        return progress, Wait(verdict=verdict)
    return _through_gates(progress, seen, verdict, now)


def _wanted(progress: Progress, seen: Observation) -> dict[str, float]:
    """What the step gives to the candidates and to a control; one that is not ready, or gone, gets nothing."""
    wanted = dict.fromkeys(progress.plan.candidates, progress.weight)
    control = progress.evidence.control
    if control in seen.weights:
        left = seen.weights[control] + seen.weights.get(progress.plan.stable, 0)
        if seen.weights.get(progress.plan.candidate, 0) == progress.weight:  # else the whole step is set anew
            ready = not seen.replicas or seen.replicas.get(control, 0) > 0
            wanted[control] = control_share(progress.weight, left) if ready else 0
    return wanted


def _looked(progress: Progress, seen: Observation, now: datetime) -> tuple[Progress, tuple[str, ...]]:
    plan = progress.plan
    counts_from = progress.since if progress.step >= 0 else None
    if progress.traffic_since is not None:
        counts_from = progress.traffic_since + timedelta(seconds=counts_after(plan, warmed=progress.warmed))
    look = Look(
        readings=seen.readings,
        weights={name: seen.weights.get(name, 0) for name in counted_deployments(plan, progress.evidence)},
        time=now,
        counts_from=counts_from,
        # The interval in which the weights changed had two of them.
        settled_from=progress.since + timedelta(seconds=plan.settle, microseconds=1),
        stable_ready=seen.stable_ready,
        changed=progress.since,
        replicas=seen.replicas,
    )
    control = progress.evidence.control
    missing: tuple[str, ...]
    if progress.step >= 0 and control and not seen.weights.get(control, 0):
        silent = f"control '{control}', which answers nothing"
        evidence, missing = progress.evidence.rebased(), (silent,)
    elif seen.cold:
        evidence, missing = progress.evidence.rebased(), ()
    else:
        evidence, missing = taken_in(counted_by(plan, warmed=progress.warmed), progress.evidence, look)
    if seen.unavailable:
        missing = (seen.unavailable,)
    if not plan.guards or not plan.compares:
        missing = ()
    elif progress.step < 0 and not seen.unavailable:
        missing = ()  # a stable that nobody asks anything has no figures, and nothing is compared yet
    waiting = waiting_for_control(plan, evidence)
    since = progress.missing_since or now if any(name not in waiting for name in missing) else None
    return replace(progress, evidence=evidence, missing_since=since), tuple(waiting.get(name, name) for name in missing)


def _judged(
    progress: Progress, seen: Observation, missing: tuple[str, ...], now: datetime, *, figures: bool
) -> Verdict:
    plan = progress.plan
    if progress.question and progress.question.answer == "reject":
        return Verdict(
            word="rollback", reason=f"{progress.question.who} rejected '{progress.question.gate}'.", evidence={}
        )
    late = _seconds(progress.started, now) >= plan.deadline
    complete = _seconds(progress.since, now) >= plan.hold and progress.evidence.step_requests >= _requests_wanted(
        progress
    )
    if progress.step < 0:
        if missing and not late:
            return _hold(f"Waiting before the first step: no data from {', '.join(missing)}.")
        if missing:
            return Verdict(word="inconclusive", reason=f"The deadline has passed: no data from {', '.join(missing)}.")
        return Verdict(word="advance", reason="Ready to start.")
    tolerant = progress.missing_since is None or _seconds(progress.missing_since, now) < plan.hold
    verdict = judge(
        plan,
        progress.evidence,
        LookContext(
            missing=missing,
            tolerant=tolerant,
            step_complete=complete,
            step_left="" if complete else _step_left(progress, now),
            last=progress.last_step,
            deadline_reached=late,
            broken=_judged_alone(progress, seen),
            figures=figures,
        ),
    )
    if not plan.compares and plan.guards and not (plan.guarded and verdict.word == "rollback"):
        return _compared_elsewhere(seen, complete=complete, late=late)
    if verdict.word == "rollback" and not seen.stable_ready and not late:
        return replace(
            verdict, word="hold", reason=f"{verdict.reason} But the stable has no ready replica to go back to."
        )
    if verdict.word == "inconclusive" and _nobody_called(progress, seen):
        names = " and ".join(f"'{name}'" for name in plan.candidates)
        return replace(verdict, reason=f"{verdict.reason} 0 requests: nobody called {names}.")
    return verdict


def _nobody_called(progress: Progress, seen: Observation) -> bool:
    """Whether a candidate with live traffic never got a request, as far as the source of metrics can be trusted."""
    plan = progress.plan
    counted = plan.guards and not seen.unavailable and progress.traffic_since is not None
    return bool(counted) and not any(progress.evidence.requests.get(name, 0) for name in plan.candidates)


def _judged_alone(progress: Progress, seen: Observation) -> bool:
    """Whether the candidate has traffic and there is nothing to compare it with."""
    return bool(progress.plan.guards and progress.weight) and serves_nothing(progress.evidence, seen.stable_ready)


def _step_left(progress: Progress, now: datetime) -> str:
    """What the present step still needs, and from the traffic so far about how long that takes."""
    lasted, answered = _seconds(progress.since, now), progress.evidence.step_requests
    requests = max(0, _requests_wanted(progress) - answered)
    seconds = max(0.0, progress.plan.hold - lasted)
    if not requests:
        return f"about {about(seconds)} more"
    needs = f"{requests:,} more requests of the candidate"
    if not answered:
        return f"{needs}; none so far"
    return f"{needs}, about {about(max(seconds, requests * lasted / answered))} at such traffic"


def _requests_wanted(progress: Progress) -> int:
    """A step without live traffic for the candidate needs none of its requests, nor does one for which nobody counts them."""
    counted = progress.weight and progress.plan.compares and progress.plan.guards
    return progress.plan.min_requests if counted else 0


def _compared_elsewhere(seen: Observation, *, complete: bool, late: bool) -> Verdict:
    """An A/B/n and a shadow: their own comparison decides, once the step has lasted long enough."""
    verdict = seen.verdict
    if verdict is None:
        if late:
            return Verdict(word="inconclusive", reason="The deadline has passed: there is no comparison.")
        return _hold("Waiting: there is no comparison yet.")
    if verdict.word == "advance" and not complete:
        return replace(verdict, word="hold", reason=f"Waiting: the step isn't complete. {verdict.reason}")
    if verdict.word == "hold" and late:
        return replace(verdict, word="inconclusive", reason=f"The deadline has passed. {verdict.reason}")
    return verdict


def _through_gates(progress: Progress, seen: Observation, verdict: Verdict, now: datetime) -> tuple[Progress, Action]:
    plan = progress.plan
    alone = plan.compares and _judged_alone(progress, seen)
    promoting = progress.last_step or alone  # users of a broken stable don't wait for more steps
    gate = "promotion" if promoting else progress.target
    if promoting and not plan.promote:
        return replace(progress, stopped=True), Stop(verdict=verdict)
    event: Event = "promotion" if promoting else "start" if progress.step < 0 else "increase"
    progress, held = _through_webhooks(progress, seen, verdict, event, gate, now)
    if held is None:
        progress, held = _through_approval(progress, seen, gate, now)
    if held is not None:
        return progress, held
    winner = (seen.winner or plan.candidate) if promoting else None
    weight = progress.weight if promoting else plan.steps[progress.step + 1]
    if plan.capacity == "follow" and seen.room is None:
        return progress, MakeRoom(verdict=verdict, weight=weight, winner=winner, hurry=alone)
    waiting = seen.room or ("" if alone else seen.cold)
    if waiting:
        return _waiting(progress, waiting, f"The deadline has passed. {waiting}", now)
    if winner is not None:
        return progress, Promote(verdict=verdict, candidate=winner)
    return _stepped(progress, now), Shift(verdict=verdict, weight=weight)


def _through_webhooks(
    progress: Progress, seen: Observation, verdict: Verdict, event: Event, gate: str, now: datetime
) -> tuple[Progress, Action | None]:
    """What the webhooks of a gate hold up; None: nothing."""
    key = f"webhook:{gate}"
    hooks = progress.plan.webhook_gates(event)
    if not hooks or key in progress.passed:
        return progress, None
    unheard = tuple(hook for hook in hooks if hook.url not in seen.webhooks)
    if unheard:
        return progress, Call(verdict=verdict, event=event, gate=gate, hooks=unheard)
    refused = [f"{hook.shown} says {words}" for hook in hooks if (words := seen.webhooks[hook.url])]
    if refused:
        words = f"{event} is not allowed yet: {'; '.join(refused)}."
        return _waiting(progress, f"Waiting: {words}", f"The deadline has passed: {words}", now)
    return replace(progress, passed=(*progress.passed, key)), None


def _through_approval(
    progress: Progress, seen: Observation, gate: str, now: datetime
) -> tuple[Progress, Action | None]:
    """What a person who has to agree holds up; None: nothing."""
    approval, key = progress.plan.approval, f"approval:{gate}"
    if approval is None or gate not in approval.before or key in progress.passed:
        return progress, None
    progress, answer = _answer(progress, seen, gate, now)
    question = progress.question
    if answer == "reject" and question:
        no = Verdict(word="rollback", reason=f"{question.who} rejected '{gate}'.")
        return _with(progress, no), RollBack(verdict=no)
    if answer != "approve":
        held = _hold(f"Waiting for approval of '{gate}'.")
        return _with(progress, held), Ask(verdict=held)
    return replace(progress, passed=(*progress.passed, key), question=None), None


def _waiting(progress: Progress, reason: str, too_late: str, now: datetime) -> tuple[Progress, Action]:
    """Wait for something, or give up where the deadline has passed over it."""
    if _seconds(progress.started, now) >= progress.plan.deadline:
        late = Verdict(word="inconclusive", reason=too_late)
        return _given_up(_with(progress, late), late)
    held = _hold(reason)
    return _with(progress, held), Wait(verdict=held)


def _answer(progress: Progress, seen: Observation, gate: str, now: datetime) -> tuple[Progress, str]:
    """What a person says to a gate: by command, by the model version's tag, or by saying nothing for too long."""
    approval = progress.plan.approval
    question = progress.question
    if approval is None or question is None or question.gate != gate:
        question = Question(gate=gate, asked=now)
    answer, who = question.answer, question.who
    if not answer and seen.tag is not None and seen.tag.lower() in APPROVING | REJECTING:
        answer, who = ("approve" if seen.tag.lower() in APPROVING else "reject"), "the model version's tag"
    if not answer and approval and _seconds(question.asked, now) >= approval.timeout:
        answer, who = approval.default, f"nobody answered in {approval.timeout:g} s, which"
    return replace(progress, question=replace(question, answer=answer, who=who)), answer


def _stepped(progress: Progress, now: datetime) -> Progress:
    """The progress at the start of the next step."""
    plan, step = progress.plan, progress.step + 1
    weight = plan.steps[step]
    evidence = replace(progress.evidence, step_requests=0)
    if plan.strategy != "shadow":
        evidence = evidence.reweighted(step_shares(plan, evidence.control, weight))
    return replace(
        progress,
        step=step,
        since=now,
        traffic_since=progress.traffic_since or (now if weight else None),
        evidence=evidence,
    )


def step_shares(plan: ReleasePlan, control: str, weight: float) -> dict[str, float]:
    """Deployment to its percent at a step of this weight, a control's included."""
    left = 100 - weight * len(plan.candidates)
    compared = {control: control_share(weight, left)} if control else {}
    return {plan.stable: left - sum(compared.values()), **dict.fromkeys(plan.candidates, weight), **compared}


def _paused(progress: Progress, now: datetime) -> tuple[Progress, Action]:
    verdict = _hold("Paused; 'mlflow-istio resume' goes on.")
    held = replace(progress, evidence=progress.evidence.rebased(), paused_since=progress.paused_since or now)
    return _with(held, verdict), Wait(verdict=verdict)


def _unpaused(progress: Progress, now: datetime) -> Progress:
    """A pause takes nothing from the step's time nor from the deadline."""
    if progress.paused_since is None:
        return progress
    pause = now - progress.paused_since
    return replace(progress, paused_since=None, started=progress.started + pause, since=progress.since + pause)


def _given_up(progress: Progress, verdict: Verdict) -> tuple[Progress, Action]:
    if progress.plan.undecided == "rollback":
        return progress, GiveUp(verdict=verdict)
    return replace(progress, stopped=True), Stop(verdict=verdict)


def _hold(reason: str) -> Verdict:
    return Verdict(word="hold", reason=reason)


def _with(progress: Progress, verdict: Verdict) -> Progress:
    return replace(progress, verdict=brief(verdict))


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start) / timedelta(seconds=1)
