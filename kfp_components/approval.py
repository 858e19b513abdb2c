"""Wait for a person to approve a candidate."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_approval


@component(check_approval)
def wait_for_approval(
    target: str,
    endpoint: str,
    candidate: str,
    record: dsl.Output[dsl.Markdown],
    tag: str = "istio.approval",
    timeout_minutes: float = 1440.0,
    default: str = "reject",
    poll_seconds: float = 10.0,
    release_id: str = "",
) -> NamedTuple("Answer", [("approved", bool), ("answer", str)]):
    """Wait until a person sets a tag on the candidate's model version: ``approved`` or ``rejected``.

    The tag's key is that of ``tag``, a dot and the release's id (the step's log says it): an approval belongs to one release.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        candidate: The deployment whose model version is asked for.
        record: What was asked, and the answer.
        tag: Begin of the key of the model version's tag.
        timeout_minutes: How long to wait.
        default: What no answer means: approve or reject.
        poll_seconds: Seconds between two looks at the registry.
        release_id: The release it is for (dsl.PIPELINE_JOB_ID_PLACEHOLDER), which may be opened later; empty: the open one.

    Returns:
        approved: Whether it goes on.
        answer: The tag's value, or that nobody answered.
    """
    from kfp_components import steps

    approved, answer = steps.step(
        lambda: steps.wait_for_approval(
            target,
            endpoint,
            candidate,
            tag=tag,
            timeout=timeout_minutes * 60,
            default=default,
            interval=poll_seconds,
            release_id=release_id,
        )
    )
    steps.write_text(record, f"# {candidate} of {endpoint}: {'approved' if approved else 'rejected'}\n\n{answer}\n")
    return (approved, answer)
