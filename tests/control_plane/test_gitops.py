"""Git and releases side by side, on the real API server: exports apply, self-heal leaves releases alone, no ownership is left."""

from __future__ import annotations

import os

import pytest
import yaml
from kubernetes.dynamic.exceptions import ConflictError

from mlflow_istio.adapters.kubernetes import KubernetesCluster
from mlflow_istio.adapters.kubernetes.api_server import open_connection
from mlflow_istio.core.basics.objects import FIELD_MANAGER, Object
from mlflow_istio.core.basics.target import Target
from mlflow_istio.releases.deploying import removal
from mlflow_istio.releases.deploying.adoption import adopt
from mlflow_istio.releases.reading import export, views
from tests.contract.model_server import deployment, service
from tests.control_plane.gitops import argo_self_heal, live, server_side_apply
from tests.control_plane.namespaces import fresh_namespace
from tests.control_plane.office import ENDPOINT, Office
from tests.scenarios.place import inside_bounds

pytestmark = pytest.mark.control_plane


def git(office: Office, **options: bool) -> list[Object]:
    """The endpoint's objects as a commit holds them."""
    text = yaml.safe_dump_all(export.exported(office.cluster, ENDPOINT, **options))
    return list(yaml.safe_load_all(text))


def two_versions(office: Office, weight: int) -> None:
    office.deploy(1)
    office.deploy(2)
    office.canary(2, weight)


def test_an_export_applied_elsewhere_gives_the_same_traffic_and_goes_on(office: Office) -> None:
    two_versions(office, 30)
    manifests = git(office)
    assert [obj["kind"] for obj in manifests] == [
        "Service",
        "Deployment",
        "Deployment",
        "DestinationRule",
        "VirtualService",
    ]
    for obj in manifests:
        assert not {"status", "managedFields", "resourceVersion", "uid", "namespace"} & {*obj, *obj["metadata"]}
    with fresh_namespace() as namespace:
        for obj in manifests:
            server_side_apply(obj, namespace, "kubectl", force=False)
        connection = open_connection(Target(kind="istio", place=namespace))
        cluster = KubernetesCluster(connection, gateway=os.environ["MLFLOW_ISTIO_GATEWAY"])
        there = Office(namespace=namespace, cluster=cluster)
        for name in ("m-v1", "m-v2"):
            cluster.wait_ready(name, 60)
        seen = there.count(300)
        assert set(seen) == {"m/1", "m/2"}
        assert inside_bounds(seen["m/2"], 300, 0.30)
        here = views.endpoint_view(office.cluster, ENDPOINT)
        view = views.endpoint_view(cluster, ENDPOINT)
        assert {key: view[key] for key in ("stable", "traffic", "release")} == {
            key: here[key] for key in ("stable", "traffic", "release")
        }
        there.promote()
        assert set(there.count(50)) == {"m/2"}
        cluster.close()


def test_self_heal_with_the_snippet_leaves_a_release_alone_and_without_it_takes_it_back(office: Office) -> None:
    two_versions(office, 10)
    manifests = git(office)
    application = export.argocd(office.cluster, ENDPOINT)
    office.deploy(3)
    office.shift(60)
    assert argo_self_heal(manifests, office.namespace, application) == []
    assert views.endpoint_view(office.cluster, ENDPOINT)["traffic"] == {"m-v1": 40, "m-v2": 60}
    seen = office.count(300)
    assert inside_bounds(seen["m/2"], 300, 0.60)
    assert office.ask({"x-mlflow-deployment": "m-v3"}) == (200, "m/3"), "a subset that came later is there"
    office.promote()
    assert argo_self_heal(manifests, office.namespace, application) == []
    office.rollback()
    assert set(office.count(50)) == {"m/1"}
    office.canary(3, 25)
    office.shift(50)

    unprotected = argo_self_heal(manifests, office.namespace, {})
    assert unprotected == ["DestinationRule/m", "VirtualService/m"], "what the snippet is for"
    assert live(manifests[-1], office.namespace)["spec"]["http"] == manifests[-1]["spec"]["http"]


def test_git_can_hold_the_pods_alone_and_no_snippet_is_needed(office: Office) -> None:
    two_versions(office, 10)
    manifests = git(office, with_traffic=False)
    assert [obj["kind"] for obj in manifests] == ["Service", "Deployment", "Deployment", "DestinationRule"]
    office.shift(40)
    assert argo_self_heal(manifests, office.namespace, {}) == []
    assert views.endpoint_view(office.cluster, ENDPOINT)["traffic"] == {"m-v1": 60, "m-v2": 40}
    assert set(office.count(30)) == {"m/1", "m/2"}
    two_replicas = [
        {**obj, "spec": {**obj["spec"], "replicas": 2}} if obj["metadata"]["name"] == "m-v1" else obj
        for obj in manifests
    ]
    assert argo_self_heal(two_replicas, office.namespace, {}) == ["Deployment/m-v1"]
    office.cluster.wait_ready("m-v1", 60)
    assert set(office.count(30)) == {"m/1", "m/2"}


def owners() -> Object:
    main: Object = {
        "name": "main",
        "match": [{"uri": {"prefix": "/api"}}],
        "rewrite": {"uri": "/invocations"},
        "route": [{"destination": {"host": "web"}}],
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "shop"},
        "spec": {"hosts": ["shop.example"], "gateways": [os.environ["MLFLOW_ISTIO_GATEWAY"]], "http": [main]},
    }


def test_a_route_given_back_leaves_no_field_ownership_and_its_owner_applies_without_conflict(office: Office) -> None:
    office.cluster.apply(service("web"))
    office.cluster.apply(deployment("web", "web-1", version="web/1"))
    office.cluster.wait_ready("web-1", 60)
    server_side_apply(owners(), office.namespace, "owner", force=False)
    adopt(office.context, ENDPOINT, virtual_service="shop", route="main")
    office.deploy(1)
    office.canary(1, 20)
    with pytest.raises(ConflictError, match="mlflow-istio"):
        server_side_apply(changed_by_owner(), office.namespace, "owner", force=False)
    removal.delete_endpoint(office.context, ENDPOINT, force=True)
    after = live(owners(), office.namespace)
    assert after["spec"] == owners()["spec"]
    assert FIELD_MANAGER not in {entry["manager"] for entry in after["metadata"]["managedFields"]}
    stored = server_side_apply(changed_by_owner(), office.namespace, "owner", force=False)
    assert stored["spec"]["http"][0]["timeout"] == "7s"


def changed_by_owner() -> Object:
    obj = owners()
    obj["spec"]["http"][0]["timeout"] = "7s"
    return obj
