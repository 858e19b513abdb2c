"""Roll a release back: as a step, and as the exit handler of a pipeline."""

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_names


@component(check_names)
def roll_back_release(target: str, endpoint: str, release_id: str, reason: str = "") -> str:
    """Return to what users had before a release, in one edit; also after its promotion. Given again, it does nothing.

    An older promotion, after which another release has ended or is open, can't be undone by a step: it fails and says so.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        release_id: The release; another one that is open is never rolled back in its place.
        reason: Why, for the ledger.

    Returns:
        rolled-back, or how the release stood that there was nothing to do: not opened, aborted, superseded.
    """
    from kfp_components import steps

    return steps.step(lambda: steps.roll_back(target, endpoint, release_id, reason))


@component(check_names)
def roll_back_unless_succeeded(
    status: dsl.PipelineTaskFinalStatus,
    target: str,
    endpoint: str,
    release_id: str,
    undo_promotion: bool = False,
) -> str:
    """Exit handler: when a step failed or the run was cancelled, the release it opened is rolled back.

    A state that says neither success nor failure undoes no promotion and no release that nobody drives; only a release whose
    step died on the way is rolled back then.

    Args:
        status: How the guarded steps ended; KFP gives it.
        target: Target URI.
        endpoint: The endpoint.
        release_id: dsl.PIPELINE_JOB_ID_PLACEHOLDER, as in the steps: an exit handler can't take their outputs.
        undo_promotion: Whether a failure after the promotion undoes it, too.

    Returns:
        succeeded, rolled-back, left open, or how the release stood that there was nothing to do.
    """
    from kfp_components import steps

    return steps.step(
        lambda: steps.end_pipeline(
            target,
            endpoint,
            release_id,
            state=status.state,
            message=status.error_message,
            undo_promotion=undo_promotion,
        )
    )
