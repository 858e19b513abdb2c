"""KPIs beside another source's counts: from the user's PromQL, or from a Python callable."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from mlflow_istio.adapters.figures.passed_on import PassedOn
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import totals_source
from mlflow_istio.core.moves.control_share import control_name
from mlflow_istio.core.release.kpi import Kpi, counts_from, filled_query
from mlflow_istio.errors import InvalidInput, MetricsError
from mlflow_istio.ports.metrics import Metrics

# A metric's name, a selector, or both: only of these can Prometheus give raw samples with their own times.
_PLAIN_SELECTOR = re.compile(r"\s*(?!(?:on|by|without)\b)([A-Za-z_:][\w:]*\s*(\{[^{}]*\})?|\{[^{}]*\})\s*")


class _Sample(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def value(self) -> float: ...


class _Prometheus(Protocol):
    @property
    def name(self) -> str: ...
    def newest(self, selectors: Sequence[str], max_age: float) -> Sequence[Sequence[_Sample]]: ...
    def evaluate(self, expressions: Sequence[str], max_age: float) -> Sequence[Sequence[_Sample]]: ...


class KpiMetrics(PassedOn):
    """Implements ``ports.Metrics``: another source's counts, and the counts of KPIs, each of which counts what its user says.

    Its history is the other source's, without KPIs.

    Args:
        base: The other source, or None for nothing but KPIs.
        kpis: The KPIs.
        prometheus: Where their PromQL is asked; None when none has any.
        namespace: What ``$namespace`` stands for.
        max_age: Seconds after which a sample is too old.
    """

    def __init__(
        self,
        base: Metrics | None,
        kpis: Sequence[Kpi],
        *,
        prometheus: _Prometheus | None = None,
        namespace: str = "",
        max_age: float = 120.0,
    ) -> None:
        asking = [kpi.name for kpi in kpis if kpi.queries]
        if asking and prometheus is None:
            raise InvalidInput(f"KPI '{asking[0]}' has PromQL: set prometheus_url to the Prometheus that knows it")
        super().__init__(base, nameless="the KPIs")
        self._kpis = tuple(kpis)
        self._prometheus = prometheus
        self._namespace = namespace
        self._max_age = max_age

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """See ``ports.Metrics``."""
        base = self._base.read(endpoint, deployments) if self._base is not None else {}
        readings = {
            deployment: {source: dict(c) for source, c in reading.items()} for deployment, reading in base.items()
        }
        controls = {control_name(deployment) for deployment in deployments}
        for kpi in self._kpis:
            for deployment in deployments:
                if kpi.call is not None and deployment in controls:
                    continue  # its users got the stable's version, and are among those that the callable counts for the stable
                counters = self._counted(kpi, endpoint, deployment)
                for source, series in counters.items():
                    readings.setdefault(deployment, {}).setdefault(source, {}).update(series)
        return readings

    def _counted(self, kpi: Kpi, endpoint: str, deployment: str) -> dict[str, dict[str, float]]:
        if kpi.call is not None:
            return self._called(kpi, deployment)
        if kpi.counts:
            return self._listed(kpi, deployment)
        return self._asked(kpi, endpoint, deployment)

    def _listed(self, kpi: Kpi, deployment: str) -> dict[str, dict[str, float]]:
        counts = counts_from(kpi.name, kpi.counts.get(deployment))
        return {} if counts is None else {totals_source(kpi.name): counts.series(kpi.name)}

    def _called(self, kpi: Kpi, deployment: str) -> dict[str, dict[str, float]]:
        assert kpi.call is not None
        try:
            answer = kpi.call(deployment)
        except Exception as exc:
            # It is the user's own code: anything can come out.
            raise MetricsError(
                f"KPI '{kpi.name}' failed for deployment '{deployment}': {type(exc).__name__}: {' '.join(str(exc).split())}"
            ) from exc
        try:
            counts = counts_from(kpi.name, answer)
        except InvalidInput as exc:
            raise MetricsError(f"for deployment '{deployment}' {exc.message}") from exc
        return {} if counts is None else {totals_source(kpi.name): counts.series(kpi.name)}

    def _asked(self, kpi: Kpi, endpoint: str, deployment: str) -> dict[str, dict[str, float]]:
        assert self._prometheus is not None
        values = {"deployment": deployment, "endpoint": endpoint, "namespace": self._namespace}
        by_source: dict[str, dict[str, float]] = {}
        queries = {part: filled_query(text, values) for part, text in kpi.queries.items()}
        # A KPI's counts belong together, so each kind is asked for at once: they are of one scrape, or of one time.
        plain = {part: query for part, query in queries.items() if _PLAIN_SELECTOR.fullmatch(query)}
        other = {part: query for part, query in queries.items() if part not in plain}
        answers = {
            **dict(zip(plain, self._prometheus.newest(list(plain.values()), self._max_age), strict=True)),
            **dict(zip(other, self._prometheus.evaluate(list(other.values()), self._max_age), strict=True)),
        }
        for part in queries:
            for sample in answers[part]:
                counters = by_source.setdefault(f"kpi {kpi.name} {sample.source}", {})
                series = f"kpi/{kpi.name}/{part}"
                if not (math.isfinite(sample.value) and sample.value >= 0):
                    raise MetricsError(
                        f"query '{part}' of KPI '{kpi.name}' gives {sample.value}: it must give raw counters"
                    )
                counters[series] = counters.get(series, 0.0) + sample.value
        # A KPI without observations has none; events alone say nothing.
        has_n = any(f"kpi/{kpi.name}/n" in counters for counters in by_source.values())
        return by_source if has_n else {}
