"""Which of Envoy's counters are a deployment's, in every spelling that Envoys give them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics, EnvoySample, read_samples
from mlflow_istio.errors import MetricsError

CLUSTER = 'envoy_cluster_name="outbound|80|m-v2|m"'
ISTIO = 'cluster_name="outbound|80|m-v2|m.team-a.svc.cluster.local"'


def sample(**changes: object) -> EnvoySample:
    fields = {
        "tree": "",
        "deployment": "m-v2",
        "host": "m",
        "namespace": None,
        "series": "requests",
        "answers": "2",
        "value": 7.0,
    }
    return EnvoySample(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{CLUSTER}}} 7', sample()),
        (f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",{CLUSTER}}} 7', sample(answers="5")),
        (f'envoy_cluster_split_upstream_rq_xx{{envoy_response_code_class="2",{CLUSTER}}} 7', sample(tree="split")),
        (
            f'envoy_cluster_arm_upstream_rq_time_bucket{{{CLUSTER},le="0.5"}} 7',
            sample(tree="arm", series="le/0.5", answers=""),
        ),
        (f'envoy_cluster_upstream_rq_time_bucket{{{CLUSTER},le="+Inf"}} 7', sample(series="le/+Inf", answers="")),
        # A plain bootstrap cuts the cluster's name at the first dot.
        (
            f'envoy_cluster_team_a_svc_cluster_local__upstream_rq_xx{{envoy_response_code_class="2",{CLUSTER}}} 7',
            sample(namespace="team_a"),
        ),
        # Istio's own bootstrap does not, and makes a label of what else stands in a counter's name.
        (f'envoy_cluster_upstream_rq{{response_code_class="5xx",{ISTIO}}} 7', sample(namespace="team-a", answers="5")),
        (
            f'envoy_cluster_upstream_rq_time_bucket{{{ISTIO},le="0.5"}} 7',
            sample(namespace="team-a", series="le/0.5", answers=""),
        ),
    ],
)
def test_a_counter_is_read_in_this_spelling(line: str, expected: EnvoySample) -> None:
    assert read_samples(line) == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "envoy_cluster_external_upstream_rq_xx",
        "envoy_cluster_internal_upstream_rq_xx",
        "envoy_cluster_split_external_upstream_rq_xx",
        "envoy_cluster_retry_upstream_rq_xx",
        "envoy_cluster_team_a_svc_cluster_local__external_upstream_rq_xx",
        "envoy_cluster_upstream_rq_completed",
        "envoy_cluster_upstream_cx_total",
    ],
)
def test_a_double_of_a_counter_is_left_out(name: str) -> None:
    assert read_samples(f'{name}{{envoy_response_code_class="2",{CLUSTER}}} 7') == []


@pytest.mark.parametrize(
    "line",
    [
        f'envoy_cluster_upstream_rq{{response_code="503",{ISTIO}}} 7',
        f'envoy_cluster_external_upstream_rq{{response_code_class="5xx",{ISTIO}}} 7',
        f"envoy_cluster_upstream_rq_total{{{ISTIO}}} 7",
    ],
)
def test_a_double_in_istios_spelling_is_left_out(line: str) -> None:
    assert read_samples(line) == []


def test_a_cluster_without_subset_is_nobodys() -> None:
    assert (
        read_samples(
            'envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="outbound|80||m"} 7'
        )
        == []
    )


def test_without_an_envoy_it_says_that_none_runs() -> None:
    with pytest.raises(MetricsError, match="no Envoy runs"):
        EnvoyMetrics(lambda: ()).read("m", ["m-v1"])


@contextmanager
def envoy(text: str) -> Iterator[str]:
    """Something that answers every GET with statistics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_gateway_that_keeps_no_statistics_of_the_endpoint_is_no_zero() -> None:
    """Istio's proxies keep none unless an annotation asks for them: a release would wait for requests to its deadline."""
    with (
        envoy("") as admin,
        pytest.raises(MetricsError, match=r"keeps no statistics of endpoint 'm'.*proxyStatsMatcher"),
    ):
        EnvoyMetrics(lambda: [admin], live=False, namespace="team-a").read("m", ["m-v2"])


def test_a_gateway_that_was_asked_nothing_yet_is_told_from_one_without_statistics() -> None:
    with envoy(f"envoy_cluster_upstream_rq_total{{{ISTIO}}} 0\n") as admin:
        assert EnvoyMetrics(lambda: [admin], live=False, namespace="team-a").read("m", ["m-v2"]) == {}
