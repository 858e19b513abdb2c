"""Series' names: one way to write each, and back."""

from __future__ import annotations

import math

import pytest

from mlflow_istio.core.analysis.buckets import Buckets
from mlflow_istio.core.analysis.measures import (
    KpiCounts,
    check_kpi_name,
    kpi_counts,
    latency_counts,
    latency_series,
)
from mlflow_istio.errors import InvalidInput


@pytest.mark.parametrize(
    ("edge", "series"),
    [(0.5, "le/0.5"), (1.0, "le/1"), (250, "le/250"), (3_600_000, "le/3600000"), (math.inf, "le/+Inf")],
)
def test_an_edge_has_one_name(edge: float, series: str) -> None:
    assert latency_series(edge) == series
    assert float(series.removeprefix("le/")) == edge


def test_two_edges_never_share_a_name() -> None:
    assert latency_series(1_800_000) != latency_series(1_800_001)


def test_the_histogram_is_found_among_the_series() -> None:
    found = latency_counts({"requests": 9, "le/1": 2, "le/+Inf": 8, "kpi/sold/n": 5})
    assert Buckets.from_cumulative(found) == Buckets(edges=(1.0, math.inf), counts=(2, 8))


@pytest.mark.parametrize("counts", [KpiCounts(n=5, events=2), KpiCounts(n=5, total=10.5, squares=30.25)])
def test_kpi_counts_survive_their_series(counts: KpiCounts) -> None:
    series = {**counts.series("sold"), "requests": 1.0}
    assert kpi_counts(series, "sold") == counts


def test_a_kpi_that_the_source_lacks_is_none() -> None:
    assert kpi_counts({"requests": 3.0}, "sold") is None


def test_a_binary_kpi_whose_event_never_happened_has_no_events() -> None:
    assert kpi_counts({"kpi/sold/n": 4.0}, "sold") == KpiCounts(n=4.0, events=0.0)


@pytest.mark.parametrize(
    "kind", [{}, {"events": 1, "total": 2, "squares": 3}, {"total": 1}, {"squares": 1}, {"events": 1, "squares": 1}]
)
def test_a_kpi_is_of_one_kind(kind: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="events, or a sum and a sum of squares"):
        KpiCounts(n=3, **kind)


@pytest.mark.parametrize("name", ["errors", "latency", "requests", "a/b", "", "-x", "x" * 64, "a b"])
def test_a_name_that_would_collide_or_not_fit_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="KPI name"):
        check_kpi_name(name)


def test_an_ordinary_name_is_kept() -> None:
    assert check_kpi_name("sold_per-visit.v2") == "sold_per-visit.v2"
