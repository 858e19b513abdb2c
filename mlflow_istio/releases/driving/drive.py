"""A driver at work: who helps it, how it claims a release, and how it notes where the release stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from mlflow_istio.calls.scoring import score
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.on_endpoint import Overtaken, noted
from mlflow_istio.core.release.progress import Progress, alive, answered, progress_from_text, progress_to_text
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.ports.models import Models
from mlflow_istio.ports.scoring import Score
from mlflow_istio.releases.context import Desk, edit_endpoint, endpoint_of
from mlflow_istio.releases.moving.shifting import DEFAULT_TIMEOUT


class Judge(Protocol):
    """The comparison that an A/B/n or a shadow is decided by."""

    def __call__(self, endpoint: Endpoint, progress: Progress, now: datetime, /) -> tuple[Verdict | None, str | None]:
        """The verdict so far (None: nothing yet), and the arm that won."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a watcher is shown after each look.

    Attributes:
        endpoint: The endpoint.
        progress: Where the release stands.
        verdict: Of this look.
        doing: What the driver does now: wait, ask, shift, promote, rollback, give up, stop.
    """

    endpoint: Endpoint
    progress: Progress
    verdict: Verdict
    doing: str


def _nobody(_seen: Seen) -> None:
    """Nobody watches."""


def _agreed(_url: str, _payload: Mapping[str, Any], _timeout: float) -> str:
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who helps to drive a release, beside the desk.

    Attributes:
        models: What model versions say of themselves; None: there is no preflight.
        score: Sends one request to an endpoint, for the preflight.
        metrics: Where figures come from; None: from nowhere, which a plan with guards holds against the candidate's promotion.
        ask: Asks a webhook; returns empty for yes.
        judge: The comparison of an A/B/n or a shadow; None where there is none.
        watch: Shown every look.
        timeout: Seconds to wait for the proxies.
    """

    models: Models | None = None
    score: Score = score
    metrics: Metrics | None = None
    ask: Callable[[str, Mapping[str, Any], float], str] = _agreed
    judge: Judge | None = None
    watch: Callable[[Seen], None] = _nobody
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How driving ended.

    Attributes:
        release: The release.
        outcome: promoted, rolled-back, inconclusive, held, aborted or superseded.
        word: The last verdict's word.
        reason: Its reason.
        by_hand: Whether somebody else ended the release.
    """

    release: str
    outcome: str
    word: str
    reason: str
    by_hand: bool = False


@dataclass(kw_only=True, slots=True)
class Work:
    """One driver at work, from its claim to its end.

    Attributes:
        desk: The ports.
        crew: Who helps.
        name: The endpoint.
        home: The VirtualService that carries it: its own, or the adopted route's.
        release: The release's id.
        driver: The driver's id.
        told: Warnings that were said already.
    """

    desk: Desk
    crew: Crew
    name: str
    home: str
    release: str
    driver: str
    told: set[str] = field(default_factory=set)

    def warn_once(self, line: str) -> None:
        """Say a warning when it is new."""
        if line not in self.told:
            self.told.add(line)
            self.desk.warn(line)


def claim(work: Work, take_over: bool) -> None:
    """Become the driver; wait for the last one's sign of life to run out, unless told to take over."""
    desk, waited = work.desk, None
    while True:
        now = desk.clock.now()
        endpoint = endpoint_of(desk.cluster, work.name)
        if endpoint.release is None or endpoint.release.id != work.release or endpoint.progress is None:
            return  # it ended meanwhile: the first round says how
        progress = progress_from_text(endpoint.progress)
        other = progress.driven_by_another(work.driver, now)
        if other is None or take_over:
            break
        if waited is not None and (other.id, other.alive_until) != waited:
            raise StateConflict(
                f"release '{work.release}' of endpoint '{work.name}' is driven by {other.who}, which is alive: watch it with "
                f"'mlflow-istio status {work.name}', or take over with --force"
            )
        waited = (other.id, other.alive_until)
        left = (other.alive_until - now).total_seconds()
        desk.tell(f"waiting {left:.0f} s: {other.who} drove release '{work.release}' and may still be alive")
        desk.clock.sleep(left + 0.01)
    claimed = alive(replace(progress, revision=progress.revision + 1, stopped=False), work.driver, desk.who, now)
    try:
        note(work, claimed, progress.revision)
    except Overtaken:
        claim(work, take_over)


def leave(work: Work) -> None:
    """Say on the object that nobody drives the release any more, as far as that can be said now."""
    try:
        endpoint = endpoint_of(work.desk.cluster, work.name)
        if endpoint.release is None or endpoint.release.id != work.release or endpoint.progress is None:
            return
        progress = progress_from_text(endpoint.progress)
        if progress.driver is not None and progress.driver.id == work.driver:
            note(work, replace(progress, driver=None, revision=progress.revision + 1), progress.revision)
    except MlflowIstioError as exc:  # its sign of life runs out anyway
        work.desk.warn(f"could not say that nobody drives release '{work.release}' any more: {exc.message}")


def note(work: Work, progress: Progress, revision: int) -> None:
    """Store where the release stands; traffic and ledger stay."""

    def with_progress(endpoint: Endpoint) -> Endpoint:
        if endpoint.progress == progress_to_text(progress):  # a lost reply
            return endpoint
        return noted(endpoint, work.release, revision, progress)

    edit_endpoint(work.desk.cluster, work.home, work.name, with_progress)


def answer(desk: Desk, name: str, word: str) -> str:
    """Answer what an open release asks: ``approve`` or ``reject``; the gate that was answered.

    Raises:
        StateConflict: Nothing is asked, or it was answered otherwise.
    """
    gate = ""

    def with_answer(endpoint: Endpoint) -> Endpoint:
        nonlocal gate
        progress = progress_from_text(endpoint.progress) if endpoint.progress else None
        after = answered(progress, name, word, desk.who)
        gate = after.question.gate if after.question else ""
        return endpoint if after is progress else replace(endpoint, progress=progress_to_text(after))

    edit_endpoint(desk.cluster, endpoint_of(desk.cluster, name).home, name, with_answer)
    return gate
