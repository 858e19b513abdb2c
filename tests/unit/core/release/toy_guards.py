"""Two kinds of guards as another package would bring them: a rule that fires, and a sequential t-test on blocks of time.

Neither is good enough to decide a release; they are here because the package has nothing like them, so that the room for
kinds is not cut to the ones it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.guards import Figures, Guard, GuardTest, percent
from mlflow_istio.core.analysis.promotion import NonInferiorityMargin, PromotionBound
from mlflow_istio.core.release.guards.base import GuardKind, GuardTerms, TestSettings
from mlflow_istio.core.release.guards.counts import IntervalCounts

ENOUGH = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainTest(GuardTest):
    """A test whose state is its fields, and which bounds nothing."""

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        return ()

    def figures(self, alpha: float) -> Figures:
        return Figures()

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        return Guard(name=name, log_e=self.log_e_value, weight=weight, summary=self.words())

    def words(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class GrossTest(PlainTest):
    """How many looks in a row were beyond all doubt."""

    rate: float = 0.0
    looks: int = 0

    @property
    def log_e_value(self) -> float:
        return math.inf if self.looks >= 2 else 0.0

    def words(self) -> str:
        return f"{percent(self.rate)} failed, {self.looks} looks in a row"


class Collapse(GuardKind[GrossTest]):
    """More than the limit fails in two looks in a row, while the stable is well."""

    name: ClassVar[str] = "collapse"
    test = GrossTest
    has_limit = True

    def describe(self, terms: GuardTerms) -> str:
        return f"never two looks in a row with {percent(terms.limit or 0)} failed requests"

    def start(self, terms: GuardTerms, settings: TestSettings) -> GrossTest:
        return GrossTest()

    def series(self, terms: GuardTerms, test: GrossTest) -> frozenset[str]:
        return frozenset()

    def update(self, terms: GuardTerms, test: GrossTest, counts: IntervalCounts) -> GrossTest:
        candidate, stable = counts.candidate, counts.stable
        if candidate.requests < ENOUGH:
            return test
        rate = candidate.errors / candidate.requests
        gross = rate >= (terms.limit or 0) and stable.errors < 0.1 * stable.requests
        return replace(test, rate=rate, looks=test.looks + 1 if gross else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockTest(PlainTest):
    """Scores of blocks of time: their number, sum and sum of squares, and the block that is still open.

    Attributes:
        score, variance, seconds: Of the open block.
        blocks, total, squares: Of the standardised scores of the blocks before.
    """

    score: float = 0.0
    variance: float = 0.0
    seconds: float = 0.0
    blocks: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def log_e_value(self) -> float:
        """The Bayes factor of a t statistic, its prior normal with variance 0.5 (Gönen et al. 2005); 0 until the fourth block."""
        if self.blocks < 4 or self.total <= 0:
            return 0.0
        mean = self.total / self.blocks
        spread = max(1.0, (self.squares - self.blocks * mean**2) / (self.blocks - 1))
        t2, free, prior = self.blocks * mean**2 / spread, self.blocks - 1, 1 + self.blocks * 0.5
        ratio = math.log1p(t2 / free) - math.log1p(t2 / free / prior)
        return 0.5 * (self.blocks * ratio - math.log(prior))

    def words(self) -> str:
        return f"more failures than its share in {self.blocks} blocks"

    def taken(self, counts: IntervalCounts, length: float) -> BlockTest:
        """Score of one interval: the candidate's errors beyond its share of them, the total held fixed."""
        ours, theirs = counts.candidate, counts.stable
        n, events = ours.requests + theirs.requests, ours.errors + theirs.errors
        share = ours.requests / n if n else 0.0
        variance = events * share * (1 - share) * (n - events) / (n - 1) if n > 1 else 0.0
        grown = replace(
            self,
            score=self.score + ours.errors - events * share,
            variance=self.variance + variance,
            seconds=self.seconds + counts.seconds,
        )
        if grown.seconds < length or not grown.variance:
            return grown
        r = grown.score / math.sqrt(grown.variance)
        closed = BlockTest(
            blocks=self.blocks + 1, total=self.total + r, squares=self.squares + r**2, max_log_e=self.max_log_e
        )
        return closed.with_peak()


class Blocks(GuardKind[BlockTest]):
    """Errors of the candidate beyond its share, by blocks of 30 s: what sticks to one replica for a while counts once."""

    name: ClassVar[str] = "blocks"
    test = BlockTest

    def describe(self, terms: GuardTerms) -> str:
        return "no more failures than its share, by blocks of 30 s"

    def start(self, terms: GuardTerms, settings: TestSettings) -> BlockTest:
        return BlockTest()

    def series(self, terms: GuardTerms, test: BlockTest) -> frozenset[str]:
        return frozenset()

    def update(self, terms: GuardTerms, test: BlockTest, counts: IntervalCounts) -> BlockTest:
        return test.taken(counts, 30.0)


class Careless(Collapse):
    """A kind whose author did not think of an interval without requests."""

    name: ClassVar[str] = "careless"

    def update(self, terms: GuardTerms, test: GrossTest, counts: IntervalCounts) -> GrossTest:
        return replace(test, rate=counts.candidate.errors / counts.candidate.requests)


WRONG = ""
"""Of which method `Failing` and its test raise now; set by a test."""


def fail_in(method: str) -> None:
    """Raise where this method is the one that is to fail."""
    if method == WRONG:
        raise KeyError(method)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailingTest(GrossTest):
    """A test of another package, any part of which may raise."""

    @property
    def log_e_value(self) -> float:
        fail_in("log_e_value")
        return math.nan if WRONG == "nan" else GrossTest.log_e_value.fget(self)  # type: ignore[attr-defined]

    @property
    def room(self) -> int:
        fail_in("room")
        return 0

    def guard(self, name: str, *, alpha: float, weight: float = 1.0) -> Guard:
        fail_in("guard")
        return Guard(name=name, log_e=0.0, weight=weight)

    def bounds(self, name: str, allowed: NonInferiorityMargin, *, alpha: float) -> tuple[PromotionBound, ...]:
        fail_in("bounds")
        return ()

    def figures(self, alpha: float) -> Figures:
        fail_in("figures")
        return Figures()


class Failing(Collapse):
    """A kind any part of which may raise."""

    name: ClassVar[str] = "failing"
    test = FailingTest

    def describe(self, terms: GuardTerms) -> str:
        fail_in("describe")
        return "never"

    def start(self, terms: GuardTerms, settings: TestSettings) -> FailingTest:
        fail_in("start")
        return FailingTest()

    def learn(self, terms: GuardTerms, test: GrossTest, stable: Reading) -> GrossTest:
        fail_in("learn")
        return test

    def series(self, terms: GuardTerms, test: GrossTest) -> frozenset[str]:
        fail_in("series")
        return frozenset()

    def update(self, terms: GuardTerms, test: GrossTest, counts: IntervalCounts) -> GrossTest:
        fail_in("update")
        return GrossTest() if WRONG == "class" else test

    def lacks_data(self, test: GrossTest) -> bool:
        fail_in("lacks_data")
        return False


NOT_A_KIND = GrossTest


class Unfinished(GuardKind[BlockTest]):
    """A kind whose author forgot what it must say."""

    name: ClassVar[str] = "unfinished-kind"
    test = BlockTest
