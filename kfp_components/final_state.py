"""What the word says that KFP gives an exit handler: whether the guarded steps went well.

The words differ by who runs the pipeline, and a backend may learn new ones; docs/kfp.md has the table with its sources. A word
that is in no list is no verdict: a group that went well can be told as RUNNING, and so can a step whose pod was killed.
"""

from __future__ import annotations

from typing import Literal

FinalState = Literal["succeeded", "failed", "cancelled", "unclear"]

_SUCCEEDED = frozenset({"SUCCEEDED", "COMPLETE", "COMPLETED", "CACHED", "SKIPPED"})
_FAILED = frozenset({"FAILED", "ERROR"})
_CANCELLED = frozenset({"CANCELED", "CANCELLED", "CANCELING", "CANCELLING", "CANCEL_PENDING"})
_ENUM_PREFIXES = ("PIPELINE_STATE_", "PIPELINE_TASK_STATE_", "TASK_STATE_")


def final_state(word: str | None) -> FinalState:
    """Read a state as any of KFP's runners spells it.

    Args:
        word: ``PipelineTaskFinalStatus.state``; None where the runner gave none.

    Returns:
        succeeded, failed or cancelled where the word says so; else unclear, which is never taken for a failure.
    """
    plain = str(word or "").strip().upper()
    for prefix in _ENUM_PREFIXES:
        plain = plain.removeprefix(prefix)
    if plain in _SUCCEEDED:
        return "succeeded"
    if plain in _FAILED:
        return "failed"
    return "cancelled" if plain in _CANCELLED else "unclear"
