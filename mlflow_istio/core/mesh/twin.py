"""A second Deployment that runs what another one runs: a control."""

from __future__ import annotations

from typing import Any

from mlflow_istio.core.basics.objects import (
    ASKED_ANNOTATION,
    CONTROL_ANNOTATION,
    DEPLOYMENT_LABEL,
    DOMAIN,
    SCALED_ANNOTATION,
    Object,
    annotations_of,
    labels_of,
    name_of,
)

_OWN_NAME = ("version", DEPLOYMENT_LABEL)
"""Labels whose value is the Deployment's name, wherever they stand: selectors, spreading, affinity."""

_NAME_VARIABLE = "MLFLOW_ISTIO_DEPLOYMENT"


def twin(deployment: Object, name: str, replicas: int) -> Object:
    """A Deployment that runs the same under another name.

    What the cluster wrote on the original stays there; templates that a user brings are carried over as they are.

    Args:
        deployment: The original, as stored.
        name: The name of the twin.
        replicas: Its replicas.
    """
    original = name_of(deployment)
    kept = {
        key: value
        for key, value in annotations_of(deployment).items()
        if key.startswith(f"{DOMAIN}/") and key not in (ASKED_ANNOTATION, SCALED_ANNOTATION)
    }
    return {
        "apiVersion": deployment.get("apiVersion", "apps/v1"),
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": _renamed(labels_of(deployment), original, name),
            "annotations": {**kept, CONTROL_ANNOTATION: original},
        },
        "spec": {**_renamed(deployment["spec"], original, name), "replicas": replicas},
    }


def _renamed(value: Any, original: str, name: str) -> Any:
    """The value with the Deployment's own name wherever that stands for it."""
    if isinstance(value, list):
        return [_renamed(entry, original, name) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.get("name") == _NAME_VARIABLE and value.get("value") == original:
        return {**value, "value": name}
    return {
        key: name if key in _OWN_NAME and entry == original else _renamed(entry, original, name)
        for key, entry in value.items()
    }
