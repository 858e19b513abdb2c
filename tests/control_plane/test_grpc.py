"""An endpoint that speaks gRPC, in pods behind the real istiod and Envoy: probes, pins, weights and faults go by gRPC."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from scipy import stats

from mlflow_istio.calls.grpc_calls import Reply, call
from mlflow_istio.calls.grpc_infer import request_message
from mlflow_istio.calls.scoring import score
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.policy.settings import Fault
from mlflow_istio.releases.context import address_of, pin_headers
from mlflow_istio.releases.moving.policy import end_fault, start_fault
from tests.control_plane.foreign_servers import V2, context_of, deployed
from tests.control_plane.office import ENDPOINT, Office

pytestmark = pytest.mark.control_plane

INPUT = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP64", "data": [1.0, 2.5]}]}
# A right split leaves these bounds about once in a hundred thousand.
CONFIDENCE = 1 - 1e-5


def ask(office: Office) -> Reply:
    address = address_of(office.cluster, ENDPOINT)
    return call(address.url, address.scoring, request_message(INPUT), headers=address.headers, timeout=30)


def test_a_grpc_endpoint_is_released_and_faulted(office: Office) -> None:
    deployed(office, 1, V2)
    deployed(office, 2, V2, strategy="canary", traffic_request=TrafficRequest(weight=50))
    replies = [ask(office) for _ in range(300)]
    assert {reply.code for reply in replies} == {"OK"}
    versions = Counter(reply.metadata["x-mlflow-model-version"] for reply in replies)
    low, high = stats.binom.interval(CONFIDENCE, len(replies), 0.5)
    assert versions.keys() == {"m/1", "m/2"}
    assert low <= versions["m/2"] <= high
    address = address_of(office.cluster, ENDPOINT, "m-v2")
    answer = score(address, INPUT, headers=pin_headers(office.cluster, ENDPOINT, "m-v2"), timeout=30)
    assert answer["outputs"][0]["data"] == [3.5]
    context = context_of(office)
    until = context.clock.now() + timedelta(minutes=5)
    start_fault(context, ENDPOINT, Fault(grpc_status="RESOURCE_EXHAUSTED", percentage=100.0, until=until))
    assert {ask(office).code for _ in range(5)} == {"RESOURCE_EXHAUSTED"}
    end_fault(context, ENDPOINT)
    office.rollback()
    assert {ask(office).metadata["x-mlflow-model-version"] for _ in range(50)} == {"m/1"}
