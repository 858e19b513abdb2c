"""A driver at work: who helps it, how it claims a release, and how it notes where the release stands."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from mlflow_istio.calls.scoring import score
from mlflow_istio.core.analysis.verdict import Verdict
from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.release.on_endpoint import StaleRevision, noted
from mlflow_istio.core.release.progress import Progress, alive, answered, progress_from_text, progress_to_text
from mlflow_istio.errors import MlflowIstioError, StateConflict
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.ports.models import Models
from mlflow_istio.ports.records import Records
from mlflow_istio.ports.scoring import Score
from mlflow_istio.releases.context import Context, edit_endpoint, endpoint_of
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
class DriverDependencies:
    """Who helps to drive a release, beside the context.

    Attributes:
        models: What model versions say of themselves; None: there is no preflight.
        score: Sends one request to an endpoint, for the preflight.
        metrics: Where figures come from; None: from nowhere, which a plan with guards holds against the candidate's promotion.
        ask: Asks a webhook; returns empty for yes.
        records: Makes the recorders of model servers, whose requests warm a candidate; None: only input examples do.
        judge: The comparison of an A/B/n or a shadow; None where there is none.
        watch: Shown every look.
        timeout: Seconds to wait for the proxies.
    """

    models: Models | None = None
    score: Score = score
    metrics: Metrics | None = None
    ask: Callable[[str, Mapping[str, Any], float], str] = _agreed
    records: Callable[[], Records] | None = None
    judge: Judge | None = None
    watch: Callable[[Seen], None] = _nobody
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True, kw_only=True, slots=True)
class DriveResult:
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
class Drive:
    """One driver at work, from its claim to its end.

    Attributes:
        context: The ports.
        dependencies: Who helps.
        name: The endpoint.
        virtual_service: The VirtualService that carries it: its own, or the adopted route's.
        release: The release's id.
        driver: The driver's id.
        told: Warnings that were said already.
        warm: Deployment to how many of its replicas are warm; filled by the driver's first look.
        warming: Deployment to the warming of its new replicas, as far as it has come.
        cold_until: What was counted before tells of replicas that were not warm, or of the requests that warmed them.
        looked: When the newest look was.
    """

    context: Context
    dependencies: DriverDependencies
    name: str
    virtual_service: str
    release: str
    driver: str
    told: set[str] = field(default_factory=set)
    warm: dict[str, int] = field(default_factory=dict)
    warming: dict[str, Generator[None, None, bool]] = field(default_factory=dict)
    cold_until: datetime | None = None
    looked: datetime | None = None

    def warn_once(self, line: str) -> None:
        """Say a warning when it is new."""
        if line not in self.told:
            self.told.add(line)
            self.context.warn(line)


def acquire_lease(drive: Drive, take_over: bool) -> None:
    """Become the driver; wait for the last one's sign of life to run out, unless told to take over."""
    context, waited = drive.context, None
    while True:
        now = context.clock.now()
        endpoint = endpoint_of(context.cluster, drive.name)
        if endpoint.release is None or endpoint.release.id != drive.release or endpoint.progress is None:
            return  # it ended meanwhile: the first round says how
        progress = progress_from_text(endpoint.progress)
        other = progress.driven_by_another(drive.driver, now)
        if other is None or take_over or (other.id, other.lease_expires) == waited:
            break
        if waited is not None:
            raise StateConflict(
                f"release '{drive.release}' of endpoint '{drive.name}' is driven by {other.who}, which is alive: watch it with "
                f"'mlflow-istio status {drive.name}', or take over with --force"
            )
        waited = (other.id, other.lease_expires)
        # By a clock that is ahead of ours it may be hours; one that lives gives a sign in this time by any clock.
        left = min((other.lease_expires - now).total_seconds(), progress.plan.heartbeat)
        context.tell(f"waiting {left:.0f} s: {other.who} drove release '{drive.release}' and may still be alive")
        context.clock.sleep(left + 0.01)
    claimed = alive(replace(progress, revision=progress.revision + 1, stopped=False), drive.driver, context.who, now)
    try:
        note(drive, claimed, progress.revision)
    except StaleRevision:
        acquire_lease(drive, take_over)


def release_lease(drive: Drive) -> None:
    """Say on the object that nobody drives the release any more, as far as that can be said now."""
    try:
        endpoint = endpoint_of(drive.context.cluster, drive.name)
        if endpoint.release is None or endpoint.release.id != drive.release or endpoint.progress is None:
            return
        progress = progress_from_text(endpoint.progress)
        if progress.driver is not None and progress.driver.id == drive.driver:
            note(drive, replace(progress, driver=None, revision=progress.revision + 1), progress.revision)
    except MlflowIstioError as exc:  # its sign of life runs out anyway
        drive.context.warn(f"could not say that nobody drives release '{drive.release}' any more: {exc.message}")


def note(drive: Drive, progress: Progress, revision: int) -> None:
    """Store where the release stands; traffic and ledger stay."""

    def with_progress(endpoint: Endpoint) -> Endpoint:
        if endpoint.progress == progress_to_text(progress):  # a lost reply
            return endpoint
        return noted(endpoint, drive.release, revision, progress)

    edit_endpoint(drive.context.cluster, drive.virtual_service, drive.name, with_progress)


def answer(context: Context, name: str, word: str) -> str:
    """Answer what an open release asks: ``approve`` or ``reject``; the gate that was answered.

    Raises:
        StateConflict: Nothing is asked, or it was answered otherwise.
    """
    gate = ""

    def with_answer(endpoint: Endpoint) -> Endpoint:
        nonlocal gate
        progress = progress_from_text(endpoint.progress) if endpoint.progress else None
        after = answered(progress, name, word, context.who)
        gate = after.question.gate if after.question else ""
        return endpoint if after is progress else replace(endpoint, progress=progress_to_text(after))

    edit_endpoint(context.cluster, endpoint_of(context.cluster, name).virtual_service, name, with_answer)
    return gate
