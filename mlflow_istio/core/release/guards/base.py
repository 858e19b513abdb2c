"""What every kind of guard has to say, and the terms it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.guards import GuardTest
from mlflow_istio.core.analysis.means import Direction
from mlflow_istio.core.analysis.promotion import NOTHING_TO_PROVE, NonInferiorityMargin
from mlflow_istio.core.basics.stored import form, stored
from mlflow_istio.core.release.guards.counts import IntervalCounts

SPEED_KINDS = ("latency", "ttft", "tpot")
"""Guards that compare how fast both sides are, which tells of versions only at comparable loads."""
OPTIONAL_TERMS = ("margin", "worse", "slower_than", "edges")
"""Terms that some kinds of guards read and others do not."""


@form(sparse=True, closed=True)
@dataclass(frozen=True, kw_only=True, slots=True)
class GuardTerms:
    """What was said of one guard when the release began.

    Attributes:
        name: What people call it: errors, latency, a KPI's name, an objective's name.
        kind: What it is: a name in the table of kinds.
        margin: errors, latency, rate: the odds ratio that is still acceptable. mean: a worsening in the KPI's unit.
        weight: Its share of the error probability, relative to the other guards.
        allowed: What must be proven before promotion.
        worse: KPIs: which direction is the bad one.
        limit: objective: the largest acceptable rate.
        slower_than: objective: of answers slower than so many milliseconds; None: of errors.
        edges: latency, ttft, tpot: bucket edges in milliseconds, tokens: in tokens; empty: chosen from the stable's own answers
            when the release starts.
        streams: Whether it guards what may be streamed: gross failure then is of errors alone, since a longer answer is no slower
            one, and a guard of streams that has seen none of the stable's yet lacks nothing.
    """

    name: str
    kind: str
    margin: float = 1.0
    weight: float = 1.0
    allowed: NonInferiorityMargin = field(default=NOTHING_TO_PROVE, metadata=stored(sparse=False))
    worse: Direction = "higher"
    limit: float | None = None
    slower_than: float | None = None
    edges: tuple[float, ...] = ()
    streams: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSettings:
    """What all tests of a release share.

    Attributes:
        overdispersion: Overdispersion.
        phase: The longest slow phase of a replica, in seconds; 0: requests are independent.
        label_delay: Seconds after which a KPI's events may still come.
        warm_requests: Requests that the candidate answers before its latency counts.
    """

    __test__ = False  # pytest takes a class of this name for a suite

    overdispersion: float = 1.0
    phase: float = 0.0
    label_delay: float = 0.0
    warm_requests: int = 0


ATest = TypeVar("ATest", bound=GuardTest)


class GuardKind(ABC, Generic[ATest]):
    """One kind of guard: how its terms become a test, and how each interval is told to it.

    It has no state: what a guard knows stands in its test, which is written to the object after every look and read by
    whoever looks next. What a test says (evidence, bounds, figures, its sentence) is the test's own.

    Attributes:
        name: What options and stored plans call it; never changes.
        test: The class of its tests.
        proofs: Which fields of ``NonInferiorityMargin`` can be proven of it; none for a kind whose tests bound what they bound
            by themselves.
        has_limit: Whether ``limit`` is one of its terms: if so it must be given, else it can't be.
        claims_better: Whether what is proven of it may be that the candidate is better than the stable.
        reads: Which of ``margin``, ``worse``, ``slower_than`` and ``edges`` it reads; options refuse the others.
    """

    name: ClassVar[str]
    test: type[ATest]
    proofs: ClassVar[tuple[str, ...]] = ()
    has_limit: ClassVar[bool] = False
    claims_better: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = OPTIONAL_TERMS

    @abstractmethod
    def describe(self, terms: GuardTerms) -> str:
        """The terms as a clause for people, without the guard's name."""

    @abstractmethod
    def start(self, terms: GuardTerms, settings: TestSettings) -> ATest | None:
        """A test that has seen nothing; None for one that must see the stable's own history first."""

    def start_from(
        self,
        terms: GuardTerms,
        settings: TestSettings,
        stable: Reading,
    ) -> ATest | None:
        """The test that ``start`` could not make, from the stable's counters until now; None while they tell too little."""
        return None

    def learn(self, terms: GuardTerms, test: ATest, stable: Reading) -> ATest:
        """The test with what it takes from the stable's counters until now, before anything is judged; the same if nothing."""
        return test

    @abstractmethod
    def series(self, terms: GuardTerms, test: ATest) -> frozenset[str]:
        """The series that it needs besides requests, errors and assignments; all others are dropped."""

    @abstractmethod
    def update(self, terms: GuardTerms, test: ATest, counts: IntervalCounts) -> ATest | None:
        """The test after an interval; None when its data are missing."""

    def lacks_data(self, test: ATest) -> bool:
        """Whether what it has taken in tells nothing before more comes: as if its data were missing, but nothing is lost."""
        return False
