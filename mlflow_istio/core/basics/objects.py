"""Raw Kubernetes objects and what every room reads of them.

Objects are plain JSON dicts, never typed models: a typed round trip loses the fields it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""One Kubernetes object as a JSON dict with ``apiVersion``, ``kind``, ``metadata`` and so on."""

DOMAIN = "mlflow-istio.org"
ENDPOINT_LABEL = f"{DOMAIN}/endpoint"
DEPLOYMENT_LABEL = f"{DOMAIN}/deployment"
UNREADABLE = "unreadable"
"""Key of an object in a list that stands for one that can't be read: why. No object of Kubernetes has it."""
ASKED_ANNOTATION = f"{DOMAIN}/asked"
"""Of a Deployment: the release's id and the URI that its version was asked for by, where the URI may mean another one later."""
SCALED_ANNOTATION = f"{DOMAIN}/scaled"
"""Of a Deployment: the replicas that a release gave it. Where it has another number by now, somebody else has set that one."""
CONTROL_ANNOTATION = f"{DOMAIN}/control-of"
"""Of a Deployment that is a control: the one whose version, settings and image it has."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
FIELD_MANAGER = "mlflow-istio"

API_VERSIONS: Mapping[str, str] = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "DestinationRule": "networking.istio.io/v1",
    "VirtualService": "networking.istio.io/v1",
}
"""Kinds the Cluster port handles, with the API version we write."""


def prefix(endpoint: str = "") -> str:
    """What the names of an endpoint's own routes start with; of any endpoint's unless one is named."""
    return f"mlflow-istio.{endpoint}." if endpoint else "mlflow-istio."


def is_own_route(route: Mapping[str, Any], endpoint: str = "") -> bool:
    """Whether a route is an endpoint's own; any endpoint's unless one is named."""
    return str(route.get("name", "")).startswith(prefix(endpoint))


def stand_in(kind: str, name: str, why: str) -> Object:
    """What a list holds in place of an object that can't be read, so that the others can be listed."""
    return {"kind": kind, "metadata": {"name": name}, "spec": {}, UNREADABLE: why}


def name_of(obj: Mapping[str, Any]) -> str:
    """The object's ``metadata.name``."""
    return str(obj["metadata"]["name"])


def oldest_first(obj: Mapping[str, Any]) -> tuple[str, str]:
    """The order in which Istio takes objects that want the same: by their creation, then by name."""
    return str(obj["metadata"].get("creationTimestamp") or ""), name_of(obj)


def labels_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """The object's labels; empty when it has none."""
    return _texts(obj, "labels")


def annotations_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """The object's annotations; empty when it has none."""
    return _texts(obj, "annotations")


def _texts(obj: Mapping[str, Any], name: str) -> dict[str, str]:
    metadata = obj.get("metadata")
    texts = metadata.get(name) if isinstance(metadata, Mapping) else None
    return dict(texts) if isinstance(texts, Mapping) else {}  # of another's object that no server would take, nothing


def with_annotations(obj: Mapping[str, Any], changes: Mapping[str, str | None]) -> Object:
    """A copy of the object with annotations set, or removed where the value is None."""
    annotations = annotations_of(obj)
    for key, value in changes.items():
        if value is None:
            annotations.pop(key, None)
        else:
            annotations[key] = value
    metadata = {key: value for key, value in obj["metadata"].items() if key != "annotations"}
    if annotations:
        metadata["annotations"] = annotations
    return {**obj, "metadata": metadata}


def wanted_replicas(deployment: Mapping[str, Any]) -> int:
    """How many replicas a Deployment asks for."""
    replicas = deployment.get("spec", {}).get("replicas", 1)
    return 1 if replicas is None else int(replicas)


def ready_replicas(deployment: Mapping[str, Any]) -> int:
    """How many replicas of a Deployment are ready; zero desired replicas are never ready."""
    if int(deployment.get("spec", {}).get("replicas", 1)) == 0:
        return 0
    return int(deployment.get("status", {}).get("readyReplicas") or 0)
