"""Which of Envoy's counters are a deployment's, in every spelling that Envoys give them."""

from __future__ import annotations

import pytest

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics, EnvoySample, read_samples
from mlflow_istio.errors import MetricsError

CLUSTER = 'envoy_cluster_name="outbound|80|m-v2|m"'


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
        # Istio's own bootstrap does not, and has other names for the labels.
        (
            'envoy_cluster_upstream_rq_xx{response_code_class="5",cluster_name="outbound|80|m-v2|m.team-a.svc.cluster.local;"} 7',
            sample(namespace="team-a", answers="5"),
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
