"""Figures of what somebody else runs: they are counted at the Service of ours that leads to it, whatever its owner calls it."""

from __future__ import annotations

from mlflow_istio.adapters.envoy.metrics import EnvoyMetrics
from mlflow_istio.adapters.prometheus.series import envoy_families, istio_families
from mlflow_istio.core.analysis.measures import ERRORS, REQUESTS
from tests.unit.adapters.envoy.test_metrics import envoy

LOCAL = """
envoy_cluster_split_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="outbound|80|churn-v1|churn;"} 90
envoy_cluster_split_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="outbound|80|churn-v2|churn-v2-attached;"} 9
envoy_cluster_split_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="outbound|80|churn-v2|churn-v2-attached;"} 1
envoy_cluster_split_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="outbound|80|churn-v2|other-attached;"} 50
"""


def test_envoy_counts_it_at_our_service() -> None:
    with envoy(LOCAL) as admin:
        found = EnvoyMetrics(lambda: [admin]).read("churn", ["churn-v1", "churn-v2"])
        (process,) = found["churn-v2"]
    counted = {name: (one[process][REQUESTS], one[process][ERRORS]) for name, one in found.items()}
    assert counted == {"churn-v1": (90, 0), "churn-v2": (10, 1)}


def test_prometheus_knows_it_by_our_service_not_by_its_workload() -> None:
    for family in istio_families("churn", ["churn-v1", "churn-v2"], "shop", "destination_workload", "5"):
        assert "churn-v2-attached" in family.selector
        theirs = {"destination_service_name": "churn-v2-attached", "destination_workload": "rank-predictor"}
        ours = {"destination_service_name": "churn", "destination_workload": "churn-v1"}
        assert (family.deployment(theirs), family.deployment(ours)) == ("churn-v2", "churn-v1")
        assert "destination_service_name" in family.told_by
    for family in envoy_families("churn", ["churn-v2"], "5"):
        assert "churn-v2-attached" in family.selector
