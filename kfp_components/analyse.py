"""Analyse an open A/B/n release."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_analyse


@component(check_analyse)
def analyse_release(
    target: str,
    endpoint: str,
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    release_id: str = "",
    wait_minutes: float = 0.0,
    poll_seconds: float = 30.0,
    options: dict = {},
    counts: dict = {},
) -> NamedTuple("Analysis", [("outcome", str), ("winner", str), ("reason", str)]):
    """Look at the arms of an open A/B/n release until one has won, none can, or the time is over; moves no traffic.

    The first look is the base line: what was counted before it does not count.

    Args:
        target: Target URI.
        endpoint: The endpoint.
        metrics: Requests, estimate and interval of each arm.
        summary: The arms as a table.
        release_id: The release that is meant; another one that is open fails the step.
        wait_minutes: How long to wait for an outcome; 0: one look.
        poll_seconds: Time between two looks.
        options: Options of analyse, such as {"kpi": {...}, "delta": 1.2}.
        counts: A KPI's counts from another step: deployment to [n, events], or [n, sum, sum of squares], since the release began.

    Returns:
        outcome: winner, no difference, or inconclusive.
        winner: The arm that won; empty where none did.
        reason: The outcome in a sentence.
    """
    from kfp_components import analysing, steps

    view = steps.step(
        lambda: analysing.analyse(
            target,
            endpoint,
            release_id=release_id,
            options=options,
            counts=counts,
            minutes=wait_minutes,
            seconds=poll_seconds,
        )
    )
    for key, value in sorted(analysing.arms_figures(view).items()):
        metrics.log_metric(key, value)
    steps.write_text(summary, analysing.arms_table(view))
    return (view["outcome"], view["winner"] or "", view["reason"])
