"""The two sides that must answer alike: the local mesh, and the real istiod with its gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

from kubernetes import client

from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.errors import MlflowIstioError
from tests.contract.model_server import with_spec
from tests.corpus.cases import DOMAIN, Case, common_rule, deployments, model_of, obj, service, subsets_of
from tests.testbed.client import Testbed, wait_for

ISTIO = ("networking.istio.io", "v1")
PIN_HEADER = "x-corpus-pin"
PINS = "corpus-pins"
_AT_ONCE = 8
PROTOCOLS = ("http", "grpc")
_REPLICAS = sum(sum(subsets_of(protocol).values()) for protocol in PROTOCOLS)


class Side(Protocol):
    """Where cases are installed and asked."""

    @property
    def protocols(self) -> Sequence[str]:
        """What its models speak."""
        ...

    def install(self, case: Case) -> str:
        """Install a case's objects; why it was refused, or empty."""
        ...

    def netloc(self, name: str) -> str:
        """Where requests for the VirtualService of that name go."""
        ...

    def log(self) -> str:
        """What the proxy complained of last."""
        ...


def pins(protocols: Sequence[str] = PROTOCOLS) -> Object:
    """A VirtualService that reaches the echo of one subset by a header, to ask what it has seen."""
    http = [
        {
            "match": [{"headers": {PIN_HEADER: {"exact": f"{protocol}-{subset}"}}}],
            "route": [{"destination": {"host": model_of(protocol), "subset": subset}}],
        }
        for protocol in protocols
        for subset, replicas in subsets_of(protocol).items()
        if replicas
    ]
    return obj("VirtualService", PINS, {"hosts": [f"{PINS}.{DOMAIN}"], "http": http})


class LocalSide:
    """The local mesh, with the models that speak what its cases do."""

    def __init__(self, mesh: LocalMesh, protocols: Sequence[str]) -> None:
        self._mesh = mesh
        self.protocols = tuple(protocols)
        made = [deployment for protocol in protocols for deployment in deployments(protocol)]
        for deployment in made:
            mesh.apply(deployment)
        for deployment in made:
            mesh.wait_ready(deployment["metadata"]["name"], 60)
        for protocol in protocols:
            mesh.apply(service(model_of(protocol), protocol))
            mesh.apply(common_rule(protocol))
        mesh.apply(pins(protocols))

    def install(self, case: Case) -> str:
        """See ``Side``."""
        rule = case.destination_rule()
        try:
            if rule is not None:
                self._mesh.apply(service(case.name, case.protocol))
                self._mesh.apply(rule)
            if not case.routes:
                return ""
            for delegate in case.delegate_services():
                self._mesh.apply(delegate)
            wanted = case.virtual_service(ready_route=case.local == "same" and bool(case.http))
            self._mesh.edit("VirtualService", case.name, with_spec(wanted))
        except MlflowIstioError as exc:
            return str(exc)
        return ""

    def netloc(self, name: str) -> str:
        """See ``Side``."""
        return urlsplit(self._mesh.address(name).url).netloc

    def log(self) -> str:
        """See ``Side``."""
        return self._mesh.logs("envoy", 5)


class ControlPlaneSide:
    """A namespace of the testbed: istiod makes the gateway's routes."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._custom = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self._gateway = os.environ["MLFLOW_ISTIO_GATEWAY"]
        apps = client.AppsV1Api(api)
        self.protocols = PROTOCOLS
        for protocol in PROTOCOLS:
            for deployment in deployments(protocol):
                apps.create_namespaced_deployment(namespace, deployment)
            self._core.create_namespaced_service(namespace, service(model_of(protocol), protocol))
        wait_for("all echo pods to be ready", lambda: self._ready_pods() == _REPLICAS, 120)
        for protocol in PROTOCOLS:
            self._create("destinationrules", common_rule(protocol))
        own = pins()
        self._create("virtualservices", {**own, "spec": {**own["spec"], "gateways": [self._gateway]}})

    def install(self, case: Case) -> str:
        """See ``Side``."""
        rule = case.destination_rule()
        try:
            if rule is not None:
                self._core.create_namespaced_service(self._namespace, service(case.name, case.protocol))
                self._create("destinationrules", rule)
            if not case.routes:
                return ""
            ready_route = case.istiod == "same" and bool(case.http)
            wanted = case.virtual_service(gateways=[self._gateway], ready_route=ready_route)
            for delegate in case.delegate_services():
                self._create("virtualservices", delegate)
            # One that nobody asks is shown to the validator alone: a route that Envoy refuses would stop all others.
            self._create("virtualservices", wanted, **({} if case.requests else {"dry_run": "All"}))
        except client.ApiException as exc:
            return str(exc.body)
        return ""

    def netloc(self, name: str) -> str:
        """See ``Side``."""
        return urlsplit(os.environ["GATEWAY_URL"]).netloc

    def log(self) -> str:
        """See ``Side``."""
        return Testbed.of_this_process().log("gateway", 5)

    def _create(self, plural: str, body: Mapping[str, Any], **options: str) -> None:
        self._custom.create_namespaced_custom_object(*ISTIO, self._namespace, plural, body, **options)

    def _ready_pods(self) -> int:
        pods = self._core.list_namespaced_pod(self._namespace, label_selector="app in (echo,echo-grpc)").items
        return sum(
            any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ()) for pod in pods
        )


def install_all(side: Side, cases: Sequence[Case], *, at_once: int = _AT_ONCE) -> dict[str, str]:
    """Install all cases; why each was refused, or empty."""
    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip([case.name for case in cases], pool.map(side.install, cases), strict=True))
