"""Where a progressive release stands: everything another process needs to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from mlflow_istio.core.basics.stored import compact, form, from_json, parsed, stored, to_json
from mlflow_istio.core.release.driver import Driver, Question
from mlflow_istio.core.release.evidence import Evidence, no_evidence
from mlflow_istio.core.release.guards.table import refused, said_by
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.errors import InvalidInput, StateConflict

MAX_BYTES = 64 * 1024
"""Of the 256 KiB that all annotations of an object may have together, 128 belong to the unrecorded changes."""


FULL_GUARD = 8000
"""Of a guard that must see the stable's history before it starts: latency, with the tests of three edges."""

FULL_COUNTERS = 4096
"""Of the last counters of a few sources."""


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class WatchState:
    """What a watch knows besides its older test, which is the progress' `evidence` (``core.release.watching``).

    Attributes:
        window: Index of the present window of time, in which the newest test began.
        newer: The test that began with it; None in the first window, whose test is the older one.
        margins: Guard of slow answers to the odds ratio that the watch's beginning shows, margin included; 10 until it is known.
    """

    window: int = 0
    newer: Evidence | None = None
    margins: Mapping[str, float] = field(default_factory=dict)


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a release stands.

    Attributes:
        plan: What it is to do.
        started: When it started; moved on by pauses.
        since: When the present step's weights were set; moved on by pauses.
        step: Index of the present step; -1 before the first.
        traffic_since: When the candidate got its first traffic; None before.
        looks: How many looks there were.
        revision: How many writes there were: each names the one it expects.
        evidence: What was measured.
        missing_since: Since when data are missing, or None.
        paused_since: Since when it is paused, or None.
        passed: Gates that are passed.
        question: What a person is asked now, or None.
        stopped: Whether it has done all it was to do, and waits for a person to promote.
        driver: Who drives it, or None.
        verdict: Word and reason of the last look.
        warmed: Whether the candidates had settled before their first user.
        watch: Set from the promotion on, while the release is watched: `evidence` is then the watch's own.
    """

    plan: ReleasePlan = field(metadata=stored(context=True))
    started: datetime
    since: datetime
    step: int = -1
    traffic_since: datetime | None = None
    looks: int = 0
    revision: int = 0
    evidence: Evidence
    missing_since: datetime | None = None
    paused_since: datetime | None = None
    passed: tuple[str, ...] = ()
    question: Question | None = None
    stopped: bool = False
    driver: Driver | None = None
    verdict: Mapping[str, Any] | None = None
    warmed: bool = field(default=False, metadata=stored(sparse=True))
    watch: WatchState | None = field(default=None, metadata=stored(sparse=True))

    @property
    def weight(self) -> float:
        """The candidate's percent at the present step."""
        if self.watch is not None:
            return 100 - self.plan.holdback
        return self.plan.steps[self.step] if self.step >= 0 else 0

    @property
    def last_step(self) -> bool:
        """Whether promotion comes next."""
        return self.step == len(self.plan.steps) - 1

    @property
    def target(self) -> str:
        """What comes next: a step's weight as text, or ``promotion``."""
        return "promotion" if self.last_step else f"{self.plan.steps[self.step + 1]:g}"

    def driven_by_another(self, driver: str, now: datetime) -> Driver | None:
        """The driver that is alive, unless it is this one."""
        holder = self.driver
        return holder if holder and holder.id != driver and now < holder.lease_expires else None


def first_progress(plan: ReleasePlan, now: datetime, *, phase: float | None = None, control: str = "") -> Progress:
    """Where a release stands when it starts.

    Args:
        plan: What it is to do.
        now: The time in UTC.
        phase: The longest slow phase in seconds that the stable's history shows; None: nobody knows. What the plan says is
            stronger.
        control: Deployment that the candidate is compared with; empty: with the stable.
    """
    return Progress(plan=plan, started=now, since=now, evidence=no_evidence(plan, phase=phase, control=control))


def alive(progress: Progress, driver: str, who: str, now: datetime) -> Progress:
    """The progress with a sign of life of its driver."""
    until = now + timedelta(seconds=progress.plan.heartbeat)
    return replace(progress, driver=Driver(id=driver, who=who, lease_expires=until))


def answered(progress: Progress | None, endpoint: str, answer: str, who: str) -> Progress:
    """The progress with a person's answer.

    Raises:
        StateConflict: Nothing is asked, or it was answered otherwise.
    """
    question = progress.question if progress else None
    if progress is None or question is None:
        raise StateConflict(
            f"nothing waits for approval at endpoint '{endpoint}': see 'mlflow-istio status {endpoint}'"
        )
    if question.answer == answer:
        return progress
    if question.answer:
        raise StateConflict(f"'{question.gate}' of endpoint '{endpoint}' was answered already: {question.answer}")
    return replace(progress, question=replace(question, answer=answer, who=who), revision=progress.revision + 1)


def progress_to_text(progress: Progress) -> str:
    """Compact JSON for the annotation.

    Raises:
        InvalidInput: It would be too large for the object.
    """
    text = compact(to_json(progress))
    if len(text) > MAX_BYTES:
        raise InvalidInput(
            f"the state of the release would be {len(text):,} bytes, more than the {MAX_BYTES:,} that fit on the VirtualService: "
            "watch fewer KPIs, or read metrics that are summed over pods"
        )
    return text


def check_room(progress: Progress) -> None:
    """Refuse a release whose state would outgrow its object one day.

    Raises:
        InvalidInput: Says how large it may become, and what to do.
    """
    tests = progress.evidence.tests
    waiting = sum(FULL_GUARD for guard in progress.plan.guards if guard.name not in tests)
    rooms = [
        said_by(guard, partial(getattr, tests[guard.name], "room"), refused(guard))
        for guard in progress.plan.guards
        if guard.name in tests
    ]
    growing = sum(rooms) + waiting + FULL_COUNTERS
    full = len(compact(to_json(progress))) + growing
    if progress.plan.watch:  # two tests at once, of which one began later
        full += len(compact(to_json(progress.evidence))) + growing
    if full > MAX_BYTES:
        raise InvalidInput(
            f"the state of such a release can grow to {full:,} bytes, more than the {MAX_BYTES:,} that fit on the VirtualService: "
            f"watch fewer than the {len(progress.plan.guards)} guards and KPIs it has, or say phase=0"
        )


def progress_from_text(text: str) -> Progress:
    """Read what ``progress_to_text`` wrote.

    Raises:
        InvalidInput: It is of another version.
    """
    try:
        return from_json(Progress, parsed(text, "it"))
    except InvalidInput as exc:
        raise InvalidInput(
            f"the progress of the release is damaged ({exc.message}): abort the release, or restore its annotation"
        ) from exc
