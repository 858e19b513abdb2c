"""Who may do what: istiod's own validator, and the API server's RBAC."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from kubernetes import client
from kubernetes.client.rest import ApiException

from tests.testbed.client import wait_for
from tests.testbed.workloads import ISTIO, Cluster, Endpoint

pytestmark = pytest.mark.control_plane


def test_istio_refuses_a_negative_weight_and_nothing_is_stored(cluster: Cluster) -> None:
    endpoint = Endpoint(cluster=cluster, host="model.example")

    with pytest.raises(ApiException) as refused:
        cluster.create_custom("virtualservices", endpoint.virtual_service({"v1": -5, "v2": 105}, change="bad"))

    assert refused.value.status == HTTPStatus.BAD_REQUEST
    assert json.loads(refused.value.body)["message"] == (
        'admission webhook "validation.istio.io" denied the request: configuration is invalid: weight -5 < 0'
    )
    stored = cluster.custom.list_namespaced_custom_object(*ISTIO, cluster.namespace, "virtualservices")
    assert stored["items"] == []


def test_the_least_user_may_do_what_a_role_gives_and_nothing_else(cluster: Cluster, least: client.ApiClient) -> None:
    restricted = client.CustomObjectsApi(least)

    with pytest.raises(ApiException) as refused:
        restricted.list_namespaced_custom_object(*ISTIO, cluster.namespace, "virtualservices")
    assert refused.value.status == HTTPStatus.FORBIDDEN
    assert 'User "least" cannot list resource "virtualservices"' in json.loads(refused.value.body)["message"]

    rbac = client.RbacAuthorizationV1Api(cluster.api)
    rule = {"apiGroups": [ISTIO[0]], "resources": ["virtualservices"], "verbs": ["list"]}
    rbac.create_namespaced_role(cluster.namespace, {"metadata": {"name": "reader"}, "rules": [rule]})
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "least"}],
    }
    rbac.create_namespaced_role_binding(cluster.namespace, binding)

    def may_list() -> bool:
        """The authorizer reads roles from a cache that follows the write a moment later."""
        try:
            found = restricted.list_namespaced_custom_object(*ISTIO, cluster.namespace, "virtualservices")
        except ApiException as exc:
            if exc.status != HTTPStatus.FORBIDDEN:
                raise
            return False
        return bool(found["items"] == [])

    wait_for("the role to take effect", may_list)
    with pytest.raises(ApiException) as still_refused:
        restricted.list_namespaced_custom_object(*ISTIO, cluster.namespace, "destinationrules")
    assert still_refused.value.status == HTTPStatus.FORBIDDEN
