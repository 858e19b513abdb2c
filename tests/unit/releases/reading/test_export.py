"""What an export holds, and what it leaves to a running cluster."""

from __future__ import annotations

import pytest

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.inspection.difference import difference
from mlflow_istio.core.moves.claims import Claim
from mlflow_istio.errors import InvalidInput, NotFound
from mlflow_istio.releases.deploying.sharing import HostShare
from mlflow_istio.releases.reading.export import argocd, exported
from tests.support.in_memory import World, a_world, with_canary, with_shop


def test_an_export_has_routes_and_release_but_nothing_of_this_moment() -> None:
    world = with_canary()
    world.registry.down = True
    from mlflow_istio.core.moves.strategies import TrafficRequest
    from mlflow_istio.releases.moving import shifting

    shifting.shift(world.context, "churn", TrafficRequest(weight=20))
    objects = exported(world.cluster, "churn")
    assert [obj["kind"] for obj in objects] == ["Service", *["Deployment"] * 3, "DestinationRule", "VirtualService"]
    assert set(objects[-1]["metadata"]["annotations"]) == {
        "mlflow-istio.org/state.churn",
        "mlflow-istio.org/release.churn",
        "mlflow-istio.org/deployed.churn",
    }
    assert all("status" not in obj and "resourceVersion" not in obj["metadata"] for obj in objects)


def test_without_traffic_there_is_nothing_that_releases_change() -> None:
    objects = exported(with_canary().cluster, "churn", with_traffic=False)
    assert [obj["kind"] for obj in objects] == ["Service", *["Deployment"] * 3, "DestinationRule"]
    assert objects[-1]["spec"] == {"host": "churn"}


def test_an_owners_object_is_not_exported_and_argocd_leaves_its_routes_alone() -> None:
    world = with_shop(deployed=("churn-v1",))
    with pytest.raises(InvalidInput, match="VirtualService 'shop', which stays its owner's"):
        exported(world.cluster, "churn")
    kinds = [obj["kind"] for obj in exported(world.cluster, "churn", with_traffic=False)]
    assert kinds == ["Service", "Deployment", "DestinationRule"]
    entries = argocd(world.cluster, "churn")["spec"]["ignoreDifferences"]
    assert [(entry["kind"], entry["name"]) for entry in entries] == [
        ("VirtualService", "shop"),
        ("DestinationRule", "churn"),
    ]
    assert entries[0]["jsonPointers"][:2] == ["/spec/http", "/metadata/annotations/mlflow-istio.org~1state.churn"]


def test_the_root_of_a_shared_host_is_exported_by_its_own_name() -> None:
    world = World()
    world.deploy("churn-v1", share=HostShare(under="models", claim=Claim(path="/api")))
    root = exported(world.cluster, "models")
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in root] == [
        ("Service", "models"),
        ("VirtualService", "models"),
    ]
    with pytest.raises(NotFound, match="no endpoint 'other'"):
        exported(world.cluster, "other")


def with_variable(name: str, value: str) -> tuple[World, Object]:
    """A world whose standing Deployment holds a variable."""
    world = a_world("churn-v1")
    found = world.cluster.get("Deployment", "churn-v1")
    assert found is not None
    container = found["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "FIRST", "valueFrom": {}}, {"name": name, "value": value}]
    world.cluster.edit("Deployment", "churn-v1", lambda _: found)
    return world, found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "http://ada:secret@host"),
        ("REGISTRY_URI", "postgresql://host/db?user=ada&password=secret"),
        ("AMQP_URL", "amqp://guest:secret@mq:5672"),
    ],
)
def test_a_password_in_a_standing_deployment_is_refused_for_git_and_masked_in_differences(
    name: str, value: str
) -> None:
    world, deployment = with_variable(name, value)
    for with_traffic in (True, False):
        with pytest.raises(InvalidInput, match=rf"'churn-v1' .*'{name}'.*env_from_secret=.*\"{name}\"") as refusal:
            exported(world.cluster, "churn", with_traffic=with_traffic)
        assert "secret@" not in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert "secret" not in difference("Deployment", "churn-v1", None, deployment)


@pytest.mark.parametrize(
    "value", ["oci://reg:5000/img@sha256:abc", "http://mail/?to=a@b", "http://host:8080/a@b", "$$5"]
)
def test_a_users_variable_is_exported_as_it_stands(value: str) -> None:
    world, deployment = with_variable("MINE", value)
    exports = [obj for obj in exported(world.cluster, "churn") if obj["kind"] == "Deployment"]
    assert [obj["spec"] for obj in exports] == [deployment["spec"]]
