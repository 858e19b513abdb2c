"""Move traffic of an endpoint: weight, match or mirror."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_traffic


@component(check_traffic)
def set_traffic(
    target: str,
    endpoint: str,
    endpoint_state: dsl.Output[dsl.Artifact],
    candidate: str = "",
    strategy: str = "",
    weight: int = -1,
    mirror: float = -1.0,
    release_id: str = "",
    options: dict = {},
    reason: str = "",
) -> NamedTuple("Moved", [("traffic", dict), ("release_id", str), ("change", int)]):
    """Open a release, or change the weight, mirror or match of the open one; proved at the proxies and recorded.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        endpoint_state: The endpoint after the change, as metadata.
        candidate: Deployment to release; several, comma-separated, with strategy ab.
        strategy: canary, ab, blue-green or shadow.
        weight: Percent for the candidate, 0 to 100; -1: not given.
        mirror: shadow: percent of the live traffic that is copied; -1: not given.
        release_id: The pipeline's job id, so that a step tried again does not start a second release.
        options: Further options of update-endpoint, such as {"weights": {...}} or {"header": "x-arm"}.
        reason: Why, for the ledger.

    Returns:
        traffic: Deployment to percent.
        release_id: The open release.
        change: Number of the newest routing change.
    """
    from kfp_components import steps

    view = steps.step(
        lambda: steps.move_traffic(
            target,
            endpoint,
            candidate=candidate,
            strategy=strategy,
            weight=weight,
            mirror=mirror,
            release_id=release_id,
            options=options,
            reason=reason,
        )
    )
    steps.describe(endpoint_state, view)
    release = view["release"] or view["last_release"] or {}
    return (view["traffic"], release.get("id", ""), view["change"]["sequence"])
