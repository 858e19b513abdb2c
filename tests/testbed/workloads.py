"""Small workloads for the testbed's own tests: pods, and an endpoint with two versions behind the gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from kubernetes import client

from tests.testbed.client import wait_for

PORT = 8080
ISTIO = ("networking.istio.io", "v1")
# Answers every GET with the value of WHO.
SERVER = f"""
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        body = os.environ["WHO"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", {PORT}), Handler).serve_forever()
"""
PROBE = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "failureThreshold": 2}


def container(command: Sequence[str], **extra: Any) -> dict[str, Any]:
    """A container that runs a command."""
    return {"name": "main", "image": "any", "command": list(command), **extra}


def server(who: str, **extra: Any) -> dict[str, Any]:
    """A container that answers with `who`."""
    return container(["python", "-c", SERVER], env=[{"name": "WHO", "value": who}], readinessProbe=PROBE, **extra)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """One namespace, and short ways to put things there and look at them."""

    api: client.ApiClient
    namespace: str

    @property
    def core(self) -> Any:
        return client.CoreV1Api(self.api)

    @property
    def custom(self) -> Any:
        return client.CustomObjectsApi(self.api)

    def create_pod(self, name: str, main: Mapping[str, Any], **spec: Any) -> str:
        """Creates a pod with one container and returns it as `NAMESPACE/NAME`."""
        body = {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [main], "terminationGracePeriodSeconds": 5, **spec},
        }
        self.core.create_namespaced_pod(self.namespace, body)
        return f"{self.namespace}/{name}"

    def pod(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, self.namespace)

    def is_ready(self, name: str) -> bool:
        conditions = self.pod(name).status.conditions or ()
        return any(one.type == "Ready" and one.status == "True" for one in conditions)

    def state(self, name: str) -> Any:
        """The state of the pod's first container, None before it has one."""
        statuses = self.pod(name).status.container_statuses
        return statuses[0].state if statuses else None

    def restarts(self, name: str) -> int:
        """How often the pod's first container was started again."""
        statuses = self.pod(name).status.container_statuses
        return int(statuses[0].restart_count) if statuses else 0

    def wait_ready(self, name: str) -> Any:
        """Waits until the pod is ready and returns it."""
        wait_for(f"pod {name} to be ready", lambda: self.is_ready(name))
        return self.pod(name)

    def wait_ended(self, name: str) -> Any:
        """Waits until the pod's container has ended for good and returns how."""
        wait_for(f"pod {name} to end", lambda: self.pod(name).status.phase in ("Succeeded", "Failed"))
        return self.state(name).terminated

    def ready_addresses(self, service: str) -> set[str]:
        """The addresses that the service's EndpointSlices call ready."""
        # Read raw: the client before 31 can't parse a slice that has no endpoints yet.
        reply = client.DiscoveryV1Api(self.api).list_namespaced_endpoint_slice(
            self.namespace, label_selector=f"kubernetes.io/service-name={service}", _preload_content=False
        )
        endpoints = (endpoint for one in json.loads(reply.data)["items"] for endpoint in one["endpoints"] or ())
        return {address for one in endpoints if one["conditions"]["ready"] for address in one["addresses"]}

    def create_service(self, name: str, selector: Mapping[str, str]) -> None:
        ports = [{"name": "http", "port": 80, "targetPort": PORT, "appProtocol": "http"}]
        body = {"metadata": {"name": name}, "spec": {"selector": dict(selector), "ports": ports}}
        self.core.create_namespaced_service(self.namespace, body)

    def create_custom(self, plural: str, body: Mapping[str, Any]) -> None:
        self.custom.create_namespaced_custom_object(*ISTIO, self.namespace, plural, body)

    def create_endpoint(self, weights: Mapping[str, int]) -> Endpoint:
        """Creates the endpoint `model` with one ready deployment for each version, and waits until it is served."""
        apps = client.AppsV1Api(self.api)
        for version in weights:
            labels = {"app": "model", "version": version}
            template = {"metadata": {"labels": labels}, "spec": {"containers": [server(version)]}}
            spec = {"selector": {"matchLabels": labels}, "template": template}
            apps.create_namespaced_deployment(self.namespace, {"metadata": {"name": version}, "spec": spec})
        self.create_service("model", {"app": "model"})
        wait_for("all versions to be ready", lambda: len(self.ready_addresses("model")) == len(weights))
        subsets = [{"name": version, "labels": {"version": version}} for version in weights]
        self.create_custom(
            "destinationrules", {**_kind("DestinationRule"), "spec": {"host": "model", "subsets": subsets}}
        )
        endpoint = Endpoint(cluster=self, host=f"model.{self.namespace}.example")
        self.create_custom("virtualservices", endpoint.virtual_service(weights, change="created"))
        endpoint.wait_routed("created")
        return endpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An endpoint behind the gateway, known by its host name."""

    cluster: Cluster
    host: str

    def virtual_service(self, weights: Mapping[str, int], *, change: str) -> dict[str, Any]:
        """The routes: the change's id to who asks by the header `x-probe`, the weighted versions to all others."""
        destinations = [
            {"destination": {"host": "model", "subset": version, "port": {"number": 80}}, "weight": weight}
            for version, weight in weights.items()
        ]
        probe = {
            "name": "probe",
            "match": [{"headers": {"x-probe": {"exact": "1"}}}],
            "directResponse": {"status": 200, "body": {"string": change}},
        }
        routes = [probe, {"name": "traffic", "route": destinations}]
        gateways = [os.environ["MLFLOW_ISTIO_GATEWAY"]]
        return {**_kind("VirtualService"), "spec": {"hosts": [self.host], "gateways": gateways, "http": routes}}

    def shift(self, weights: Mapping[str, int], *, change: str) -> None:
        """Writes new weights without waiting for them."""
        body = self.virtual_service(weights, change=change)
        self.cluster.custom.patch_namespaced_custom_object(
            *ISTIO, self.cluster.namespace, "virtualservices", "model", body
        )

    def wait_routed(self, change: str) -> None:
        """Waits until the gateway has the routes of a change."""
        wait_for(f"the gateway to have the change {change!r}", lambda: self.ask({"x-probe": "1"}).text == change)

    def ask(self, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Sends one request through the gateway."""
        return requests.get(os.environ["GATEWAY_URL"], headers={"Host": self.host, **(headers or {})}, timeout=60)

    def count(self, requests_sent: int) -> dict[str, int]:
        """Sends so many requests on one connection and counts the answers; one that isn't 200 counts as its status."""
        counts: dict[str, int] = {}
        with requests.Session() as session:
            for _ in range(requests_sent):
                reply = session.get(os.environ["GATEWAY_URL"], headers={"Host": self.host}, timeout=60)
                answer = reply.text if reply.ok else str(reply.status_code)
                counts[answer] = counts.get(answer, 0) + 1
        return counts


def _kind(kind: str) -> dict[str, Any]:
    return {"apiVersion": "/".join(ISTIO), "kind": kind, "metadata": {"name": "model"}}
