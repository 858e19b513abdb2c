"""What a source that stands on another one says as the other does."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.runtime.runtime import PROTOCOLS
from mlflow_istio.ports.metrics import KnownEdges, KnownProtocols, Metrics, MetricsHistory


class PassedOn:
    """All of ``ports.metrics`` but for ``read``, as the other source has it.

    Args:
        base: The other source; None for none.
        nameless: What it is called where there is no other source.
    """

    def __init__(self, base: Metrics | None, nameless: str = "") -> None:
        self._base = base
        self._nameless = nameless

    @property
    def name(self) -> str:
        """See ``ports.Metrics``."""
        return self._base.name if self._base is not None else self._nameless

    @property
    def counts_chosen(self) -> bool:
        """See ``ports.Metrics``."""
        return self._base is not None and self._base.counts_chosen

    @property
    def latency_edges(self) -> Sequence[float]:
        """See ``ports.KnownEdges``; none where the other source knows none."""
        return self._base.latency_edges if isinstance(self._base, KnownEdges) else ()

    @property
    def protocols(self) -> Sequence[str]:
        """See ``ports.KnownProtocols``; all where the other source names none."""
        return self._base.protocols if isinstance(self._base, KnownProtocols) else PROTOCOLS

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:
        """See ``ports.MetricsHistory``; none where the other source keeps none."""
        base = self._base
        return base.history(endpoint, deployment, seconds, step) if isinstance(base, MetricsHistory) else ()
