"""An update changes the pods of a deployment: never its traffic, never its version."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.errors import (
    InvalidInput,
    MlflowIstioError,
    NotFound,
    NotReady,
    StateConflict,
)
from mlflow_istio.releases.deploying.deployments import update
from mlflow_istio.releases.moving import shifting
from tests.support.in_memory import World, with_canary


def test_an_update_changes_pods_and_neither_traffic_nor_version() -> None:
    world = with_canary()
    before = world.endpoint()
    after = update(
        world.context, "churn-v2", model_uri="models:/churn/2", replicas=3, env={"A": "1", "B": "2"}, image="new"
    )
    assert world.endpoint() == before
    assert after["spec"]["replicas"] == 3
    (container,) = after["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert (container["image"], env["A"], env["B"]) == ("new", "1", "2")
    assert env["MLFLOW_ISTIO_MODEL_URI"] == "models:/churn/2"
    again = update(world.context, "churn-v2", env={"A": "9"})
    env = {entry["name"]: entry["value"] for entry in again["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (env["A"], env["B"]) == ("9", "2")


def test_a_sidecar_of_the_users_stays() -> None:
    world = with_canary()
    found = world.cluster.get("Deployment", "churn-v2")
    assert found is not None
    found["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "s"})
    world.cluster.apply(found)
    after = update(world.context, "churn-v2", image="new")
    assert [c["image"] for c in after["spec"]["template"]["spec"]["containers"]] == ["new", "s"]


@pytest.mark.parametrize(
    ("name", "changes", "error", "words"),
    [
        ("churn-v9", {"replicas": 2}, NotFound, "no deployment 'churn-v9' in in-memory: did you mean 'churn-v"),
        ("churn-v2", {}, InvalidInput, "nothing to update on deployment 'churn-v2': give replicas, env or image"),
        ("churn-v2", {"model_uri": "models:/churn/3"}, StateConflict, "'churn-v2' serves churn/2; a deployment never"),
        ("churn-v2", {"replicas": 0}, StateConflict, "'churn-v2' has traffic or is stable"),
        ("churn-v1", {"replicas": 0}, StateConflict, "'churn-v1' has traffic or is stable"),
    ],
)
def test_an_update_that_would_hurt_is_refused(
    name: str, changes: dict[str, Any], error: type[MlflowIstioError], words: str
) -> None:
    world = with_canary()
    world.cluster.writes.clear()
    with pytest.raises(error, match=words):
        update(world.context, name, **changes)
    assert world.cluster.writes == []


def test_the_stable_version_is_not_scaled_away_under_a_candidate_that_has_all_the_traffic() -> None:
    """An abort would send everybody to nothing."""
    world = with_canary(100)
    with pytest.raises(StateConflict, match="'churn-v1' has traffic or is stable"):
        update(world.context, "churn-v1", replicas=0)


def test_a_deployment_without_traffic_may_be_scaled_to_nothing() -> None:
    world = with_canary()
    update(world.context, "churn-v3", replicas=0)
    with pytest.raises(NotReady, match="deployment 'churn-v3' has no ready replica"):
        shifting.start(
            world.context,
            "churn",
            strategy="canary",
            candidates=("churn-v3",),
            traffic_request=TrafficRequest(weight=5),
            supersede=True,
        )
    assert world.endpoint().traffic.weights == {"churn-v1": 90, "churn-v2": 10}, "the open release was given up for it"


def test_a_deployment_whose_endpoint_is_not_there_yet_may_be_updated() -> None:
    world = World()
    world.deploy("churn-v1", wait=False)
    assert update(world.context, "churn-v1", replicas=0)["spec"]["replicas"] == 0


def test_new_pods_that_do_not_come_up_are_said_unless_not_waited_for() -> None:
    world = with_canary()
    world.cluster.unready.add("churn-v2")
    update(world.context, "churn-v2", replicas=3, wait=False)
    with pytest.raises(NotReady):
        update(world.context, "churn-v2", replicas=4)


def test_a_deployment_that_goes_away_under_an_update_is_said() -> None:
    world = with_canary()

    def delete_first(kind: str, name: str) -> None:
        world.cluster.delete(kind, name)

    world.cluster.before_write = delete_first
    with pytest.raises(NotFound, match="there is no deployment 'churn-v3' any more"):
        update(world.context, "churn-v3", replicas=2)
