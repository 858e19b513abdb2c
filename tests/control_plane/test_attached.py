"""What somebody else runs, as a deployment on the real API server and istiod: its objects are never written.

KServe's controller does not run here: a Deployment and a Service are made as its Standard mode makes them (0.20,
``reconcilers/service/service_reconciler.go`` and ``constants.PredictorServiceName``), the Service without a cluster address.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from mlflow_istio.core.basics.objects import FIELD_MANAGER, Object
from mlflow_istio.core.mesh.attached import parse_attach
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.core.runtime.profiles import ATTACHED
from mlflow_istio.errors import NotReady, NotRouted
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.reading.doctor import examine
from tests.contract.model_server import deployment, service
from tests.control_plane.namespaces import admin
from tests.control_plane.office import Office
from tests.testbed.client import wait_for

pytestmark = pytest.mark.control_plane

PREDICTOR = "m-predictor"


def kserves(office: Office) -> None:
    """What KServe keeps for an InferenceService ``m``, made by the admin."""
    label = {"app": f"isvc.{PREDICTOR}"}
    obj = deployment(PREDICTOR, PREDICTOR, version="nobody/0", replicas=2)
    obj["spec"]["selector"]["matchLabels"] = label
    obj["spec"]["template"]["metadata"]["labels"] = {**label, "component": "predictor"}
    front = service(PREDICTOR)
    front["spec"] = {**front["spec"], "selector": label, "clusterIP": "None"}
    with admin() as api:
        client.AppsV1Api(api).create_namespaced_deployment(office.namespace, obj)
        client.CoreV1Api(api).create_namespaced_service(office.namespace, front)
    office.cluster.wait_ready(PREDICTOR, 60)


def raw(office: Office) -> tuple[Any, Any]:
    """Both objects as the API server has them."""
    with admin() as api:
        plain = api.sanitize_for_serialization
        return (
            plain(client.AppsV1Api(api).read_namespaced_deployment(PREDICTOR, office.namespace)),
            plain(client.CoreV1Api(api).read_namespaced_service(PREDICTOR, office.namespace)),
        )


def writers(obj: Object) -> set[str]:
    return {entry["manager"] for entry in obj["metadata"]["managedFields"]}


def settled(office: Office) -> tuple[Any, Any]:
    """Both objects once the controllers have written their status."""
    found = raw(office)

    def same() -> bool:
        nonlocal found
        before, found = found, raw(office)
        return before == found

    wait_for("controllers that have nothing more to say of them", same)
    return found


def attach(office: Office, what: str = "inferenceservice/m", **options: Any) -> None:
    office.deploy(2, **{"attach": parse_attach(what), "runtime": ATTACHED, "pod": None, **options})


def scale(office: Office, replicas: int) -> None:
    with admin() as api:
        body = {"spec": {"replicas": replicas}}
        client.AppsV1Api(api).patch_namespaced_deployment_scale(PREDICTOR, office.namespace, body)


def test_a_predictor_is_released_promoted_and_given_back_and_never_written(office: Office) -> None:
    office.deploy(1)
    kserves(office)
    before = settled(office)
    attach(office, strategy="canary", traffic_request=TrafficRequest(weight=50))
    seen = office.count(80)
    assert set(seen) == {"m/1", "m/2"}, seen
    assert office.count(10, {"x-mlflow-deployment": "m-v2"}) == {"m/2": 10}
    office.promote()
    assert office.count(30) == {"m/2": 30}
    assert {one.code for one in examine(office.context, "m") if one.what == "m-v2"} == set()
    office.rollback()
    assert office.count(30) == {"m/1": 30}
    removal.delete(office.context, "m-v2")
    after = raw(office)
    for was, now in zip(before, after, strict=True):
        assert now["metadata"]["resourceVersion"] == was["metadata"]["resourceVersion"]
        assert now["metadata"].get("generation") == was["metadata"].get("generation")
        assert FIELD_MANAGER not in writers(now)
    for kind in ("Service", "DestinationRule"):
        assert office.cluster.get(kind, "m-v2-attached") is None
    assert removal.delete_endpoint(office.context, "m")
    assert [obj["metadata"]["resourceVersion"] for obj in raw(office)] == [
        obj["metadata"]["resourceVersion"] for obj in before
    ]


@pytest.mark.parametrize("what", [f"deployment/{PREDICTOR}", f"service/{PREDICTOR}"])
def test_it_may_be_the_first_and_the_way_back_stays_open_when_its_owner_scales_it_away(
    office: Office, what: str
) -> None:
    kserves(office)
    attach(office, what)
    assert office.count(10) == {"m/2": 10}
    office.deploy(1)
    office.canary(1, 50)
    assert set(office.count(60)) == {"m/1", "m/2"}
    office.promote()
    scale(office, 0)
    wait_for("its pods to be gone", lambda: settled(office)[0]["status"].get("replicas") is None)
    with pytest.raises(NotReady, match="has no pods: it is gone, or scaled to 0"):
        office.rollback()
    assert office.count(10) == {"m/1": 10}
    scale(office, 1)
    office.cluster.wait_ready(PREDICTOR, 60)
    office.rollback()
    assert office.count(10) == {"m/2": 10}


def test_a_port_that_does_not_answer_leaves_nothing_behind(office: Office) -> None:
    office.deploy(1)
    kserves(office)
    with pytest.raises(NotRouted, match="it was detached again and no user was sent to it: look at 'port'"):
        attach(office, f"deployment/{PREDICTOR}", attach_port=9999, timeout=3.0)
    assert office.cluster.get("Deployment", "m-v2") is None
    assert office.cluster.get("Service", "m-v2-attached") is None
    assert office.count(10) == {"m/1": 10}
    attach(office, f"deployment/{PREDICTOR}", runtime=replace(ATTACHED, readiness="/ping"))
    assert office.count(5, {"x-mlflow-deployment": "m-v2"}) == {"m/2": 5}
