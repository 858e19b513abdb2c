"""How alike two texts are, from 0 to 1: what compares the answers of models that write."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any
from unicodedata import normalize

from mlflow_istio.errors import MlflowIstioError

Score = Callable[[str, str], Any]
"""(stable's text, candidate's text) -> similarity from 0 to 1."""

LONGEST = 10_000
"""Characters of a text that are compared: what two texts take grows with the product of their lengths."""

_ROUNDING = 1e-6
"""How far beside 0 or 1 a score may be by rounding, as the cosine of a vector with itself is in 32 bits."""
_LONGEST_REASON = 200
_TOKEN = re.compile(r"\w+|[^\w\s]")


class ScorerFailed(MlflowIstioError):
    """A scorer has no score for a pair of texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """What scores two texts.

    Attributes:
        name: One of ``SCORERS``, or ``package.module:function``.
        score: The function.
        longest: Characters of a text that it compares; None: all.
    """

    name: str
    score: Score
    longest: int | None = None

    def cuts(self, stable: str, candidate: str) -> bool:
        """Whether only the beginnings of these texts are compared."""
        return self.longest is not None and stable != candidate and max(len(stable), len(candidate)) > self.longest

    def __call__(self, stable: str, candidate: str) -> float:
        """The score of two texts. Of texts that are cut it is at most the ratio of their lengths.

        Raises:
            ScorerFailed: The function raised, or what it gave is no number from 0 to 1.
        """
        most = 1.0
        texts = stable, candidate
        if self.cuts(stable, candidate):
            most = _length(stable, candidate)
            texts = stable[: self.longest], candidate[: self.longest]
        try:
            score = self.score(*texts)
        except (Exception, SystemExit) as exc:  # anything can come out of a function that somebody names
            raise ScorerFailed(f"{type(exc).__name__}: {' '.join(str(exc).split())[:_LONGEST_REASON]}") from exc
        if not isinstance(score, Real):
            raise ScorerFailed(f"it gave {type(score).__name__}, not a number from 0 to 1")
        number = float(score)
        if math.isnan(number) or not -_ROUNDING <= number <= 1 + _ROUNDING:
            raise ScorerFailed(f"it gave {number:g}, not a number from 0 to 1")
        return min(max(number, 0.0), most)


def _edit(stable: str, candidate: str) -> float:
    from rapidfuzz.distance import Levenshtein  # only who compares texts waits for it

    return Levenshtein.normalized_similarity(*_composed(stable, candidate))


def _tokens(stable: str, candidate: str) -> float:
    ours, theirs = (Counter(_TOKEN.findall(text)) for text in _composed(stable, candidate))
    if not (ours or theirs):
        return 1.0
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def _composed(*texts: str) -> tuple[str, ...]:
    """Letters with their accents as one character each, where there is one: both spellings look the same."""
    return tuple(normalize("NFC", text) for text in texts)


def _length(stable: str, candidate: str) -> float:
    longer = max(len(stable), len(candidate))
    return min(len(stable), len(candidate)) / longer if longer else 1.0


def _json(stable: str, candidate: str) -> float:
    if stable == candidate:
        return 1.0
    try:
        return float(_same_json(json.loads(stable), json.loads(candidate)))
    except (ValueError, RecursionError):  # one of them is no JSON, or too deep
        return 0.0


def _same_json(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same_json, left, right))
    if isinstance(left, bool) or isinstance(right, bool):  # in Python, True is 1
        return left is right
    return bool(left == right or (left != left and right != right))


SCORERS: Mapping[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer(name="edit", score=_edit, longest=LONGEST),
        Scorer(name="tokens", score=_tokens, longest=LONGEST),
        Scorer(name="json", score=_json),
        Scorer(name="length", score=_length),
    )
}
"""``edit``: 1 - edits / characters of the longer (Levenshtein 1966). ``tokens``: F1 of the words and signs that both have, in
any order (as SQuAD counts, Rajpurkar et al. 2016, but for case and punctuation, which count here). ``json``: 1 where both
are JSON of the same value, or the same text. ``length``: the shorter's length as a share of the longer's."""
