"""Calls over gRPC as the local mesh's Envoy and Istio count them: by the status at their end, each once."""

from __future__ import annotations

import pytest

from mlflow_istio.adapters.envoy.metrics import read_samples
from mlflow_istio.adapters.prometheus.series import envoy_families, istio_families
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS
from mlflow_istio.core.basics.grpc_status import GRPC_CODES, LIKE, class_of_status

CLUSTER = "outbound|80|churn-v2|churn"


def labels(route: str = "mlflow-istio.churn.split", status: str = "0", flags: str = "-") -> dict[str, str]:
    return {"envoy_cluster_name": CLUSTER, "route": route, "grpc_status": status, "flags": flags}


def line(value: int, **said: str) -> str:
    inside = ",".join(f'{name}="{text}"' for name, text in labels(**said).items())
    return f"envoy_mlflow_istio_calls{{{inside}}} {value}"


def test_a_call_counts_by_its_status_on_live_routes_alone() -> None:
    text = "\n".join(
        (
            line(90),
            line(5, status="13"),
            line(4, status="3"),
            line(3, route="mlflow-istio.churn.arm.churn-v2", status="14"),
            line(7, route="mlflow-istio.churn.pin.churn-v2"),
            line(7, flags="FI", status="14"),
            line(7, status="-", flags="DC"),
            f'envoy_cluster_split_calls_upstream_rq_xx{{envoy_response_code_class="2",envoy_cluster_name="{CLUSTER}"}} 99',
            f'envoy_cluster_split_calls_upstream_rq_time_bucket{{envoy_cluster_name="{CLUSTER}",le="10"}} 42',
        )
    )
    counted = [(one.tree, one.answers, one.value) for one in read_samples(text) if one.series == REQUESTS]
    assert counted == [("split", "2", 90), ("split", "5", 5), ("split", "4", 4), ("arm", "5", 3)]
    assert [(one.tree, one.value) for one in read_samples(text) if one.series != REQUESTS] == [("split", 42)]


@pytest.mark.parametrize(("status", "failed"), [("0", False), ("13", True), ("14", True), ("3", False), ("77", True)])
def test_prometheus_says_the_same(status: str, failed: bool) -> None:
    family = envoy_families("churn", ["churn-v2"], "5")[1]
    assert family.counters(labels(status=status)) == {REQUESTS: True, ERRORS: failed, ASSIGNMENTS: True}
    istio = istio_families("churn", ["churn-v2"], "shop", "destination_workload", "5")[0]
    series = {"response_code": "200", "grpc_response_status": status}
    assert istio.counters(series) == {REQUESTS: True, ERRORS: failed}


def test_http_has_no_status_of_grpc() -> None:
    istio = istio_families("churn", ["churn-v2"], "shop", "destination_workload", "5")[0]
    assert istio.counters({"response_code": "200", "grpc_response_status": ""}) == {REQUESTS: True, ERRORS: False}
    assert istio.counters({"response_code": "503", "grpc_response_status": ""}) == {REQUESTS: True, ERRORS: True}


def test_each_status_has_its_class() -> None:
    assert LIKE.keys() == GRPC_CODES.keys()
    versions = {name for name, number in GRPC_CODES.items() if class_of_status(str(number)) == "5"}
    assert versions == {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
    assert class_of_status("-") == ""
