"""A slow start as istiod makes it (``setWarmup``, ``setSlowStartConfig`` in its cluster_traffic_policy.go)."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.adapters.local.envoy.balancing import balancing
from mlflow_istio.adapters.local.supported_fields import read
from mlflow_istio.errors import InvalidInput


def of(settings: Any) -> Any:
    rule = {"kind": "DestinationRule", "metadata": {"name": "churn"}, "spec": {"loadBalancer": settings}}
    return balancing(read(rule).member("spec").member("loadBalancer"))


def slow(window: str, aggression: float, least: float) -> dict[str, Any]:
    return {
        "slow_start_window": window,
        "aggression": {"default_value": aggression, "runtime_key": "("},
        "min_weight_percent": {"value": least},
    }


@pytest.mark.parametrize(
    ("settings", "policy", "part", "config"),
    [
        ({"warmup": {"duration": "1m"}}, "LEAST_REQUEST", "least_request_lb_config", slow("60s", 1.0, 10.0)),
        (
            {"simple": "ROUND_ROBIN", "warmup": {"duration": "500ms", "minimumPercent": 0, "aggression": 2.5}},
            "ROUND_ROBIN",
            "round_robin_lb_config",
            slow("0.5s", 2.5, 0.0),
        ),
        ({"warmupDurationSecs": "30s"}, "LEAST_REQUEST", "least_request_lb_config", {"slow_start_window": "30s"}),
    ],
)
def test_a_slow_start_has_istiods_defaults(settings: Any, policy: str, part: str, config: Any) -> None:
    assert of(settings) == {"lb_policy": policy, part: {"slow_start_config": config}}


@pytest.mark.parametrize(
    ("settings", "path", "problem"),
    [
        ({"simple": "RANDOM", "warmup": {"duration": "1s"}}, "warmup", "has no effect with simple RANDOM"),
        ({"simple": "RANDOM", "warmupDurationSecs": "1s"}, "warmupDurationSecs", "has no effect with simple RANDOM"),
        (
            {"consistentHash": {"useSourceIp": True}, "warmup": {"duration": "1s"}},
            "warmup",
            "no effect with consistentHash",
        ),
        ({"warmup": {"duration": "1s"}, "warmupDurationSecs": "1s"}, "warmupDurationSecs", "can't stand beside warmup"),
        ({"warmup": {"minimumPercent": 5}}, "warmup.duration", "must be there, such as 60s"),
        ({"warmup": {"duration": "1s", "aggression": 0}}, "warmup.aggression", "must be above 0"),
        ({"warmup": {"duration": "1s", "minimumPercent": 101}}, "warmup.minimumPercent", "must be between 0 and 100"),
    ],
)
def test_what_would_have_no_effect_or_istio_refuses_is_named(settings: Any, path: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        of(settings)
    assert f"spec.loadBalancer.{path} " in caught.value.message
    assert problem in caught.value.message
