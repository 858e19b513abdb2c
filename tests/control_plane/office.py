"""The use-cases at work on the testbed: a namespace, the least-privilege user, model servers that start in a blink."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes import client

from mlflow_istio.adapters.kubernetes import KubernetesCluster
from mlflow_istio.adapters.kubernetes.api_server import open_connection
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.target import Target
from mlflow_istio.core.endpoint.endpoint import guard_of
from mlflow_istio.core.matching.pin_guard import key_headers
from mlflow_istio.core.mesh.manifests import VERSION_ANNOTATION
from mlflow_istio.core.mesh.pods import PodSettings
from mlflow_istio.core.moves.strategies import TrafficRequest
from mlflow_istio.releases.context import Context, Outcome, virtual_service_of
from mlflow_istio.releases.deploying import deployments
from mlflow_istio.releases.deploying.deploy_request import DeployRequest
from mlflow_istio.releases.moving import shifting
from mlflow_istio.testing import InMemoryRegistry, InMemoryRuns
from mlflow_istio.wiring.connection import SystemClock, load_templates
from tests.contract.model_server import SOURCE
from tests.control_plane.namespaces import admin, fresh_namespace, give_least_rights, kubeconfig
from tests.testbed.client import wait_for

ENDPOINT = "m"
ISTIO = ("networking.istio.io", "v1")
_COMMAND = "command: {{ command }}"
_NAMES = """
import os
os.environ.update(NAME=os.environ["MLFLOW_ISTIO_DEPLOYMENT"], VERSION=os.environ["MLFLOW_ISTIO_MODEL_VERSION"])
"""


def templates() -> dict[str, str]:
    """Our own templates, with the small server in the place of MLflow's."""
    ours = load_templates(None)
    assert _COMMAND in ours["Deployment"]
    small = f"command: [python, -c, {json.dumps(_NAMES + SOURCE)}]"
    return {**ours, "Deployment": ours["Deployment"].replace(_COMMAND, small)}


@dataclass
class Office:
    """A namespace, and the use-cases in it.

    Attributes:
        namespace: Its name.
        cluster: The adapter, as the user it was opened for.
        registry: In memory; knows versions 1 to 5 of model ``m``.
        warnings: What the use-cases warned of.
    """

    namespace: str
    cluster: KubernetesCluster
    registry: InMemoryRegistry = field(default_factory=lambda: InMemoryRegistry({ENDPOINT: [1, 2, 3, 4, 5]}))
    warnings: list[str] = field(default_factory=list)

    @property
    def context(self) -> Context:
        return Context(
            cluster=self.cluster,
            registry=self.registry,
            runs=InMemoryRuns(),
            clock=SystemClock(),
            who="tester",
            new_id=lambda: secrets.token_hex(5),
            templates=templates(),
            scope=self.namespace,
            warn=self.warnings.append,
            removal_delay=0.1,
        )

    def deploy(self, version: int, **options: Any) -> Outcome:
        """Deploy ``m-vVERSION`` behind endpoint ``m`` at the testbed's gateway."""
        request = DeployRequest(
            **{
                "name": f"m-v{version}",
                "endpoint": ENDPOINT,
                "model_uri": f"models:/{ENDPOINT}/{version}",
                "image": "serving",
                "pod": PodSettings(),
                "gateways": (os.environ["MLFLOW_ISTIO_GATEWAY"], "mesh"),
                "ready_timeout": 120.0,
                **options,
            }
        )
        return deployments.deploy(self.context, request)

    def canary(self, version: int, weight: int) -> Outcome:
        """Open a canary of a version that is deployed."""
        traffic_request = TrafficRequest(weight=weight)
        return shifting.start(
            self.context, ENDPOINT, strategy="canary", candidates=(f"m-v{version}",), traffic_request=traffic_request
        )

    def shift(self, weight: int) -> Outcome:
        """Give the candidate another weight."""
        return shifting.shift(self.context, ENDPOINT, TrafficRequest(weight=weight))

    def promote(self) -> Outcome:
        """Promote the candidate."""
        return shifting.promote(self.context, ENDPOINT)

    def rollback(self) -> Outcome:
        """Roll back."""
        return shifting.rollback(self.context, ENDPOINT)

    def ask(self, headers: Mapping[str, str] | None = None, path: str = "/invocations") -> tuple[int, str]:
        """Status and model version of one request through the gateway."""
        address = self.cluster.address(ENDPOINT)
        connection = http.client.HTTPConnection(urlsplit(address.url).netloc, timeout=60)
        try:
            connection.request("POST", path, headers={**address.headers, **self.keyed(headers or {})})
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("x-mlflow-model-version") or ""
        finally:
            connection.close()

    def keyed(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers, with the key that a pinned request or a probe carries at a gateway."""
        if not set(headers) & {"x-mlflow-deployment", "x-mlflow-istio-probe"}:
            return dict(headers)
        return {**key_headers(guard_of(virtual_service_of(self.cluster, ENDPOINT), ENDPOINT)), **headers}

    def count(self, requests: int, headers: Mapping[str, str] | None = None) -> Counter[str]:
        """How many of so many requests each version answered; failures by their status."""
        answers = (self.ask(headers) for _ in range(requests))
        return Counter(version if status == 200 else str(status) for status, version in answers)

    def raw(self, plural: str, name: str = ENDPOINT) -> Object:
        """An Istio object as the API server has it, read by the admin."""
        with admin() as api:
            custom = client.CustomObjectsApi(api)
            return dict(custom.get_namespaced_custom_object(*ISTIO, self.namespace, plural, name))

    def write_raw(self, plural: str, obj: Object) -> Object:
        """Replace an Istio object as somebody else."""
        with admin() as api:
            custom = client.CustomObjectsApi(api)
            name = obj["metadata"]["name"]
            return dict(
                custom.replace_namespaced_custom_object(
                    *ISTIO, self.namespace, plural, name, obj, field_manager="somebody-else"
                )
            )

    def wait_for_no_pods(self, deployment: str) -> None:
        """Wait until a deployment's pods have ended."""
        with admin() as api:
            core = client.CoreV1Api(api)
            selector = f"version={deployment}"
            wait_for(
                f"the pods of {deployment} to end",
                lambda: not core.list_namespaced_pod(self.namespace, label_selector=selector).items,
            )


@contextmanager
def open_office(user: str = "least", *, patience: float = 8.0, **rights: Any) -> Iterator[Office]:
    """A fresh namespace with an office in it.

    Args:
        user: ``admin`` or ``least``.
        patience: Seconds for which the adapter tries again what passes by itself.
        rights: For ``give_least_rights``.
    """
    with fresh_namespace() as namespace, pytest.MonkeyPatch.context() as patch:
        give_least_rights(namespace, **rights)
        patch.setenv("KUBECONFIG", kubeconfig(user))
        connection = open_connection(Target(kind="istio", place=namespace))
        cluster = KubernetesCluster(connection, gateway=os.environ["MLFLOW_ISTIO_GATEWAY"], patience=patience)
        patch.undo()
        yield Office(namespace=namespace, cluster=cluster)
        cluster.close()


def version_of(deployment: Mapping[str, Any]) -> str:
    """The model version that a Deployment says it serves."""
    return str(deployment["metadata"]["annotations"][VERSION_ANNOTATION])
