"""The steps of a driven release on its endpoint: each names the state it expects, so that two drivers can't both step."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Release
from mlflow_istio.core.moves import holdback, transitions
from mlflow_istio.core.moves.control_share import announced, without_share
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.release.plan import ReleasePlan
from mlflow_istio.core.release.progress import Progress, progress_from_text, progress_to_text
from mlflow_istio.core.release.watching import swept_at
from mlflow_istio.errors import StateConflict


class StaleRevision(StateConflict):
    """The endpoint is not as it was when the step was decided: look again."""


def expected(endpoint: Endpoint, release: str, revision: int) -> Progress:
    """The progress on the endpoint, if it is the one that was looked at.

    Raises:
        StaleRevision: The release has ended, or somebody else wrote its progress.
    """
    if endpoint.release is None or endpoint.release.id != release or endpoint.progress is None:
        raise StaleRevision(f"release '{release}' of endpoint '{endpoint.name}' is not open any more")
    progress = progress_from_text(endpoint.progress)
    if progress.revision != revision:
        raise StaleRevision(f"release '{release}' of endpoint '{endpoint.name}' was written by somebody else meanwhile")
    return progress


def opened(endpoint: Endpoint, release: Release, traffic_request: TrafficRequest, progress: Progress) -> Endpoint:
    """Open a release that is driven, with no traffic for its candidates yet.

    Raises:
        StateConflict: Another release is open.
        InvalidInput: The request does not fit the strategy.
    """
    started = transitions.start(endpoint, release, traffic_request)
    if started == endpoint:
        return endpoint
    if release.strategy == "shadow":  # the only strategy that can't begin with nothing
        started = replace(started, traffic=endpoint.traffic)
    if release.control:  # until then it goes with its release, whoever drives that or has died
        until = progress.started + timedelta(seconds=progress.plan.deadline + progress.plan.heartbeat)
        started = announced(started, release.control, until)
    return replace(started, progress=progress_to_text(progress))


def noted(endpoint: Endpoint, release: str, revision: int, progress: Progress) -> Endpoint:
    """Store where the release stands; its traffic stays."""
    expected(endpoint, release, revision)
    if progress.watch is not None:
        endpoint = holdback.with_end(endpoint, swept_at(progress))
    return replace(endpoint, progress=progress_to_text(progress))


def shifted(
    endpoint: Endpoint, release: str, revision: int, progress: Progress, *, control_ready: bool = True
) -> Endpoint:
    """Give the candidates, and a control that is ready, the traffic of the progress' step, or the holdback that of its watch.

    The progress is stored with that.
    """
    expected(endpoint, release, revision)
    if progress.watch is not None:
        return replace(holdback.held_back(endpoint), progress=progress_to_text(progress))
    after = transitions.shift(endpoint, step_wish(progress.plan, progress.weight))
    return replace(after if control_ready else without_share(after), progress=progress_to_text(progress))


def promoted(endpoint: Endpoint, release: str, revision: int, candidate: str, now: datetime) -> Endpoint:
    """Make the candidate stable and end the release, or its watch."""
    plan = expected(endpoint, release, revision).plan
    keep = None if plan.keep_old is None or endpoint.release is None or endpoint.release.watching else plan.keep_old
    return transitions.promote(endpoint, candidate, now=now, keep=None if keep is None else timedelta(seconds=keep))


def watch_begun(
    endpoint: Endpoint, release: str, revision: int, candidate: str, progress: Progress, now: datetime
) -> Endpoint:
    """Make the candidate stable, hold a share back, and go on with the watch that the progress has begun."""
    plan = expected(endpoint, release, revision).plan
    after = holdback.watch(
        endpoint, candidate, holdback=plan.holdback, until=swept_at(progress), now=now, keep=plan.keep_old
    )
    return replace(after, progress=progress_to_text(progress))


def ended(
    endpoint: Endpoint, release: str, revision: int, outcome: str, pending_notification: str | None = None
) -> Endpoint:
    """Return the traffic to the stable and end the release; ``pending_notification`` says who is to be told of it afterwards."""
    expected(endpoint, release, revision)
    return replace(
        transitions.abort(endpoint, outcome), pending_notification=pending_notification or endpoint.pending_notification
    )


def step_wish(plan: ReleasePlan, weight: float) -> TrafficRequest:
    """What a step asks of the traffic."""
    if plan.strategy == "shadow":
        return TrafficRequest(mirror=weight)
    if len(plan.candidates) > 1:
        rest = 100 - int(weight) * len(plan.candidates)
        return TrafficRequest(weights={plan.stable: rest, **dict.fromkeys(plan.candidates, int(weight))})
    return TrafficRequest(weight=int(weight))


def step_weights(endpoint: Endpoint, plan: ReleasePlan) -> dict[str, float]:
    """Deployment to its percent of the live traffic, a control's included, or of the mirrored for a shadow's candidates."""
    weights: dict[str, float] = {name: endpoint.traffic.weights.get(name, 0) for name in plan.deployments}
    if endpoint.release and endpoint.release.control:
        weights[endpoint.release.control] = endpoint.traffic.weights.get(endpoint.release.control, 0)
    if plan.strategy == "shadow":
        weights |= {mirror.destination.name: mirror.percentage for mirror in endpoint.traffic.mirrors}
    return weights
