"""The kinds of objects that are asked for, as the API server's paths have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A kind as its path has it.

    Attributes:
        kind: Kind.
        group: API group; empty for the core group.
        version: Version of the API.
        plural: Plural, as paths and RBAC rules have it.
        singular: As the client's method names have it (core group only).
    """

    kind: str
    group: str
    version: str
    plural: str
    singular: str = ""

    @property
    def full_name(self) -> str:
        """As RBAC and error messages have it, such as ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_ISTIO = "networking.istio.io"
DEPLOYMENT = Resource(kind="Deployment", group="apps", version="v1", plural="deployments")
REPLICA_SET = Resource(kind="ReplicaSet", group="apps", version="v1", plural="replicasets")
SERVICE = Resource(kind="Service", group="", version="v1", plural="services", singular="service")
POD = Resource(kind="Pod", group="", version="v1", plural="pods", singular="pod")
POD_LOG = Resource(kind="Pod", group="", version="v1", plural="pods/log", singular="pod_log")
EVENT = Resource(kind="Event", group="", version="v1", plural="events", singular="event")
NAMESPACE = Resource(kind="Namespace", group="", version="v1", plural="namespaces", singular="namespace")
DESTINATION_RULE = Resource(kind="DestinationRule", group=_ISTIO, version="v1", plural="destinationrules")
VIRTUAL_SERVICE = Resource(kind="VirtualService", group=_ISTIO, version="v1", plural="virtualservices")
HORIZONTAL_POD_AUTOSCALER = Resource(
    kind="HorizontalPodAutoscaler", group="autoscaling", version="v2", plural="horizontalpodautoscalers"
)
SCALED_OBJECT = Resource(kind="ScaledObject", group="keda.sh", version="v1alpha1", plural="scaledobjects")
GATEWAY = Resource(kind="Gateway", group=_ISTIO, version="v1", plural="gateways")
