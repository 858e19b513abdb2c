"""Who drives a release and what it asks people: the parts of its stored progress that every command reads.

Kept apart from the rest, which needs numpy: ``status`` must not pay for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlflow_istio.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a person is asked.

    Attributes:
        gate: The step's weight as text, or ``promotion``.
        asked: Since when, in UTC.
        answer: ``approve``, ``reject``, or empty.
        who: Who answered.
    """

    gate: str
    asked: datetime
    answer: str = ""
    who: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"gate": self.gate, "asked": self.asked.isoformat(), "answer": self.answer, "who": self.who}


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that drives a release.

    Attributes:
        id: Made anew by each process.
        who: Whose it is, and where.
        alive_until: It counts as alive until then, in UTC.
    """

    id: str
    who: str
    alive_until: datetime

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"id": self.id, "who": self.who, "alive_until": self.alive_until.isoformat()}


def question_from_json(data: Mapping[str, Any] | None) -> Question | None:
    """Read a stored question."""
    return Question(**{**data, "asked": datetime.fromisoformat(data["asked"])}) if data else None


def driver_from_json(data: Mapping[str, Any] | None) -> Driver | None:
    """Read a stored driver."""
    return Driver(**{**data, "alive_until": datetime.fromisoformat(data["alive_until"])}) if data else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What every command knows of a progressive release.

    Attributes:
        steps: Candidate's percent at each step.
        step: Index of the present step; -1 before the first.
        looks: How many looks there were.
        question: What a person is asked, or None.
        driver: Who drives it, or None.
        stopped: Whether it has done what it was to do, and waits for a person to promote.
        verdict: Word and reason of the last look, or None.
    """

    steps: tuple[float, ...]
    step: int
    looks: int
    question: Question | None
    driver: Driver | None
    stopped: bool
    verdict: Mapping[str, Any] | None

    def driven(self, now: datetime) -> Driver | None:
        """The driver, if it is alive."""
        return self.driver if self.driver and now < self.driver.alive_until else None

    def view(self) -> dict[str, Any]:
        """What users are told."""
        return {
            "steps": list(self.steps),
            "step": self.step,
            "looks": self.looks,
            "stopped": self.stopped,
            "waits_for": self.question.to_json() if self.question and not self.question.answer else None,
            "driver": self.driver.to_json() if self.driver else None,
            "verdict": dict(self.verdict) if self.verdict else None,
        }


def course_of(text: str | None) -> Course | None:
    """The course in a stored progress; None when there is none.

    Raises:
        InvalidInput: It was damaged.
    """
    if text is None:
        return None
    try:
        data = json.loads(text)
        return Course(
            steps=tuple(data["plan"]["steps"]),
            step=data["step"],
            looks=data["looks"],
            question=question_from_json(data["question"]),
            driver=driver_from_json(data["driver"]),
            stopped=data["stopped"],
            verdict=data["verdict"],
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(
            f"the progress of the release is damaged ({exc!r}): abort the release, or restore its annotation"
        ) from exc
