"""What one reading of Prometheus is made of, when it scrapes between any two questions: the real ones are in tests/e2e."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.adapters.prometheus import PrometheusApi, PrometheusMetrics
from mlflow_istio.core.analysis.counters import CounterState
from mlflow_istio.core.analysis.measures import REQUESTS, kpi_counts
from mlflow_istio.core.release.kpi import Kpi

SECONDS_BETWEEN_SCRAPES = 15
NAMES: dict[str, tuple[str, str]] = {
    "istio": ("istio_requests_total", "istio_request_duration_milliseconds_bucket"),
    "envoy": ("envoy_cluster_split_upstream_rq_xx", "envoy_cluster_split_upstream_rq_time_bucket"),
}
LABELS: dict[str, dict[str, str]] = {
    "istio": {"destination_workload": "m-v1", "response_code": "200"},
    "envoy": {"envoy_cluster_name": "outbound|8080|m-v1|m", "envoy_response_code_class": "2"},
}


@dataclass
class HastyPrometheus:
    """Scrapes once before each question that it answers.

    Attributes:
        scrapes: What each scrape finds, by the metric's name; none where the process has no such series.
        labels: Of every series.
        made: How many scrapes are made.
    """

    scrapes: Sequence[Mapping[str, float]]
    labels: Mapping[str, str]
    made: int = 0

    def answer(self, query: str, at: float | None) -> dict[str, Any]:
        """The document for a question."""
        self.made = min(self.made + 1, len(self.scrapes))
        is_range = query.endswith("s]")
        names = {name for scrape in self.scrapes for name in scrape if self._is_chosen(name, query)}
        result = []
        for name in sorted(names):
            points = [
                [SECONDS_BETWEEN_SCRAPES * (number + 1.0), str(scrape[name])]
                for number, scrape in enumerate(self.scrapes[: self.made])
                if name in scrape
            ]
            now = at if at is not None else SECONDS_BETWEEN_SCRAPES * float(self.made)
            known = [point for point in points if float(point[0]) <= now]
            labels = {**self.labels, "__name__": name, "le": "+Inf", "job": "mesh", "instance": "proxy"}
            if is_range:
                result.append({"metric": labels, "values": points})
            elif known:
                result.append({"metric": {}, "value": [now, known[-1][1]]})
        kind = "matrix" if is_range else "vector"
        return {"status": "success", "data": {"resultType": kind, "result": result}}

    def _is_chosen(self, name: str, query: str) -> bool:
        pattern = re.match(r'\{__name__=~"([^"]+)"', query)
        return bool(re.fullmatch(pattern[1], name)) if pattern else bool(re.match(rf"(sum\()?{name}\b", query))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        at = float(form["time"][0]) if "time" in form else None
        body = json.dumps(self.server.prometheus.answer(form["query"][0], at)).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def api_of(prometheus: HastyPrometheus) -> Iterator[PrometheusApi]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.prometheus = prometheus  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield PrometheusApi(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("dialect", ["istio", "envoy"])
def test_a_restart_between_two_questions_counts_nothing_twice(dialect: Literal["istio", "envoy"]) -> None:
    requests, latencies = NAMES[dialect]
    scrapes = [{requests: float(value), latencies: float(value)} for value in (21, 21, 21, 4, 4, 4, 4)]
    prometheus = HastyPrometheus(scrapes=scrapes, labels=LABELS[dialect])
    state, total = CounterState(), dict.fromkeys((REQUESTS, "le/+Inf"), 0.0)
    with api_of(prometheus) as api:
        metrics = PrometheusMetrics(api, dialect=dialect)
        for _ in range(5):
            state, grown = state.advanced(metrics.read("m", ["m-v1"])["m-v1"])
            total = {series: total[series] + grown.get(series, 0) for series in total}

    assert total == {REQUESTS: 4, "le/+Inf": 4}


def test_the_first_reading_is_of_one_scrape_so_that_nothing_is_counted_before_it() -> None:
    requests, latencies = NAMES["istio"]
    scrapes = [{requests: float(value), latencies: float(value)} for value in (1, 5, 9, 9)]
    with api_of(HastyPrometheus(scrapes=scrapes, labels=LABELS["istio"])) as api:
        (counters,) = PrometheusMetrics(api).read("m", ["m-v1"])["m-v1"].values()

    assert counters[REQUESTS] == counters["le/+Inf"] == 1


def test_a_series_that_the_newest_scrape_no_longer_has_is_left_out() -> None:
    requests, latencies = NAMES["istio"]
    scrapes = [{requests: 21.0, latencies: 21.0}, {requests: 4.0}, {requests: 4.0}]
    prometheus = HastyPrometheus(scrapes=scrapes, labels=LABELS["istio"], made=1)
    with api_of(prometheus) as api:
        (counters,) = PrometheusMetrics(api).read("m", ["m-v1"])["m-v1"].values()

    assert counters[REQUESTS] == 4
    assert "le/+Inf" not in counters


@pytest.mark.parametrize("form", ['{name}{{version="$deployment"}}', 'sum({name}{{version="$deployment"}})'])
def test_a_kpis_events_are_never_of_a_later_scrape_than_its_visits(form: str) -> None:
    scrapes = [{"visits": 10.0, "sales": 10.0}, {"visits": 20.0, "sales": 20.0}, {"visits": 20.0, "sales": 20.0}]
    queries = {"n": form.format(name="visits"), "events": form.format(name="sales")}
    with api_of(HastyPrometheus(scrapes=scrapes, labels={"version": "m-v1"})) as api:
        metrics = KpiMetrics(None, [Kpi(name="sold", queries=queries)], prometheus=api)
        (counters,) = metrics.read("m", ["m-v1"])["m-v1"].values()

    counts = kpi_counts(counters, "sold")
    assert counts is not None
    assert (counts.n, counts.events) == (10, 10)
