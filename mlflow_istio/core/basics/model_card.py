"""What a model version says of itself: the shape of its inputs and outputs, and one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One input or output.

    Attributes:
        name: Its name; its position as text where it has none.
        type: Its type, as MLflow writes it (``double``, ``tensor float64 (-1, 2)``).
        required: Whether a caller must give it.
    """

    name: str
    type: str
    required: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a model version says of itself.

    Attributes:
        inputs: Its inputs; None when it has no signature.
        outputs: Its outputs; None when they aren't known.
        example: A request body that it takes, as JSON text; None when it has no input example.
    """

    inputs: tuple[Column, ...] | None = None
    outputs: tuple[Column, ...] | None = None
    example: str | None = None


def differences(stable: ModelCard, candidate: ModelCard) -> tuple[str, ...]:
    """What callers of the stable would trip over on the candidate, one clause each.

    A removed or retyped input or output, and a new input that must be given; further outputs and optional inputs are
    fine. Nothing can be said of a side without a signature.
    """
    return (
        *_differences("input", stable.inputs, candidate.inputs),
        *_differences("output", stable.outputs, candidate.outputs),
    )


def _differences(what: str, before: Sequence[Column] | None, after: Sequence[Column] | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    old, new = {column.name: column for column in before}, {column.name: column for column in after}
    gone = [f"{what} '{name}' is gone" for name in old if name not in new]
    other = [
        f"{what} '{name}' is {new[name].type} instead of {column.type}"
        for name, column in old.items()
        if name in new and new[name].type != column.type
    ]
    needed = [
        f"{what} '{name}' is new and must be given"
        for name, column in new.items()
        if what == "input" and name not in old and column.required
    ]
    stricter = [
        f"{what} '{name}' must be given now"
        for name, column in new.items()
        if what == "input" and name in old and column.required and not old[name].required
    ]
    return (*gone, *other, *needed, *stricter)


def answer_problem(card: ModelCard, answer: Mapping[str, Any]) -> str:
    """Why an answer of ``/invocations`` is not what the outputs promise; empty when it is, or nothing is promised."""
    predictions = answer.get("predictions", answer)
    if predictions is None or (isinstance(predictions, Sequence) and not predictions):
        return "it holds no predictions"
    named = [column for column in card.outputs or () if not column.name.isdigit()]
    first = predictions[0] if isinstance(predictions, Sequence) and not isinstance(predictions, str) else predictions
    if named and isinstance(first, Mapping):
        lacking = [column.name for column in named if column.required and column.name not in first]
        if lacking:
            return f"output '{lacking[0]}' is missing"
    return ""
