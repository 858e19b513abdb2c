"""Declare the winner of an A/B/n release."""

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_declare


@component(check_declare)
def declare_winner(
    target: str,
    endpoint: str,
    endpoint_state: dsl.Output[dsl.Artifact],
    release_id: str = "",
    winner: str = "",
    options: dict = {},
    counts: dict = {},
    reason: str = "",
) -> str:
    """Give the winner of an A/B/n release all the traffic: a challenger is promoted; where the control wins, the release is closed.

    Without a winner in the analysis the step fails; {"force": true} with a name declares whatever the analysis says.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        endpoint_state: The endpoint after the change, as metadata.
        release_id: The release that is meant; one that this winner has won already is left as it is, another end fails the step.
        winner: Who is to win; empty: whom the analysis names.
        options: Options of declare; those of analyse must be what the first look had.
        counts: The KPI's counts, where analyse_release got them from another step.
        reason: Why, for the ledger.

    Returns:
        The deployment that is stable now.
    """
    from kfp_components import analysing, steps

    view = steps.step(
        lambda: analysing.declare(
            target, endpoint, release_id=release_id, winner=winner, options=options, reason=reason, counts=counts
        )
    )
    steps.describe(endpoint_state, view)
    return view["stable"]  # type: ignore[no-any-return]
