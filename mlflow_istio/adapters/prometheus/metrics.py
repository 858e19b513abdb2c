"""Counts from Prometheus: Istio's series, or those of the local mesh's Envoy.

Raw counters are read, never ``rate`` or ``increase``, which extrapolate. Istio's series hold **pinned requests** too, and those
that chose their arm by its header or cookie: nothing in them tells those apart, which is why pins ask for a key at a
gateway. Mirrored copies are not among those that a caller's proxy reports (``reporter="source"``), and the probe
route has no workload. A proxy that forgets series which are still in use (``statsEvictionInterval``) looks like one that
restarted: leave that off. A request for a version without any ready pod has no workload either, so nobody is charged with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mlflow_istio.adapters.prometheus.api import PrometheusApi, source_of
from mlflow_istio.adapters.prometheus.series import Family, envoy_families, istio_families
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.interval import check_positive
from mlflow_istio.errors import InvalidInput, MetricsError

MAX_AGE = 120.0
"""Seconds after which the newest sample is too old: two scrapes may fail at the usual interval of at most a minute."""


class PrometheusMetrics:
    """Implements ``ports.Metrics`` and ``ports.MetricsHistory`` on Prometheus.

    Args:
        api: The Prometheus.
        dialect: ``istio`` for the series of Istio's proxies, ``envoy`` for those of the local mesh.
        namespace: Namespace of the workloads; None where there are none.
        label: Istio's label that names the deployment: ``destination_workload`` or ``destination_version``.
        errors: Classes of answers that count as errors: ``5``, or ``45``.
        chosen: Whether requests that chose their arm count, too, where the dialect tells them apart: somebody vouches for callers.
        latency_edges: Upper edges of the histograms, where whoever configures the proxies fixes them.
        max_age: Seconds after which a sample is too old.
        protocol_of: What an endpoint's callers speak, ``http`` or ``grpc``: Istio tells calls over gRPC by it.
    """

    def __init__(
        self,
        api: PrometheusApi,
        *,
        dialect: Literal["istio", "envoy"] = "istio",
        namespace: str | None = None,
        label: str = "destination_workload",
        errors: str = "5",
        chosen: bool = False,
        latency_edges: Sequence[float] = (),
        max_age: float = MAX_AGE,
        protocol_of: Callable[[str], str] = lambda _endpoint: "http",
    ) -> None:
        if dialect not in ("istio", "envoy"):
            raise InvalidInput(f"series are Istio's or Envoy's, not {dialect!r}")
        self.latency_edges = tuple(latency_edges)
        self._api = api
        self._dialect = dialect
        self._namespace = namespace
        self._label = label
        self._errors = errors
        self._chosen = chosen
        self._max_age = max_age
        self._protocol_of = protocol_of

    @property
    def name(self) -> str:
        """See ``ports.Metrics``."""
        return self._api.name

    @property
    def counts_chosen(self) -> bool:
        """See ``ports.Metrics``: nothing in Istio's series says by which route a request came."""
        return self._dialect == "istio"

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """See ``ports.Metrics``."""
        readings: dict[str, dict[str, dict[str, float]]] = {}
        families = self._families(endpoint, deployments)
        answers = self._api.newest([family.selector for family in families], self._max_age)
        for family, samples in zip(families, answers, strict=True):
            for sample in samples:
                deployment = family.deployment(sample.labels)
                if deployment not in deployments:
                    continue
                counters = readings.setdefault(deployment, {}).setdefault(sample.source, {})
                for series, counts in self._counters(family, sample.labels).items():
                    counters[series] = counters.get(series, 0.0) + (sample.value if counts else 0.0)
        return readings

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:
        """See ``ports.MetricsHistory``."""
        check_positive("seconds of history", seconds)
        check_positive("step of history", step)
        families = self._families(endpoint, [deployment])
        steps, answers = self._api.over_time([family.summed for family in families], seconds, step, self._max_age)
        readings: list[dict[str, dict[str, float]]] = [{} for _ in range(steps)]
        for family, past in zip(families, answers, strict=True):
            for series in past:
                if family.deployment(series.labels) != deployment:
                    continue
                counters, source = self._counters(family, series.labels), source_of(series.labels)
                for number, value in series.values.items():
                    reading = readings[number].setdefault(source, {})
                    for name, counts in counters.items():
                        reading[name] = reading.get(name, 0.0) + (value if counts else 0.0)
        return readings if any(readings) else ()

    def _families(self, endpoint: str, deployments: Sequence[str]) -> tuple[Family, ...]:
        if self._dialect == "envoy":
            return envoy_families(endpoint, deployments, self._errors, chosen=self._chosen)
        protocol = self._protocol_of(endpoint)
        return istio_families(endpoint, deployments, self._namespace, self._label, self._errors, protocol)

    def _counters(self, family: Family, labels: Mapping[str, str]) -> Mapping[str, bool]:
        try:
            return family.counters(labels)
        except (KeyError, ValueError) as exc:
            raise MetricsError(f"{self.name} has a series that can't be read: {dict(labels)}") from exc
