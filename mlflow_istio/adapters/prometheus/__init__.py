"""Prometheus as a source of metrics: the only part that speaks its HTTP API.

May import what adapters may. Never in here: which series answer a question (core.analysis.measures names them).
"""

from mlflow_istio.adapters.prometheus.api import PrometheusApi, credentials_from
from mlflow_istio.adapters.prometheus.metrics import PrometheusMetrics

__all__ = ["PrometheusApi", "PrometheusMetrics", "credentials_from"]
