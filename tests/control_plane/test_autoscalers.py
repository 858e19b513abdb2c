"""Whose number of replicas is whose, on the real API server: what our role may see of it, and what a cluster without KEDA says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.autoscalers import Autoscaler, autoscalers
from mlflow_istio.errors import Forbidden
from tests.control_plane.namespaces import admin
from tests.control_plane.office import Office, open_office
from tests.control_plane.test_rights import role_rules, set_rules, without

pytestmark = pytest.mark.control_plane

HPA: Object = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "auto"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "churn-v2"},
        "minReplicas": 2,
        "maxReplicas": 7,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def place() -> Iterator[Office]:
    with open_office(patience=1.0) as office, admin() as api:
        client.AutoscalingV2Api(api).create_namespaced_horizontal_pod_autoscaler(office.namespace, HPA)
        yield office


def test_an_autoscaler_is_read_with_the_rights_of_our_role(place: Office) -> None:
    found = autoscalers({kind: place.cluster.list(kind, {}) for kind in ("HorizontalPodAutoscaler",)})
    assert found == {"churn-v2": Autoscaler(kind="HorizontalPodAutoscaler", name="auto", low=2, high=7)}


def test_a_cluster_without_keda_has_no_scaled_objects(place: Office) -> None:
    assert place.cluster.list("ScaledObject", {}) == []


def test_no_right_to_list_them_is_said(place: Office) -> None:
    rules = role_rules()
    review = {"group": "autoscaling", "resource": "horizontalpodautoscalers", "verb": "list"}
    set_rules(place, without(rules, "horizontalpodautoscalers", "list"), review, allowed=False)
    try:
        with pytest.raises(Forbidden, match="may not list horizontalpodautoscalers.autoscaling"):
            place.cluster.list("HorizontalPodAutoscaler", {})
    finally:
        set_rules(place, rules, review, allowed=True)
