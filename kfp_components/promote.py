"""Promote the candidate of a release."""

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_promote


@component(check_promote)
def promote_candidate(
    target: str,
    endpoint: str,
    endpoint_state: dsl.Output[dsl.Artifact],
    release_id: str = "",
    candidate: str = "",
    reason: str = "",
    keep_old: str = "",
) -> str:
    """Make the candidate stable with all the traffic, in one edit; the old version keeps running at weight 0.

    Given again after it has been promoted, it does nothing; a release that has ended otherwise fails the step.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        endpoint_state: The endpoint after the change, as metadata.
        release_id: The release that is meant; another one that is open is never promoted in its place.
        candidate: Which one, where there are several.
        reason: Why, for the ledger.
        keep_old: How long the replaced version keeps running, such as 1h; empty: until somebody deletes it.

    Returns:
        The deployment that is stable now.
    """
    from kfp_components import steps

    view = steps.step(lambda: steps.promote(target, endpoint, release_id, candidate, reason, keep_old))
    steps.describe(endpoint_state, view)
    return view["stable"]  # type: ignore[no-any-return]
