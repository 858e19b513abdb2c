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
            line(2, status="", flags="DR"),
            line(1, status="2", flags="DC"),
            line(7, status="-"),
            f'envoy_cluster_split_calls_upstream_rq_xx{{envoy_response_code_class="2",envoy_cluster_name="{CLUSTER}"}} 99',
            f'envoy_cluster_split_calls_upstream_rq_time_bucket{{envoy_cluster_name="{CLUSTER}",le="10"}} 42',
        )
    )
    counted = [(one.tree, one.answers, one.value) for one in read_samples(text) if one.series == REQUESTS]
    assert counted == [
        ("split", "2", 90),
        ("split", "5", 5),
        ("split", "4", 4),
        ("arm", "5", 3),
        ("split", "4", 2),
        ("split", "4", 1),
    ]
    assert [(one.tree, one.value) for one in read_samples(text) if one.series != REQUESTS] == [("split", 42)]


CALLS = [
    *((str(number), "-", str(LIKE[name])[0]) for name, number in GRPC_CODES.items()),
    ("77", "-", "5"),
    ("14", "UC", "5"),
    ("2", "UC", "5"),  # cut in its midst by the server
    ("2", "DR", "4"),  # by the caller
    ("", "DR", "4"),
    ("", "DC", "4"),
    ("", "UF,DPE", "4"),
]


@pytest.mark.parametrize("errors", ["5", "45"])
@pytest.mark.parametrize(("status", "flags", "answers"), CALLS)
def test_every_end_of_a_call_counts_the_same_at_each_source(status: str, flags: str, answers: str, errors: str) -> None:
    failed = answers in tuple(errors)
    local = envoy_families("churn", ["churn-v2"], errors)[1]
    assert local.counters(labels(status=status, flags=flags)) == {REQUESTS: True, ERRORS: failed, ASSIGNMENTS: True}
    (sample,) = read_samples(line(7, status=status, flags=flags))
    assert (sample.answers in tuple(errors)) is failed
    istio = istio_families("churn", ["churn-v2"], "shop", "destination_workload", errors, "grpc")[0]
    series = {"response_code": "200" if status else "0", "grpc_response_status": status, "response_flags": flags}
    assert istio.counters(series) == {REQUESTS: True, ERRORS: failed}


def test_what_is_no_server_of_grpc_counts_by_the_status_that_envoy_makes_of_it() -> None:
    """404 of a server that has no such path is UNIMPLEMENTED to callers, and 503 UNAVAILABLE."""
    istio = istio_families("churn", ["churn-v2"], "shop", "destination_workload", "5", "grpc")[0]
    for code, status in (("404", "12"), ("503", "14")):
        assert istio.counters({"response_code": code, "grpc_response_status": status}) == {REQUESTS: True, ERRORS: True}


def test_what_is_sent_by_another_protocol_makes_no_evidence() -> None:
    """Istio calls a request one of gRPC by its content-type, which a stranger may choose."""
    for family in istio_families("churn", ["churn-v2"], "shop", "destination_workload", "5", "grpc"):
        assert 'request_protocol="grpc"' in family.selector
    http = istio_families("churn", ["churn-v2"], "shop", "destination_workload", "5")[0]
    called = {"request_protocol": "grpc", "response_code": "404", "grpc_response_status": "12", "response_flags": "-"}
    assert http.counters(called) == {REQUESTS: True, ERRORS: False}


def test_http_has_no_status_of_grpc() -> None:
    istio = istio_families("churn", ["churn-v2"], "shop", "destination_workload", "45")[0]
    for code, flags, failed in (
        ("200", "-", False),
        ("200", "DC", False),
        ("404", "-", True),
        ("503", "UF", True),
        ("0", "DC", True),
    ):
        series = {"response_code": code, "grpc_response_status": "", "response_flags": flags}
        assert istio.counters(series) == {REQUESTS: True, ERRORS: failed}


def test_each_status_has_its_class() -> None:
    assert LIKE.keys() == GRPC_CODES.keys()
    versions = {name for name, number in GRPC_CODES.items() if class_of_status(str(number)) == "5"}
    assert versions == {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
    assert class_of_status("-") == ""
