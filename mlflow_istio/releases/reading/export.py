"""Gather an endpoint's objects for Git."""

from __future__ import annotations

from mlflow_istio.core.basics.objects import Object, name_of
from mlflow_istio.core.endpoint.endpoint import has_endpoint
from mlflow_istio.core.endpoint.traffic import attached_host
from mlflow_istio.core.mesh.attached import is_attached, without_replicas
from mlflow_istio.core.mesh.export import (
    as_in_git,
    ignore_differences,
    order_of,
    variable_with_password,
    without_traffic,
)
from mlflow_istio.core.mesh.virtual_service import read_endpoint
from mlflow_istio.errors import InvalidInput
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.releases.context import deployments_of, is_ours, virtual_service_of


def exported(cluster: Cluster, name: str, *, with_traffic: bool = True) -> list[Object]:
    """An endpoint's objects as Git should hold them, in an order in which they can be applied.

    Args:
        cluster: The cluster.
        name: The endpoint, or the root that several of them share.
        with_traffic: Whether routes, subsets and the state of releases are in it.

    Raises:
        NotFound: There is no such endpoint.
        InvalidInput: Its routes stand in somebody's VirtualService, which is not ours to export,
            or a Deployment holds a password, which Git must not.
    """
    named = cluster.get("VirtualService", name)
    if named is not None and is_ours(named, name) and not has_endpoint(named, name):
        service = cluster.get("Service", name)  # the root of a shared host: no pods, no release
        return [as_in_git(obj, name) for obj in (service, named) if obj is not None and with_traffic]
    virtual_service = virtual_service_of(cluster, name)
    parts = [obj for kind in ("Service", "DestinationRule") if (obj := cluster.get(kind, name)) is not None]
    deployments = deployments_of(cluster, name)
    for deployment in deployments:
        if (variable := variable_with_password(deployment)) is not None:
            raise InvalidInput(
                f"deployment '{name_of(deployment)}' has a user or password in its variable '{variable}', which Git must not "
                f'hold: put the value into a Secret and deploy again with env_from_secret={{"{variable}": "SECRET/KEY"}}'
            )
    objects = [obj for obj in parts if is_ours(obj, name)] + [without_replicas(obj) for obj in deployments]
    for deployment in deployments:
        host = attached_host(name_of(deployment))
        kinds = ("Service", "DestinationRule") if is_attached(deployment) else ()
        objects += [obj for kind in kinds if (obj := cluster.get(kind, host)) is not None and is_ours(obj, name)]
    if with_traffic:
        if read_endpoint(virtual_service, name).adopted is not None:
            raise InvalidInput(
                f"endpoint '{name}' has its routes in VirtualService '{name_of(virtual_service)}', which stays its owner's, in Git "
                "too: export the rest with --without-traffic, and let Argo CD leave the routes alone (--argocd)"
            )
        objects.append(virtual_service)
    clean = [as_in_git(obj, name) for obj in objects]
    kept = (
        clean if with_traffic else [obj for manifest in clean if (obj := without_traffic(manifest, name)) is not None]
    )
    return sorted(kept, key=order_of)


def argocd(cluster: Cluster, name: str) -> Object:
    """The part of an Argo CD Application that leaves an endpoint's traffic alone.

    Raises:
        NotFound: There is no such endpoint.
    """
    endpoint = read_endpoint(virtual_service_of(cluster, name), name)
    return ignore_differences(endpoint, cluster.get("DestinationRule", name))
