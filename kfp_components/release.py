"""Run a progressive release to its verdict."""

from typing import NamedTuple

from kfp import dsl

from kfp_components.checked import component
from kfp_components.inputs import check_release


@component(check_release)
def release_version(
    target: str,
    endpoint: str,
    model_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    name: str = "",
    strategy: str = "canary",
    steps: str = "",
    release_id: str = "",
    fail_unless_promoted: bool = True,
    options: dict = {},
    reason: str = "",
) -> NamedTuple("Released", [("outcome", str), ("verdict", str), ("reason", str), ("release_id", str)]):
    """Deploy a version, try it at weight 0, raise its traffic on evidence, and promote it or give the traffic back.

    Tried again, it goes on with its own release (``release_id``), or says how that ended.

    Args:
        target: Target URI.
        endpoint: The endpoint; it has a version in use.
        model_uri: models:/NAME/VERSION or models:/NAME@ALIAS.
        metrics: The last look's figures.
        report: The release as a page.
        summary: Outcome, verdict and routing changes.
        name: Name of the deployment; empty: MODEL-vVERSION.
        strategy: canary, ab, blue-green or shadow.
        steps: Percents, comma-separated, such as 5,25,50; empty: the default.
        release_id: dsl.PIPELINE_JOB_ID_PLACEHOLDER.
        fail_unless_promoted: Whether any other outcome fails the step (an exit handler then cleans up).
        options: Further options of release, such as {"interval": 10, "alpha": 0.01}.
        reason: Why, for the ledger.

    Returns:
        outcome: promoted, rolled-back, inconclusive, held or aborted.
        verdict: advance, hold, rollback or inconclusive.
        reason: The verdict in a sentence.
        release_id: The release.
    """
    from kfp_components import steps as work

    told = work.step(
        lambda: work.release(
            target,
            endpoint,
            model_uri,
            name=name,
            strategy=strategy,
            steps=steps,
            release_id=release_id,
            options=options,
            reason=reason,
        )
    )
    for key, value in sorted(told.figures.items()):
        metrics.log_metric(key, value)
    work.write_text(report, told.report)
    work.write_text(summary, told.summary)
    if fail_unless_promoted and told.outcome != "promoted":
        raise SystemExit(f"error: the release of {model_uri} ended as {told.outcome}: {told.reason}")
    return (told.outcome, told.verdict, told.reason, told.release_id)
