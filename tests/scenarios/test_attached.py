"""What somebody else runs as a deployment: released under load, judged by its own figures, taken away, never written.

KServe's controller runs in no test: a Deployment and a Service of its Standard mode's names stand in its place.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_istio.client.errors import IstioDeploymentError
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.verbs import Verbs
from tests.contract.model_server import deployment, service
from tests.scenarios.place import Place

pytestmark = pytest.mark.timeout(600)

PREDICTOR = "m-live-predictor"
BY_HEADER = {"strategy": "ab", "header": "x-arm", "values": {"m-v1": "one", "m-live": "live"}, "weight": 50}
ATTACH = {"attach": "inferenceservice/m-live"}


@pytest.fixture
def cluster(settled: Place) -> Iterator[Cluster]:
    """The target's cluster with what KServe would keep for an InferenceService ``m-live``."""
    place = settled
    found = Verbs(place.target)._read().cluster
    found.apply(deployment(PREDICTOR, PREDICTOR, version="nobody/0", replicas=2))
    found.apply(service(PREDICTOR))
    found.wait_ready(PREDICTOR, 60)
    yield found
    if place.client.get_endpoint("m")["release"]:
        place.do(action="abort")
    place.client.delete_deployment("m-live")
    for kind in ("Service", "Deployment"):
        found.delete(kind, PREDICTOR)


def stored(cluster: Cluster) -> list[Object]:
    found = [cluster.get(kind, PREDICTOR) or {} for kind in ("Deployment", "Service")]
    return [{"metadata": obj.get("metadata"), "spec": obj.get("spec")} for obj in found]


def without_status_of_controllers(objects: list[Object]) -> list[Object]:
    """Without what controllers count up when they write a status."""
    kept = []
    for obj in objects:
        metadata = {
            key: value for key, value in obj["metadata"].items() if key not in ("resourceVersion", "managedFields")
        }
        kept.append({**obj, "metadata": metadata})
    return kept


def test_it_takes_part_in_a_canary_under_load_and_nobody_notices(place: Place, cluster: Cluster) -> None:
    before = stored(cluster)
    with place.load(score=True) as seen:
        created = place.client.create_deployment(
            "m-live", "models:/m/3", endpoint="m", config={**ATTACH, "strategy": "canary", "weight": 30}
        )
        assert created["attached"] == "inferenceservice/m-live"
        assert (created["replicas"], created["ready"]) == (2, 2)
        got = place.send(300)
        assert not got.failures
        assert set(got.versions) == {"m/1", "m/3"}
        place.do(action="promote")
        assert set(place.send(50).versions) == {"m/3"}
        place.do(action="rollback")
        assert set(place.send(50).versions) == {"m/1"}
        place.client.delete_deployment("m-live")
    assert not seen.failures
    assert without_status_of_controllers(stored(cluster)) == without_status_of_controllers(before)
    assert place.client.history("m")[-1]["action"] == "remove"


def test_an_arm_keeps_its_users(place: Place, cluster: Cluster) -> None:
    del cluster
    place.client.create_deployment(
        "m-live",
        "models:/m/3",
        endpoint="m",
        config={**ATTACH, **BY_HEADER},
    )
    assert set(place.send(20, {"x-arm": "live"}).versions) == {"m/3"}
    assert set(place.send(20, {"x-arm": "one"}).versions) == {"m/1"}


def test_a_release_judges_it_by_its_own_figures(place: Place, cluster: Cluster) -> None:
    del cluster
    with place.load(workers=3):
        done = place.client.release(
            "m",
            "models:/m/3",
            **ATTACH,
            name="m-live",
            metrics="envoy",
            steps="50",
            interval=1,
            hold=2,
            min_requests=20,
            warmup=0,
            warm="none",
            phase=0,
            control="none",
            capacity="fixed",
            analysis='[{"guard": "errors"}]',
            deadline=120,
        )
    assert done["outcome"] == "promoted", done
    place.do(action="rollback")


def test_one_whose_owner_scales_it_away_gets_nobody_more(place: Place, cluster: Cluster) -> None:
    place.client.create_deployment(
        "m-live", "models:/m/3", endpoint="m", config={**ATTACH, "strategy": "canary", "weight": 30}
    )
    cluster.edit("Deployment", PREDICTOR, lambda obj: {**(obj or {}), "spec": {**(obj or {})["spec"], "replicas": 0}})
    with pytest.raises(IstioDeploymentError, match="has no pods: it is gone, or scaled to 0"):
        place.do(weight=60)
    place.do(action="abort")
    assert set(place.send(50).versions) == {"m/1"}
