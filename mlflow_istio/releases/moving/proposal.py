"""A release as it would be opened: its id, its assignment, and what of its plan is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.release_state import Assignment, Release
from mlflow_istio.core.inspection.fingerprint import digest
from mlflow_istio.core.moves.strategies import Wish, assignment_for
from mlflow_istio.errors import InvalidInput
from mlflow_istio.releases.context import Desk, deployments_of, versions_of


def plan(
    desk: Desk,
    endpoint: Endpoint,
    strategy: str,
    candidates: tuple[str, ...],
    wish: Wish,
    release_id: str | None,
    *,
    versions: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Release:
    """A release as it would be opened, with its assignment, before it has a run.

    Without an id, one that does the same and is open already is meant: the command that opened it may have died.

    Args:
        desk: The ports.
        endpoint: The endpoint.
        strategy: Its strategy.
        candidates: Deployments to release.
        wish: Weight, mirror, header, cookie.
        release_id: Its id; None: that of the open release that does the same, or a new one.
        versions: Deployment to ``MODEL/VERSION`` of candidates that need not be deployed yet; None: as they are.
        options: What else the plan fixes, as JSON; None: the release is moved by hand.

    Raises:
        InvalidInput: The wish does not fit the strategy.
    """
    digested = options_digest(wish, options)
    found = endpoint.release
    if found and release_id in (None, found.id) and (found.strategy, found.candidates) == (strategy, candidates):
        if versions is None and (digested == found.options or not wish.fixed):
            return found
        release_id = found.id
    chosen = release_id or desk.new_id()
    assignment: Assignment | None = None
    if strategy == "ab":
        if not endpoint.owns(endpoint.stable):
            raise InvalidInput(
                f"strategy=ab needs a stable arm of ours, but '{endpoint.stable.name}' is a foreign service: release it first"
            )
        assignment = assignment_for(chosen, (endpoint.stable.name, *candidates), wish)
    known = versions_of(deployments_of(desk.cluster, endpoint.name)) if versions is None else versions
    return Release(
        id=chosen,
        strategy=strategy,
        candidates=candidates,
        opened=desk.clock.now(),
        who=desk.who,
        assignment=assignment,
        versions={name: known[name] for name in candidates if known.get(name)},
        options=digested,
    )


def options_digest(wish: Wish, options: Mapping[str, Any] | None = None) -> str:
    """A digest of what a plan fixes besides strategy, candidates and versions; never empty."""
    return digest({"wish": wish.fixed, "plan": dict(options) if options is not None else None})
