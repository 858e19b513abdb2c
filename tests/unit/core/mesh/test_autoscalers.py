"""Who sets a Deployment's replicas. Field names and defaults as the APIs document them (autoscaling/v2; KEDA's ScaledObject)."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.mesh.autoscalers import Autoscaler, autoscalers


def an_object(name: str, spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


TO_V1 = {"scaleTargetRef": {"kind": "Deployment", "name": "v1"}}


@pytest.mark.parametrize(
    ("kind", "spec", "low", "high"),
    [
        ("HorizontalPodAutoscaler", {**TO_V1, "minReplicas": 2, "maxReplicas": 7}, 2, 7),
        ("HorizontalPodAutoscaler", {**TO_V1, "maxReplicas": 7}, 1, 7),
        ("ScaledObject", {**TO_V1, "minReplicaCount": 2, "maxReplicaCount": 7}, 2, 7),
        ("ScaledObject", {"scaleTargetRef": {"name": "v1"}}, 0, 100),
    ],
)
def test_bounds_are_read_with_the_apis_defaults(kind: str, spec: Any, low: int, high: int) -> None:
    found = autoscalers({kind: [an_object("auto", spec)]})
    assert found == {"v1": Autoscaler(kind=kind, name="auto", low=low, high=high)}
    assert str(found["v1"]) == f"{kind} 'auto' ({low} to {high})"


def test_the_autoscaler_that_keda_makes_is_not_named_before_its_own() -> None:
    keda, made = an_object("own", TO_V1), an_object("keda-hpa-own", {**TO_V1, "maxReplicas": 100})
    found = autoscalers({"HorizontalPodAutoscaler": [made], "ScaledObject": [keda]})
    assert found["v1"].name == "own"


@pytest.mark.parametrize(
    "spec", [{"scaleTargetRef": {"kind": "StatefulSet", "name": "v1"}}, {"scaleTargetRef": "v1"}, None]
)
def test_what_scales_no_deployment_is_nobodys(spec: Any) -> None:
    assert autoscalers({"HorizontalPodAutoscaler": [an_object("auto", spec)]}) == {}
