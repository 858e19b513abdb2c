"""An office in which three versions are deployed, shared by a module's tests: each starts from the same objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kubernetes import client

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.matching.probe import change_probe
from mlflow_istio.releases.context import endpoint_of, entrance_of
from tests.control_plane.namespaces import admin
from tests.control_plane.office import ENDPOINT, Office, open_office

DEPLOYED = ("m-v1", "m-v2", "m-v3")
_ISTIO_OBJECTS = ("virtualservices", "destinationrules")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The office, and its Istio objects as they were when nothing had happened yet.

    Attributes:
        office: m-v1 is stable with all traffic; m-v2 and m-v3 stand ready; nothing is open.
        objects: Plural to object.
    """

    office: Office
    objects: dict[str, Object]

    def reset(self) -> None:
        """Everything as it was. An endpoint's whole state stands on its objects, so writing those is enough."""
        for plural, obj in self.objects.items():
            now = self.office.raw(plural)
            wanted = copy.deepcopy(obj)
            wanted["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"]
            self.office.write_raw(plural, wanted)
        for deployment in DEPLOYED:
            scale(self.office.namespace, deployment, 1)
            self.office.cluster.wait_ready(deployment, 60)
        self.office.warnings.clear()
        endpoint = endpoint_of(self.office.cluster, ENDPOINT)
        probe = entrance_of(self.office.cluster, ENDPOINT).through(change_probe(ENDPOINT, endpoint.change))
        assert self.office.cluster.wait_routed(probe, 30)


@contextmanager
def open_standing() -> Iterator[Standing]:
    """Deploy three versions and remember the objects."""
    with open_office() as office:
        for version in (1, 2, 3):
            office.deploy(version)
        yield Standing(office=office, objects={plural: office.raw(plural) for plural in _ISTIO_OBJECTS})


def scale(namespace: str, deployment: str, replicas: int, manager: str = "kubectl") -> None:
    """What ``kubectl scale`` or an autoscaler does: write the Deployment's ``scale`` subresource."""
    with admin() as api:
        client.AppsV1Api(api).patch_namespaced_deployment_scale(
            deployment, namespace, {"spec": {"replicas": replicas}}, field_manager=manager
        )


def edit_as_user(office: Office, plural: str, change: Callable[[Object], Object]) -> Object:
    """Read an Istio object, change it and write it back, as somebody with ``kubectl edit``; the object as stored."""
    return office.write_raw(plural, change(office.raw(plural)))
