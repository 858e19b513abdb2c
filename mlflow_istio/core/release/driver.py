"""Who drives a release and what it asks people: the parts of its stored progress that every command reads.

Kept apart from the rest, which needs numpy: ``status`` must not pay for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mlflow_istio.core.basics.stored import form, from_json, parsed, stored, to_json
from mlflow_istio.errors import InvalidInput


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a person is asked.

    Attributes:
        gate: The step's weight as text, or ``promotion``.
        asked: Since when, in UTC.
        answer: ``approve``, ``reject``, or empty.
        who: Who answered.
        left_over: What the model version's tag said already when it was asked: the answer to an earlier release.
    """

    gate: str
    asked: datetime
    answer: str = ""
    who: str = ""
    left_over: str = field(default="", metadata=stored(sparse=True))


@form(closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that drives a release.

    Attributes:
        id: Made anew by each process.
        who: Whose it is, and where.
        lease_expires: It counts as alive until then, in UTC.
    """

    id: str
    who: str
    lease_expires: datetime = field(metadata=stored(name="alive_until"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseStatus:
    """What every command knows of a progressive release.

    Attributes:
        steps: Candidate's percent at each step.
        step: Index of the present step; -1 before the first.
        looks: How many looks there were.
        question: What a person is asked, or None.
        driver: Who drives it, or None.
        stopped: Whether it has done what it was to do, and waits for a person to promote.
        verdict: Word and reason of the last look, or None.
        since: When the present step began, or the watch.
        watch: Seconds for which the promoted version is to be watched; 0: it isn't.
    """

    steps: tuple[float, ...] = field(metadata=stored(name="plan", read=lambda plan, _context: tuple(plan["steps"])))
    step: int
    looks: int
    question: Question | None
    driver: Driver | None
    stopped: bool
    verdict: Mapping[str, Any] | None
    since: datetime
    watch: float = field(metadata=stored(name="plan", read=lambda plan, _context: float(plan.get("watch", 0))))

    @property
    def watch_until(self) -> datetime:
        """When the watch is over, if the release is watched by now."""
        return self.since + timedelta(seconds=self.watch)

    def driven(self, now: datetime) -> Driver | None:
        """The driver, if it is alive."""
        return self.driver if self.driver and now < self.driver.lease_expires else None

    def view(self) -> dict[str, Any]:
        """What users are told."""
        return {
            "steps": list(self.steps),
            "step": self.step,
            "looks": self.looks,
            "stopped": self.stopped,
            "waits_for": to_json(self.question) if self.question and not self.question.answer else None,
            "driver": to_json(self.driver) if self.driver else None,
            "verdict": dict(self.verdict) if self.verdict else None,
        }


def release_status_of(text: str | None) -> ReleaseStatus | None:
    """The course in a stored progress; None when there is none.

    Raises:
        InvalidInput: It was damaged.
    """
    if text is None:
        return None
    try:
        return from_json(ReleaseStatus, parsed(text, "it"))
    except InvalidInput as exc:
        raise InvalidInput(
            f"the progress of the release is damaged ({exc}): abort the release, or restore its annotation"
        ) from exc
