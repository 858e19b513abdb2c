"""What model servers say of streams: the pages of ours and of others, and series in Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mlflow_istio.adapters.figures.stream_measures import (
    StreamMetrics,
    samples_in,
    streams_in_prometheus,
    streams_of_servers,
)
from mlflow_istio.core.analysis.stream_series import stream_counters, told_once
from mlflow_istio.ports.metrics import Metrics
from mlflow_istio.serving.exposition import ServerMetrics
from mlflow_istio.testing import InMemoryMetrics

RECORDED = Path(__file__).parent / "recorded_pages"
"""What real servers said, from runs by hand: ``vllm_0_27_1.txt`` after four whole answers and callers who left early."""

# Two engines, of which the recorded page has one, and a name that wants its backslashes.
VLLM = """\
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.25",model_name="org/\\"chat\\" {1}"} 3.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="org/\\"chat\\" {1}"} 5.0
vllm:time_to_first_token_seconds_count{model_name="org/chat"} 5.0
vllm:request_time_per_output_token_seconds_bucket{engine="0",le="0.01",model_name="m"} 1.0
vllm:request_time_per_output_token_seconds_bucket{engine="1",le="0.01",model_name="m"} 2.0
vllm:request_generation_tokens_bucket{le="1000.0",model_name="m"} 4.0
vllm:num_requests_running{model_name="m"} NaN
no sample
"""
GEN_AI = 'gen_ai_client_token_usage_bucket{{gen_ai_token_type="{}",le="64.0"}} {}\n'


@pytest.fixture
def served() -> object:
    """Serves a page of metrics; its address."""
    servers = []

    def serve(text: str) -> str:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/metrics" else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Page)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def read(page: str, served: object) -> Mapping[str, float]:
    url = served(page)  # type: ignore[operator]
    found = streams_of_servers(lambda names: {name: {url: ["/metrics"]} for name in names})(["chat-v1"])
    return found["chat-v1"].get(f"streams {url}", {})


def test_vllms_series_are_read_engines_together(served) -> None:
    assert read(VLLM, served) == {
        "ttft/250": 3.0,
        "ttft/+Inf": 5.0,
        "tpot/10": 3.0,
        "tokens/1000": 4.0,
    }


def test_a_real_vllms_page_is_read(served) -> None:
    counters = read((RECORDED / "vllm_0_27_1.txt").read_text(encoding="utf-8"), served)
    assert {series.split("/")[0] for series in counters} == {"ttft", "tpot", "tokens"}
    assert (counters["ttft/+Inf"], counters["tpot/+Inf"], counters["tokens/+Inf"]) == (5.0, 4.0, 4.0)
    assert (counters["ttft/40000"], counters["ttft/80000"]) == (4.0, 5.0), (
        "the first of all took 43 seconds, in milliseconds"
    )
    assert (counters["tokens/2"], counters["tokens/20"], counters["tokens/50"]) == (0.0, 1.0, 4.0)


def test_of_opentelemetrys_tokens_those_of_answers_count(served) -> None:
    assert read(GEN_AI.format("input", 9) + GEN_AI.format("output", 2), served) == {"tokens/64": 2.0}


def test_our_own_series_are_read_with_how_streams_ended(served) -> None:
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry, deployment="chat-v1", model="chat", version="1")
    metrics.streams.count_first_chunk(0.2)
    for end in ("whole", "whole", "model", "caller", "server"):
        metrics.streams.count_stream(end, 5, 0.4)
    counters = read(generate_latest(registry).decode(), served)
    assert (counters["streams/n"], counters["streams/unfinished"]) == (4.0, 2.0)
    assert (counters["ttft/100"], counters["ttft/250"], counters["ttft/+Inf"]) == (0.0, 1.0, 1.0)
    assert (counters["tpot/50"], counters["tpot/100"]) == (0.0, 2.0)
    assert (counters["tokens/4"], counters["tokens/8"]) == (0.0, 2.0)


def test_of_what_a_server_and_its_recorder_both_tell_one_counts(served) -> None:
    registry = CollectorRegistry()
    series, streams = ServerMetrics(registry, deployment="chat-v1", model="chat", version="1").of_recorder()
    streams.count_first_chunk(0.2)
    streams.count_stream("whole", 5, 0.4)
    recorders = generate_latest(series).decode()
    ours = read(recorders, served)
    assert (ours["ttft/250"], ours["tpot/100"], ours["tokens/8"], ours["streams/n"]) == (1.0, 1.0, 1.0, 1.0)
    both = read(VLLM + recorders, served)
    assert {series: both[series] for series in both if series.startswith(("ttft", "tpot", "tokens"))} == read(
        VLLM, served
    ), "its own"
    assert (both["streams/n"], both["streams/unfinished"]) == (1.0, 0.0), "which vLLM does not tell"
    assert told_once(["up", "vllm:request_generation_tokens_bucket", "gen_ai_client_token_usage_bucket"]) == {
        "vllm:request_generation_tokens_bucket"
    }


def test_in_prometheus_a_pod_that_is_scraped_twice_counts_once() -> None:
    labels = {"le": "0.5", "pod": "chat-v1-6d4cf56db6-x2x4z"}
    prometheus = Asked(
        [
            Sample({"__name__": "vllm:time_to_first_token_seconds_bucket", **labels}, "10.0.0.1:8000", 7.0),
            Sample(
                {"__name__": "mlflow_istio_recorder_stream_first_chunk_seconds_bucket", **labels}, "10.0.0.1:8790", 6.0
            ),
            Sample({"__name__": "mlflow_istio_recorder_streams_total", "end": "model", **labels}, "10.0.0.1:8790", 1.0),
        ]
    )
    assert streams_in_prometheus(prometheus, "models")(["chat-v1"]) == {
        "chat-v1": {
            "streams 10.0.0.1:8000": {"ttft/500": 7.0},
            "streams 10.0.0.1:8790": {"streams/n": 1.0, "streams/unfinished": 1.0},
        }
    }


def test_streams_stand_beside_the_counts_of_who_has_any(served) -> None:
    base = InMemoryMetrics()
    base.serve("chat-v1", 4)
    url = served(VLLM)
    metrics = StreamMetrics(
        base,
        streams_of_servers(
            lambda names: {name: {url: ["/metrics"], "http://127.0.0.1:9": ["/metrics"]} for name in names}
        ),
    )
    assert isinstance(metrics, Metrics)
    found = metrics.read("chat", ["chat-v1", "chat-v2"])
    assert {name: sorted(reading) for name, reading in found.items()} == {"chat-v1": ["in-memory", f"streams {url}"]}


@dataclass(frozen=True)
class Sample:
    labels: Mapping[str, str]
    source: str
    value: float


class Asked:
    """A Prometheus that was asked; no real one, since what is asked is pure (tests/e2e/test_prometheus.py has one)."""

    def __init__(self, *answers: Sequence[Sample]) -> None:
        self.answers = answers
        self.selectors: Sequence[str] = ()

    def newest(self, selectors: Sequence[str], max_age: float) -> Sequence[Sequence[Sample]]:
        self.selectors = selectors
        return self.answers


def test_in_prometheus_a_pod_says_whose_it_is_and_else_the_collector() -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    prometheus = Asked(
        [
            Sample({"__name__": name, "le": "0.5", "pod": "chat-v1-6d4cf56db6-x2x4z"}, "10.0.0.1", 7.0),
            Sample({"__name__": name, "le": "0.5", "pod": "chat-v1-control-6d4cf56db6-x2x4z"}, "10.0.0.2", 9.0),
        ],
        [Sample({"__name__": name, "le": "0.5", "k8s_deployment_name": "chat-v2"}, "a", 1.0)],
    )
    found = streams_in_prometheus(prometheus, "models")(["chat-v1", "chat-v2"])
    assert found == {"chat-v1": {"streams 10.0.0.1": {"ttft/500": 7.0}}, "chat-v2": {"streams a": {"ttft/500": 1.0}}}
    assert all('"models"' in selector and "chat-v1|chat-v2" in selector for selector in prometheus.selectors)


def test_labels_with_braces_and_quotes_are_read() -> None:
    ((_, labels, _), *_) = samples_in(VLLM)
    assert labels["le"] == "0.25"
    assert stream_counters("vllm:time_to_first_token_seconds_bucket", {"le": "wide"}) == {}
