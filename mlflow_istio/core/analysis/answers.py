"""How two answers of a model differ: as classes, as numbers, or by a score."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from mlflow_istio.core.analysis.packing import read_fields
from mlflow_istio.errors import InvalidInput

AnswerKind = Literal["classes", "numbers", "text"]

Scorer = Callable[[str, str], float]
"""(stable's text, candidate's text) -> similarity from 0 to 1."""

_NOTE_LENGTH = 120
_LARGEST_SUMMED = 1e100


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRule:
    """When two predictions agree.

    Attributes:
        kind: `classes` (equal), `numbers` (within a tolerance) or `text` (similar by a scorer, equal without one).
        absolute: Numbers: an allowed difference in the prediction's unit.
        relative: Numbers: an allowed difference as a share of the stable's prediction. They agree when
            `|candidate - stable| <= absolute + relative |stable|`.
        similarity: Text: the least score that counts as agreement.
        scorer: Text: the score; not part of the stored state.
    """

    kind: AnswerKind = "classes"
    absolute: float = 0.0
    relative: float = 0.0
    similarity: float = 1.0
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnswerKind):
            raise InvalidInput(f"answers are compared as {', '.join(get_args(AnswerKind))}; got {self.kind!r}")
        if not (self.absolute >= 0 and self.relative >= 0):
            raise InvalidInput(f"tolerances must be at least 0, got {self.absolute} and {self.relative}")
        if not 0 <= self.similarity <= 1:
            raise InvalidInput(f"similarity must be from 0 to 1, got {self.similarity}")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the scorer isn't stored."""
        return {
            "kind": self.kind,
            "absolute": self.absolute,
            "relative": self.relative,
            "similarity": self.similarity,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "AnswerRule":
        """Return the rule that `to_json` wrote, without a scorer.

        Raises:
            InvalidInput: If the state has other fields.
        """
        return cls(**read_fields(data, ("kind", "absolute", "relative", "similarity"), kind="AnswerRule"))


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerDifference:
    """How one request's two answers differ.

    Attributes:
        agrees: Whether every prediction agrees.
        difference: For ranking: the share of differing classes, the largest absolute difference, or 1 - the worst
            score; infinite when the answers can't be compared (another number of predictions, not a number).
        signed: Numbers: the mean of candidate minus stable; else None, as for differences too large to be squared.
        rows: Predictions compared.
        rows_agreeing: Those that agree.
        note: What differs, in words; empty when they agree.
    """

    agrees: bool
    difference: float
    signed: float | None
    rows: int
    rows_agreeing: int
    note: str


def compare_answers(stable: Any, candidate: Any, rule: AnswerRule) -> AnswerDifference:
    """Compare two decoded answers.

    Args:
        stable: A list of predictions (nested lists are flattened), `{"predictions": [...]}`, or one value.
        candidate: The same.
        rule: When two predictions agree.
    """
    ours, theirs = tuple(_flat(stable)), tuple(_flat(candidate))
    if len(ours) != len(theirs):
        return _incomparable(max(len(ours), len(theirs)), f"{len(ours)} predictions against {len(theirs)}")
    if not ours:
        return AnswerDifference(agrees=True, difference=0.0, signed=None, rows=0, rows_agreeing=0, note="")
    if rule.kind == "numbers":
        return _compare_numbers(ours, theirs, rule)
    if rule.kind == "text" and rule.scorer is not None:
        scores = [rule.scorer(str(a), str(b)) for a, b in zip(ours, theirs, strict=True)]
        agree = [score >= rule.similarity for score in scores]
        size = 1 - min(scores)
    else:
        agree = [a == b for a, b in zip(ours, theirs, strict=True)]
        size = 1 - sum(agree) / len(agree)
    return _result(ours, theirs, agree, size=size, signed=None)


def _compare_numbers(ours: tuple[Any, ...], theirs: tuple[Any, ...], rule: AnswerRule) -> AnswerDifference:
    if not all(isinstance(value, Real) for value in (*ours, *theirs)):
        return _incomparable(len(ours), "a prediction isn't a number")
    a, b = [float(value) for value in ours], [float(value) for value in theirs]
    if not all(map(math.isfinite, (*a, *b))):
        # Two models that both say nan agree; one that starts to say nan doesn't.
        agree = [x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True)]
        return _result(ours, theirs, agree, size=math.inf, signed=None)
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    agree = [abs(gap) <= rule.absolute + rule.relative * abs(x) for gap, x in zip(gaps, a, strict=True)]
    mean = sum(gaps) / len(gaps)
    signed = mean if abs(mean) < _LARGEST_SUMMED else None
    return _result(ours, theirs, agree, size=max(map(abs, gaps)), signed=signed)


def _result(
    ours: tuple[Any, ...], theirs: tuple[Any, ...], agree: list[bool], *, size: float, signed: float | None
) -> AnswerDifference:
    note = ""
    if not all(agree):
        first = agree.index(False)
        note = f"prediction {first}: {ours[first]!r} became {theirs[first]!r}"[:_NOTE_LENGTH]
    return AnswerDifference(
        agrees=all(agree),
        difference=0.0 if all(agree) else size,
        signed=signed,
        rows=len(agree),
        rows_agreeing=sum(agree),
        note=note,
    )


def _incomparable(rows: int, note: str) -> AnswerDifference:
    return AnswerDifference(agrees=False, difference=math.inf, signed=None, rows=rows, rows_agreeing=0, note=note)


def _flat(answer: Any) -> Iterator[Any]:
    if isinstance(answer, Mapping) and set(answer) == {"predictions"}:
        answer = answer["predictions"]
    if isinstance(answer, list | tuple):
        for item in answer:
            yield from _flat(item)
    elif isinstance(answer, Mapping):
        for key in sorted(answer):
            yield from _flat(answer[key])
    else:
        yield answer
