"""Which routes carry live traffic, and how finely their latencies are counted."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from mlflow_istio.adapters.local.envoy.stats import EDGES_MS, live_routes
from mlflow_istio.core.basics.objects import Object


def a_virtual_service(*names: str, **annotations: str) -> Object:
    return {"metadata": {"name": "m", "annotations": annotations}, "spec": {"http": [{"name": name} for name in names]}}


def test_split_and_arms_are_live_and_nothing_else_of_ours_is() -> None:
    names = [
        "mlflow-istio.m.probe",
        "mlflow-istio.m.pin.m-v1",
        "mlflow-istio.m.arm.m-v2",
        "mlflow-istio.m.split",
        "theirs",
    ]
    assert live_routes(a_virtual_service(*names)) == {"mlflow-istio.m.arm.m-v2": "arm", "mlflow-istio.m.split": "split"}


def test_an_adopted_route_is_live_by_the_name_that_the_endpoint_says() -> None:
    adopted = {"mlflow-istio.org/state.m": json.dumps({"route": "users-own"})}
    assert live_routes(a_virtual_service("users-own", "other", **adopted)) == {"users-own": "split"}


def test_a_deployment_called_split_does_not_make_its_pin_live() -> None:
    assert live_routes(a_virtual_service("mlflow-istio.m.pin.split", "mlflow-istio.m.pin.arm")) == {}


@pytest.mark.parametrize("slowdown", [1.2, 1.25, 1.5])
def test_a_slowdown_of_a_fifth_crosses_an_edge_wherever_it_was(slowdown: float) -> None:
    assert all(upper / lower < slowdown for lower, upper in pairwise(EDGES_MS) if lower >= 1)
    assert EDGES_MS[-1] > 60_000
