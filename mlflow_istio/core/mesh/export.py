"""An endpoint's objects as Git should hold them, and what a tool that keeps Git and cluster equal has to leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_istio.core.basics.objects import ASKED_ANNOTATION, Object, annotations_of, name_of, with_annotations
from mlflow_istio.core.endpoint.endpoint import PARTS, Endpoint, annotation
from mlflow_istio.core.matching.pin_guard import is_key, without_keys
from mlflow_istio.errors import masked

_FROM_SERVER = ("namespace", "resourceVersion", "uid", "generation", "creationTimestamp", "managedFields", "selfLink")
_ALLOCATED: Mapping[str, tuple[str, ...]] = {
    "Service": ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"),
}
"""Fields of a spec that a cluster gives out; another cluster would refuse them."""

_FLEETING = ("unrecorded", "progress", "untold")
"""Parts of an endpoint that are of this moment: entries on their way to the registry, a driver's heartbeat."""

_OF_CONTROLLERS = ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration")


def as_in_git(obj: Object, endpoint: str) -> Object:
    """An object without what only a running cluster knows: no status, nothing the server fills in, nothing of this moment.

    Without its namespace, too: where it is applied says that.
    """
    gone = (*_OF_CONTROLLERS, ASKED_ANNOTATION, *(annotation(endpoint, part) for part in _FLEETING))
    bare = with_annotations(obj, dict.fromkeys(gone))
    metadata = {key: value for key, value in bare["metadata"].items() if key not in _FROM_SERVER}
    spec = {key: value for key, value in obj["spec"].items() if key not in _ALLOCATED.get(str(obj["kind"]), ())}
    rest = {key: value for key, value in bare.items() if key not in ("status", "metadata", "spec")}
    clean: Object = without_keys({**rest, "metadata": metadata, "spec": spec})
    return clean


def variable_with_password(deployment: Object) -> str | None:
    """The first variable of a Deployment's containers whose value is an address with a user or password."""
    pod = deployment["spec"]["template"]["spec"]
    variables = (
        variable
        for container in (*(pod.get("initContainers") or ()), *pod["containers"])
        for variable in container.get("env") or ()
    )
    return next((str(variable["name"]) for variable in variables if _has_password(variable.get("value"))), None)


def _has_password(value: Any) -> bool:
    return isinstance(value, str) and masked(value) != value and not is_key(value)  # a key of ours is left out


def without_traffic(obj: Object, endpoint: str) -> Object | None:
    """An object without what releases change; None where nothing else is in it.

    A DestinationRule keeps its host and settings and leaves the subsets to mlflow-istio; a VirtualService is all traffic.
    """
    if obj["kind"] == "VirtualService":
        return None
    if obj["kind"] != "DestinationRule":
        return obj
    bare = with_annotations(obj, {annotation(endpoint, part): None for part in PARTS})
    return {**bare, "spec": {key: value for key, value in bare["spec"].items() if key != "subsets"}}


def ignore_differences(endpoint: Endpoint, destination_rule: Mapping[str, Any] | None) -> Object:
    """What of an Argo CD Application's ``spec`` keeps self-heal from taking releases back.

    Args:
        endpoint: The endpoint.
        destination_rule: Its DestinationRule: settings that ``mlflow-istio policy`` made there are left alone, too.
    """
    routes = [
        "/spec/http",
        *(_pointer(annotation(endpoint.name, part)) for part in PARTS),
    ]
    subsets = ["/spec/subsets", _pointer(annotation(endpoint.name, "policy"))]
    if annotation(endpoint.name, "policy") in annotations_of(destination_rule or {}):
        subsets.append("/spec/trafficPolicy")
    group = "networking.istio.io"
    return {
        "spec": {
            "ignoreDifferences": [
                {"group": group, "kind": "VirtualService", "name": endpoint.virtual_service, "jsonPointers": routes},
                {"group": group, "kind": "DestinationRule", "name": endpoint.name, "jsonPointers": subsets},
            ],
            "syncPolicy": {"syncOptions": ["RespectIgnoreDifferences=true", "ServerSideApply=true"]},
        }
    }


def order_of(obj: Object) -> tuple[int, str]:
    """Where an object stands in a file: what others name comes before them."""
    kinds = ("Service", "Deployment", "DestinationRule", "VirtualService")
    return kinds.index(str(obj["kind"])), name_of(obj)


def _pointer(key: str) -> str:
    escaped = key.replace("~", "~0").replace("/", "~1")  # RFC 6901
    return f"/metadata/annotations/{escaped}"
