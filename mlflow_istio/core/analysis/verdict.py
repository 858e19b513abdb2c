"""What a release decides at one look: a word, a sentence for people, and the numbers behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlflow_istio.errors import InvalidInput

VerdictWord = Literal["advance", "hold", "rollback", "inconclusive"]
"""advance: go on; hold: wait for more; rollback: give traffic back; inconclusive: time is up without proof."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A decision.

    Attributes:
        word: One of `VerdictWord`.
        reason: One or two sentences a person understands.
        evidence: The numbers, as plain JSON values.
    """

    word: VerdictWord
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.word not in get_args(VerdictWord):
            raise InvalidInput(f"a verdict is one of {', '.join(get_args(VerdictWord))}; got {self.word!r}")
        if not self.reason:
            raise InvalidInput(f"a verdict ({self.word}) needs its reason")
