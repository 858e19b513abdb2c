"""How two answers of a model differ: as classes, as numbers, or by a score."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from numbers import Real
from typing import Any, Literal, get_args

from mlflow_istio.core.analysis.answer_fields import Fields, pick
from mlflow_istio.core.analysis.text_scores import Scorer, ScorerFailed
from mlflow_istio.core.basics.stored import NOT_STORED, form, stored
from mlflow_istio.errors import InvalidInput

AnswerKind = Literal["classes", "numbers", "text"]

_SIDE_LENGTH = 48
_LARGEST_SUMMED = 1e100
_LARGEST_COUNT = 2.0**53
"""From here on a float no longer holds every whole number."""


@form(whole=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRule:
    """When two predictions agree.

    Attributes:
        kind: `classes` (equal), `numbers` (within a tolerance) or `text` (similar by a scorer, equal without one).
        absolute: Numbers: an allowed difference in the prediction's unit.
        relative: Numbers: an allowed difference as a share of the stable's prediction. They agree when
            `|candidate - stable| <= absolute + relative |stable|`.
        similarity: Text: the least score that counts as agreement.
        fields: Where the predictions stand in an answer; empty: where a known protocol says it, else everywhere.
        scorer: Text: the score; not part of the stored state.
    """

    kind: AnswerKind = "classes"
    absolute: float = 0.0
    relative: float = 0.0
    similarity: float = 1.0
    fields: Fields = field(default=(), metadata=stored(sparse=True))
    scorer: Scorer | None = field(default=None, metadata=NOT_STORED)

    def __post_init__(self) -> None:
        if self.kind not in get_args(AnswerKind):
            raise InvalidInput(f"answers are compared as {', '.join(get_args(AnswerKind))}; got {self.kind!r}")
        if not (self.absolute >= 0 and self.relative >= 0):
            raise InvalidInput(f"tolerances must be at least 0, got {self.absolute} and {self.relative}")
        if not 0 <= self.similarity <= 1:
            raise InvalidInput(f"similarity must be from 0 to 1, got {self.similarity}")


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
        score: Text: the mean of the texts' scores; None where no text was scored.
        cut: Whether only the beginning of a text was compared.
        fields: Where what was compared stood; empty: the whole answers were.
        unscored: Why nobody knows whether the answers agree: the scorer has no score for a text, or the stable's answer lacks the
            field; else empty.
    """

    agrees: bool
    difference: float
    signed: float | None
    rows: int
    rows_agreeing: int
    note: str
    score: float | None = None
    cut: bool = False
    fields: Fields = ()
    unscored: str = ""


def compare_answers(stable: Any, candidate: Any, rule: AnswerRule) -> AnswerDifference:
    """Compare two decoded answers as values: the order of keys, the sign of a zero and how wide a float was say nothing.

    NaN equals NaN, each infinity itself, and a float64 the float32 that it rounds to. Among numbers, a text that reads as a
    number counts as that number, null as NaN, and what is no number must be equal. A prediction that differs changes
    nothing for the others. Rows of another length, and empty lists or objects in another place, can't be compared; a list of
    one value is as good as the value.

    Args:
        stable: A list of predictions (each value in nested lists is one), `{"predictions": [...]}`, or one value.
        candidate: The same.
        rule: When two predictions agree, and where in an answer they stand.
    """
    picked = pick(stable, candidate, rule.fields)
    if picked.missing:
        unscored = picked.missing if picked.unknown else ""
        return replace(_incomparable(1, picked.missing), fields=picked.fields, unscored=unscored)
    try:
        comparison = _compare(picked.stable, picked.candidate, rule)
    except ScorerFailed as exc:
        comparison = replace(_incomparable(1, f"no score: {exc.message}"), unscored=exc.message)
    return replace(comparison, fields=picked.fields)


def _compare(stable: Any, candidate: Any, rule: AnswerRule) -> AnswerDifference:
    our_parts, their_parts = tuple(_parts(stable)), tuple(_parts(candidate))
    ours, theirs = ([part for part in parts if not isinstance(part[1], _Size)] for parts in (our_parts, their_parts))
    if len(ours) != len(theirs):
        return _incomparable(max(len(ours), len(theirs)), f"{len(ours)} predictions against {len(theirs)}")
    for (key, _), (other, _) in zip(ours, theirs, strict=True):
        if key != other:
            return _incomparable(len(ours), f"field {_short(key)} against {_short(other)}")
    for part, counterpart in zip_longest(our_parts, their_parts):
        if _shape(part) != _shape(counterpart):
            return _incomparable(max(1, len(ours)), f"{_shape(part)} against {_shape(counterpart)}")
    if not ours:
        return AnswerDifference(agrees=True, difference=0.0, signed=None, rows=0, rows_agreeing=0, note="")
    a, b = [value for _, value in ours], [value for _, value in theirs]
    if rule.kind == "numbers":
        return _compare_numbers(a, b, rule)
    if rule.kind == "text" and rule.scorer is not None:
        return _compare_texts(a, b, rule.similarity, rule.scorer)
    agree = [_equal(x, y) for x, y in zip(a, b, strict=True)]
    return _result(a, b, agree, size=1 - sum(agree) / len(agree), signed=None)


