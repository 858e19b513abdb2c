"""Each target's source of metrics, or what to set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.release.kpi import Kpi
from mlflow_istio.errors import InvalidInput
from mlflow_istio.testing import InMemoryCluster
from mlflow_istio.wiring.sources import metrics_source

URL = "http://prometheus:9090"
SOLD = Kpi(name="sold", call=lambda _deployment: (1, 1))


@pytest.mark.parametrize(
    ("kind", "source", "options", "name"),
    [
        ("istio-local", "auto", {}, "Envoy's statistics"),
        ("istio-local", "envoy", {"prometheus_url": URL}, "Envoy's statistics"),
        ("istio-local", "auto", {"prometheus_url": URL}, f"Prometheus at {URL}"),
        ("istio", "auto", {"prometheus_url": URL}, f"Prometheus at {URL}"),
        ("istio", "envoy", {"envoy_url": "http://127.0.0.1:15000/"}, "Envoy's statistics"),
        ("istio", "auto", {"envoy_url": "http://127.0.0.1:15000/"}, "Envoy's statistics"),
        ("istio", "auto", {"envoy_url": "http://127.0.0.1:15000/", "prometheus_url": URL}, f"Prometheus at {URL}"),
        ("istio", "none", {}, None),
        ("istio", "none", {"kpis": (SOLD,)}, "the KPIs"),
        ("istio-local", "auto", {"kpis": (SOLD,), "errors": "4xx+5xx"}, "Envoy's statistics"),
    ],
)
def test_a_target_has_this_source(
    kind: str, source: str, options: dict[str, Any], name: str | None, tmp_path: Path
) -> None:
    cluster = LocalMesh(tmp_path) if kind == "istio-local" else InMemoryCluster()
    found = metrics_source(kind, cluster, source, **options)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("auto", {}, "set prometheus_url"),
        ("prometheus", {}, "set prometheus_url"),
        ("envoy", {}, "set MLFLOW_ISTIO_ENVOY_URL"),
        ("promtheus", {}, "unknown metrics 'promtheus'.*prometheus"),
        ("none", {"errors": "6xx"}, "unknown errors '6xx'"),
    ],
)
def test_what_is_missing_is_named(source: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        metrics_source("istio", InMemoryCluster(), source, **options)
