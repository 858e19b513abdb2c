"""Puts into the fresh cluster what a cluster with Istio has: its namespace, definitions, validator and gateway."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from kubernetes import client

from tests.testbed import gateway
from tests.testbed.client import wait_for
from tests.testbed.control_plane import ISTIO_NAMESPACE, manifest
from tests.testbed.kubelet import logs
from tests.testbed.kubelet.runner import NODE_LABELS, NODE_NAME
from tests.testbed.network import BRIDGE_ADDRESS

_AT_ONCE = 8
_ROOM = {"cpu": "64", "memory": "256Gi", "pods": "1000"}


def install_definitions(api: client.ApiClient, definitions: list[dict[str, Any]]) -> None:
    """Creates Istio's namespace, the node and Istio's custom resource definitions; waits until those are served."""
    core, extensions = client.CoreV1Api(api), client.ApiextensionsV1Api(api)
    core.create_namespace({"metadata": {"name": ISTIO_NAMESPACE}})
    core.create_node({"metadata": {"name": NODE_NAME, "labels": NODE_LABELS}})
    core.patch_node_status(NODE_NAME, {"status": _node_status()})
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Without `_preload_content` the client would parse each large answer into objects nobody reads.
        made = pool.map(
            lambda one: extensions.create_custom_resource_definition(one, _preload_content=False), definitions
        )
        list(made)
    for definition in definitions:
        name = definition["metadata"]["name"]
        wait_for(f"{name} to be served", partial(_is_established, extensions, name))


def install_istio(api: client.ApiClient) -> None:
    """Creates the gateway's objects and Istio's validator; waits until istiod has made the validator work.

    istiod must be running.
    """
    core, admission = client.CoreV1Api(api), client.AdmissionregistrationV1Api(api)
    client.CustomObjectsApi(api).create_namespaced_custom_object(
        "networking.istio.io", "v1", ISTIO_NAMESPACE, "gateways", manifest("gateway")
    )
    service = manifest("ingress_service")
    core.create_namespaced_service(ISTIO_NAMESPACE, service)
    core.patch_namespaced_service_status(
        service["metadata"]["name"],
        ISTIO_NAMESPACE,
        {"status": {"loadBalancer": {"ingress": [{"ip": gateway.ADDRESS}]}}},
    )
    webhook = manifest("webhook")
    admission.create_validating_webhook_configuration(webhook)
    wait_for("istiod to take over its validating webhook", lambda: _is_strict(admission, webhook))
    wait_for("the default service account", lambda: _has_account(core))


def _node_status() -> Mapping[str, Any]:
    return {
        "addresses": [{"type": "InternalIP", "address": BRIDGE_ADDRESS}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": logs.PORT}},
        "capacity": _ROOM,
        "allocatable": _ROOM,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }


def _is_established(extensions: Any, name: str) -> bool:
    status = extensions.read_custom_resource_definition_status(name).status
    return any(one.type == "Established" and one.status == "True" for one in status.conditions or ())


def _is_strict(admission: Any, webhook: Mapping[str, Any]) -> bool:
    found = admission.read_validating_webhook_configuration(webhook["metadata"]["name"])
    return all(one.failure_policy == "Fail" and one.client_config.ca_bundle for one in found.webhooks)


def _has_account(core: Any) -> bool:
    return any(one.metadata.name == "default" for one in core.list_namespaced_service_account("default").items)
