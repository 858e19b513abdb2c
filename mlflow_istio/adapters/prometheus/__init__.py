"""Prometheus as a source of metrics: the only part that speaks its HTTP API."""

from mlflow_istio.adapters.prometheus.api import PrometheusApi, credentials_from
from mlflow_istio.adapters.prometheus.metrics import PrometheusMetrics

__all__ = ["PrometheusApi", "PrometheusMetrics", "credentials_from"]
