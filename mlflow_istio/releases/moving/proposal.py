"""A release as it would be opened: its id, its assignment, and what of its plan is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Assignment, Release
from mlflow_istio.core.inspection.fingerprint import digest
from mlflow_istio.core.moves.strategies import TrafficRequest, assignment_for
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.context import Context, deployments_of, versions_of


def plan(
    context: Context,
    endpoint: Endpoint,
    strategy: str,
    candidates: tuple[str, ...],
    traffic_request: TrafficRequest,
    release_id: str | None,
    *,
    versions: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Release:
    """A release as it would be opened, with its assignment, before it has a run.

    Without an id, one that does the same and is open already is meant: the command that opened it may have died.

    Args:
        context: The ports.
        endpoint: The endpoint.
        strategy: Its strategy.
        candidates: Deployments to release.
        traffic_request: Weight, mirror, header, cookie.
        release_id: Its id; None: that of the open release that does the same, or a new one.
        versions: Deployment to ``MODEL/VERSION`` of candidates that need not be deployed yet; None: as they are.
        options: What else the plan fixes, as JSON; None: the release is moved by hand.

    Raises:
        InvalidInput: The request does not fit the strategy.
    """
    digested = options_digest(traffic_request, options)
    release = endpoint.release
    if (
        release
        and release_id in (None, release.id)
        and (release.strategy, release.candidates) == (strategy, candidates)
    ):
        if versions is None and (digested == release.options or not traffic_request.fixed):
            return release
        release_id = release.id
    chosen = release_id or context.new_id()
    assignment: Assignment | None = None
    if strategy == "ab":
        if not endpoint.owns(endpoint.stable):
            raise InvalidInput(
                f"strategy=ab needs a stable arm of ours, but '{endpoint.stable.name}' is a foreign service: release it first"
            )
        assignment = assignment_for(chosen, (endpoint.stable.name, *candidates), traffic_request)
    known = versions_of(deployments_of(context.cluster, endpoint.name)) if versions is None else versions
    return Release(
        id=chosen,
        strategy=strategy,
        candidates=candidates,
        opened=context.clock.now(),
        who=context.who,
        assignment=assignment,
        versions={name: known[name] for name in candidates if known.get(name)},
        options=digested,
    )


def options_digest(traffic_request: TrafficRequest, options: Mapping[str, Any] | None = None) -> str:
    """A digest of what a plan fixes besides strategy, candidates and versions; never empty."""
    return digest({"request": traffic_request.fixed, "plan": dict(options) if options is not None else None})
