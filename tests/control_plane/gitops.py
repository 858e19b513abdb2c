"""What GitOps tools do to a cluster, done here the same way against the real API server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes.dynamic import DynamicClient

from mlflow_istio.core.basics.objects import Object
from tests.control_plane.namespaces import admin


def server_side_apply(obj: Object, namespace: str, manager: str, *, force: bool) -> Object:
    """``kubectl apply --server-side`` (with ``--force-conflicts``); raises what the API server refuses."""
    with admin() as api:
        dynamic = DynamicClient(api)
        resource = dynamic.resources.get(api_version=obj["apiVersion"], kind=obj["kind"])
        stored = dynamic.server_side_apply(
            resource, body=obj, namespace=namespace, field_manager=manager, force_conflicts=force
        )
        return dict(stored.to_dict())


def live(obj: Object, namespace: str) -> Object:
    """The object as the API server has it."""
    with admin() as api:
        resource = DynamicClient(api).resources.get(api_version=obj["apiVersion"], kind=obj["kind"])
        return dict(resource.get(name=obj["metadata"]["name"], namespace=namespace).to_dict())


def argo_self_heal(manifests: Sequence[Object], namespace: str, application: Mapping[str, Any]) -> list[str]:
    """One sync of Argo CD with ``RespectIgnoreDifferences`` and ``ServerSideApply``: what is out of sync is applied again.

    Ignored paths are taken off both sides before they are compared; what is applied is the manifest with the live object's values
    at those paths, computed as a merge patch (argo-cd ``controller/sync.go``, ``normalizeTargetResources``).

    Returns:
        ``KIND/NAME`` of what was out of sync.
    """
    healed = []
    ignored = application.get("spec", {}).get("ignoreDifferences", [])
    for manifest in manifests:
        there = live(manifest, namespace)
        pointers = [
            pointer
            for entry in ignored
            if (entry["kind"], entry["name"]) == (manifest["kind"], manifest["metadata"]["name"])
            for pointer in entry["jsonPointers"]
        ]
        bare_live, bare_target = without(there, pointers), without(manifest, pointers)
        target = merged(bare_target, merge_patch(bare_live, there)) if pointers else manifest
        if merged(bare_live, bare_target) != bare_live:
            healed.append(f"{manifest['kind']}/{manifest['metadata']['name']}")
        for key in ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"):
            target["metadata"].pop(key, None)
        target.pop("status", None)
        server_side_apply(target, namespace, "argocd-controller", force=True)
    return healed


def without(obj: Object, pointers: Sequence[str]) -> Object:
    """A copy without what stands at these JSON pointers."""
    for pointer in pointers:
        obj = _without(obj, [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]])
    return obj


def merge_patch(before: Any, after: Any) -> Any:
    """The JSON merge patch (RFC 7386) that turns one object into the other."""
    patch: Object = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            both = isinstance(value, dict) and isinstance(before[key], dict)
            patch[key] = merge_patch(before[key], value) if both else value
    return patch


def merged(obj: Any, patch: Any) -> Any:
    """The object after a JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _without(obj: Any, path: Sequence[str]) -> Any:
    first, *rest = path
    if not isinstance(obj, dict) or first not in obj:
        return obj
    bare = {key: value for key, value in obj.items() if key != first}
    return {**bare, first: _without(obj[first], rest)} if rest else bare