def _compare_texts(ours: Sequence[Any], theirs: Sequence[Any], least: float, scorer: Scorer) -> AnswerDifference:
    """Texts by their scores; what is no text on both sides must be equal."""
    pairs = list(zip(ours, theirs, strict=True))
    texts = [(x, y) if isinstance(x, str) and isinstance(y, str) else None for x, y in pairs]
    scores = [float(_equal(*pair)) if text is None else scorer(*text) for pair, text in zip(pairs, texts, strict=True)]
    agree = [score >= least if text else score == 1 for score, text in zip(scores, texts, strict=True)]
    of_texts = [score for score, text in zip(scores, texts, strict=True) if text]
    comparison = _result(ours, theirs, agree, size=1 - min(scores), signed=None)
    first = agree.index(False) if not all(agree) else None
    return replace(
        comparison,
        note=comparison.note
        if first is None or texts[first] is None
        else f"{comparison.note} (similarity {scores[first]:.3g})",
        score=sum(of_texts) / len(of_texts) if of_texts else None,
        cut=any(scorer.cuts(*text) for text in texts if text),
    )


def _compare_numbers(ours: Sequence[Any], theirs: Sequence[Any], rule: AnswerRule) -> AnswerDifference:
    agree: list[bool] = []
    gaps: list[float] = []
    size = 0.0
    for left, right in zip(ours, theirs, strict=True):
        x, y = _number(left), _number(right)
        if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
            same = _equal(left, right) if x is None or y is None else x == y or (math.isnan(x) and math.isnan(y))
            size = size if same else math.inf
        else:
            exact = isinstance(x, int) and isinstance(y, int)
            gap = _gap(x, y)
            same = abs(gap) <= rule.absolute + rule.relative * abs(x) or (not exact and _is_rounded(x, y))
            size = max(size, abs(gap))
            gaps.append(gap)
        agree.append(same)
    mean = sum(gaps) / len(gaps) if gaps else math.nan
    signed = mean if abs(mean) < _LARGEST_SUMMED else None
    return _result(ours, theirs, agree, size=size, signed=signed)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right)) or _is_rounded(left, right)
    return bool(left == right)


def _is_rounded(left: float, right: float) -> bool:
    """Whether one is the float32 that the other rounds to; two whole numbers may count things, so they are compared as they are."""
    if not (math.isfinite(left) and math.isfinite(right)):
        return False
    if all(float(value).is_integer() and abs(value) < _LARGEST_COUNT for value in (left, right)):
        return False
    return _float32(right) == left or _float32(left) == right


def _gap(left: float, right: float) -> float:
    """Other minus one; between two whole numbers, to the last digit."""
    try:
        return float(right - left)
    except OverflowError:  # whole numbers at both ends of what a float holds
        return math.inf if right > left else -math.inf


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.nan


def _number(value: Any) -> float | None:
    """The number that a prediction is, or reads as; null is how writers of strict JSON say NaN. None: it is none.

    A whole number stays one, so that all its digits count.
    """
    if value is None:
        return math.nan
    if not isinstance(value, (Real, str)) or (isinstance(value, str) and "_" in value):  # float() reads 1_000
        return None
    try:
        number = float(value)
        return value if isinstance(value, int) else number
    except (ValueError, OverflowError):  # a word; a whole number beyond every float
        return None


def _result(
    ours: Sequence[Any], theirs: Sequence[Any], agree: list[bool], *, size: float, signed: float | None
) -> AnswerDifference:
    note = ""
    if not all(agree):
        first = agree.index(False)
        note = f"prediction {first}: {_short(ours[first], theirs[first])} became {_short(theirs[first], ours[first])}"
    return AnswerDifference(
        agrees=all(agree),
        difference=0.0 if all(agree) else size,
        signed=signed,
        rows=len(agree),
        rows_agreeing=sum(agree),
        note=note,
    )


def _short(value: Any, other: Any = "") -> str:
    """A value as a note has room for it: of a long one, what stands where the other begins to differ."""
    text, beside = repr(value), repr(other)
    if len(text) <= _SIDE_LENGTH:
        return text
    start = next((at for at, (x, y) in enumerate(zip(text, beside, strict=False)) if x != y), len(beside))
    start = max(0, min(start - _SIDE_LENGTH // 2, len(text) - _SIDE_LENGTH))
    end = start + _SIDE_LENGTH
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _incomparable(rows: int, note: str) -> AnswerDifference:
    return AnswerDifference(agrees=False, difference=math.inf, signed=None, rows=rows, rows_agreeing=0, note=note)


@dataclass(frozen=True, slots=True)
class _Size:
    """A list or object within an answer: how much of what follows is in it."""

    kind: Literal["a list", "an object"]
    length: int


_Part = tuple[str, Any]
"""The names of the fields that something stands in, and a single value or a `_Size`."""


def _shape(part: _Part | None) -> str:
    """A part of an answer without its value, in words."""
    if part is None:
        return "no value"
    name, value = part
    what = f"{value.kind} of {value.length}" if isinstance(value, _Size) else "a value"
    return f"{what} in field {_short(name)}" if name else what


def _parts(answer: Any) -> Iterator[_Part]:
    """Each single value and, before what is in it, each list and object; the outermost list only says how many they are."""
    if isinstance(answer, Mapping) and set(answer) == {"predictions"}:
        answer = answer["predictions"]
    yield from _flat(answer, "", outermost=True)


def _flat(answer: Any, field: str, *, outermost: bool = False) -> Iterator[_Part]:
    if isinstance(answer, list | tuple):
        if not (outermost or (len(answer) == 1 and not _is_empty(answer[0]))):
            yield field, _Size("a list", len(answer))
        for item in answer:
            yield from _flat(item, field)
    elif isinstance(answer, Mapping):
        yield field, _Size("an object", len(answer))
        for key in sorted(answer, key=str):
            yield from _flat(answer[key], f"{field}.{key}" if field else str(key))
    else:
        yield field, answer


def _is_empty(item: Any) -> bool:
    return isinstance(item, list | tuple | Mapping) and not item
