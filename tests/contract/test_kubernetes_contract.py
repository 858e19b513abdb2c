"""The Cluster contract on the real API server, istiod and Envoy: as an admin, and as a user with the least rights."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from mlflow_istio.adapters.kubernetes import connect
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.target import Target
from mlflow_istio.ports.cluster import Cluster, Edit
from tests.contract.cluster_contract import DeploymentContract, ObjectContract, TrafficContract
from tests.control_plane.namespaces import fresh_namespace, give_least_rights, kubeconfig

pytestmark = pytest.mark.control_plane

_numbers = itertools.count()


class AtGateway:
    """A cluster whose VirtualServices are bound to the testbed's gateway, as the verbs bind theirs.

    The contract's own are bound to nothing, which on a cluster means to sidecars alone.
    """

    def __init__(self, cluster: Cluster, gateway: str) -> None:
        self._cluster = cluster
        self._gateways = [gateway, "mesh"]

    def edit(self, kind: str, name: str, change: Edit) -> tuple[Object | None, Object]:
        def bound(obj: Object | None) -> Object:
            wanted = change(obj)
            if kind != "VirtualService":
                return wanted
            return {**wanted, "spec": {**wanted["spec"], "gateways": self._gateways}}

        return self._cluster.edit(kind, name, bound)

    def __getattr__(self, name: str) -> object:
        return getattr(self._cluster, name)


@pytest.fixture(scope="module", params=["admin", "least"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A namespace of this module's own, seen by a user with all rights and by one with deploy/rbac.yaml's."""
    with fresh_namespace("contract") as namespace, pytest.MonkeyPatch.context() as patch:
        give_least_rights(namespace)
        patch.setenv("KUBECONFIG", kubeconfig(request.param))
        gateway = os.environ["MLFLOW_ISTIO_GATEWAY"]
        connected = connect(Target(kind="istio", place=namespace), gateway)
        yield AtGateway(connected, gateway)
        connected.close()


@pytest.fixture
def name() -> str:
    """A DNS label that no other test uses."""
    return f"t{next(_numbers)}"


@pytest.fixture
def patience() -> float:
    """Seconds that a pod may take to become ready."""
    return 120.0


class TestObjects(ObjectContract):
    """The API server keeps the objects."""


class TestDeployments(DeploymentContract):
    """Controllers and the testbed's kubelet run the deployments."""


class TestTraffic(TrafficContract):
    """istiod and Envoy route real requests."""
