"""Sources of figures that other packages bring. What they give is foreign: it is checked before anything is decided by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from mlflow_istio.adapters.figures.passed_on import PassedOn
from mlflow_istio.core.analysis.counters import Reading
from mlflow_istio.core.analysis.measures import is_series
from mlflow_istio.core.analysis.source_names import installed_source
from mlflow_istio.core.basics.plugins import loaded, one_line, place_of
from mlflow_istio.core.basics.stored import shortened
from mlflow_istio.errors import InvalidInput, MetricsError, MlflowIstioError
from mlflow_istio.ports.metrics import Metrics, SourceTerms


def installed_metrics(name: str, terms: SourceTerms) -> Metrics:
    """The source that an installed package brings under this name.

    Args:
        name: Name of the entry point.
        terms: What it is asked to count.

    Raises:
        InvalidInput: No package brings it, or what it brings makes no ``Metrics``.
    """
    entry = installed_source(name)
    where = f"metrics={name}: {place_of(entry)}"
    try:
        source = loaded(entry)(terms)
    except MlflowIstioError:
        raise
    except (Exception, SystemExit) as exc:  # it is another's code: anything can come out
        raise InvalidInput(f"{where} makes no source: {one_line(exc)}") from exc
    if not isinstance(source, Metrics):
        raise InvalidInput(f"{where} makes a {type(source).__name__}, which has no name, counts_chosen or read")
    return _Checked(source)


class _Checked(PassedOn):
    """Implements ``ports.Metrics``: another's source, whose failures are those of a source, and whose readings are checked."""

    def __init__(self, base: Metrics) -> None:
        super().__init__(base)
        self._source = base

    def read(self, endpoint: str, deployments: Sequence[str]) -> Mapping[str, Reading]:
        """See ``ports.Metrics``."""
        try:
            readings = dict(self._source.read(endpoint, deployments))
        except MetricsError:
            raise
        except Exception as exc:
            raise MetricsError(f"{self.name} failed: {one_line(exc)}") from exc
        return {
            deployment: self._reading(deployment, reading)
            for deployment, reading in readings.items()
            if deployment in deployments
        }

    def history(self, endpoint: str, deployment: str, seconds: float, step: float) -> Sequence[Reading]:
        """See ``ports.MetricsHistory``."""
        try:
            history = list(super().history(endpoint, deployment, seconds, step))
        except MlflowIstioError:
            raise
        except Exception as exc:
            raise MetricsError(f"{self.name} failed: {one_line(exc)}") from exc
        return [self._reading(deployment, reading) for reading in history]

    def _reading(self, deployment: str, reading: object) -> Reading:
        """The reading.

        Raises:
            MetricsError: It isn't ``{source: {series: counter}}``.
        """
        says = f"what {self.name} says of '{deployment}' can't be read:"
        if not isinstance(reading, Mapping) or not all(isinstance(counters, Mapping) for counters in reading.values()):
            raise MetricsError(f"{says} it must be {{source: {{series: counter}}}}")
        for counters in reading.values():
            for series, value in counters.items():
                if not is_series(series):
                    raise MetricsError(f"{says} there is no series {series!r}: see mlflow_istio.core.analysis.measures")
                if not 0 <= _number(value) < math.inf:
                    raise MetricsError(f"{says} {series} is {shortened(repr(value))}, no finite counter >= 0")
        return {str(source): {series: float(value) for series, value in c.items()} for source, c in reading.items()}


def _number(value: object) -> float:
    """The value as a number; NaN where it is none, or one that no double holds."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan
