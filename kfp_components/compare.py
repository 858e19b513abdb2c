"""Compare the answers of an open shadow release."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_compare


@component(check_compare)
def compare_shadow(
    target: str,
    endpoint: str,
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    release_id: str = "",
    wait_minutes: float = 0.0,
    poll_seconds: float = 30.0,
    options: dict = {},
) -> NamedTuple("Comparison", [("verdict", str), ("reason", str)]):
    """Compare the shadow's recorded answers with the stable's, request by request, until they agree or differ; moves no traffic.

    Both deployments must record (MLFLOW_ISTIO_RECORD=1 and MLFLOW_ISTIO_RECORD_DIR in their env).

    Args:
        target: Target URI.
        endpoint: The endpoint.
        metrics: Agreement, differences, latency and the unmatched share.
        summary: The verdict, and the most different requests as a table.
        release_id: The release that is meant; another one that is open fails the step.
        wait_minutes: How long to wait for a verdict; 0: one look.
        poll_seconds: Time between two looks.
        options: Options of compare, such as {"answers": "numbers", "relative": 0.01}.

    Returns:
        verdict: advance (the answers agree), rollback (they differ) or inconclusive.
        reason: The verdict in a sentence.
    """
    from kfp_components import analysing, steps

    view = steps.step(
        lambda: analysing.compare(
            target,
            endpoint,
            release_id=release_id,
            options=options,
            minutes=wait_minutes,
            seconds=poll_seconds,
        )
    )
    for key, value in sorted(view["figures"].items()):
        metrics.log_metric(key, value)
    steps.write_text(summary, analysing.differences_table(view))
    return (view["verdict"]["word"], view["verdict"]["reason"])
