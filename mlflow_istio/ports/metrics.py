"""Where requests are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mlflow_istio.core.analysis.counters import Reading


@runtime_checkable
class Metrics(Protocol):
    """Where the counts of requests, errors, latencies and KPIs come from.

    The names of the series stand in ``core.measures``; all are raw cumulative counters, for ``CounterState`` to
    difference. Only live split traffic may be counted (no pinned, probe or mirrored requests) where the source can tell
    them apart; an implementation's docstring says where it can't.
    """

    @property
    def name(self) -> str:
        """What errors and warnings call it, such as ``Prometheus at http://localhost:9090``."""

    @property
    def counts_chosen(self) -> bool:
        """Whether a request whose caller chose its deployment, by header, cookie, match or pin, counts like one that weights dealt.

        False for a source that tells them apart, also where somebody asked it to count both.
        """

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """The counters now: deployment -> {source: {series: value}}.

        A deployment without data is absent, never a zero made up; data that are too old count as absent.

        Args:
            endpoint: The endpoint.
            deployments: Names of the deployments to read.

        Raises:
            MetricsError: The source can't be reached, refuses, or gave what can't be read.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTerms:
    """What a source of another package is asked to count (entry points of the group ``mlflow_istio.metrics``).

    Attributes:
        target: Kind of the target: ``istio`` or ``istio-local``.
        namespace: The cluster's namespace; of ``istio-local`` its own.
        errors: Which answers are errors: ``5xx`` or ``4xx+5xx``.
        chosen: Whether requests that chose their deployment count, too, since somebody vouches for who sends them.
    """

    target: str
    namespace: str
    errors: str
    chosen: bool


@runtime_checkable
class KnownEdges(Protocol):
    """A source whose latency edges are known before anybody has answered: a Metrics may be one, too."""

    @property
    def latency_edges(self) -> Sequence[float]:
        """Upper edges of its histograms in milliseconds, rising, without infinity; none where they depend on others."""


@runtime_checkable
class KnownProtocols(Protocol):
    """A source that can't tell the errors of all protocols: a Metrics may be one, too."""

    @property
    def protocols(self) -> Sequence[str]:
        """Those whose errors it tells, in the words of ``core.runtime``."""


@runtime_checkable
class MetricsHistory(Protocol):
    """A source that remembers: a Metrics may be one, too, and a release learns from it how its stable behaves."""

    @property
    def name(self) -> str:
        """What errors and warnings call it."""

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:
        """A deployment's counters as they were, oldest first: ``read`` at every step until now, as far as that is known.

        Args:
            endpoint: The endpoint.
            deployment: Name of the deployment.
            seconds: How far back.
            step: Seconds between two readings; the source may keep fewer, and then repeats one.

        Returns:
            At most ``seconds / step + 1`` readings; one of a time without data is empty, so that a gap stays one. None at all
            where the source keeps no history of it.

        Raises:
            MetricsError: The source can't be reached, refuses, or gave what can't be read.
            InvalidInput: ``seconds`` or ``step`` isn't a positive number.
        """
