"""Everything that should run and be configured, from the objects. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mlflow_istio.adapters.local.envoy import documents
from mlflow_istio.adapters.local.envoy.balancing import Hashes, hashes
from mlflow_istio.adapters.local.envoy.clusters import clusters, service_ports
from mlflow_istio.adapters.local.envoy.route_table import route_configuration
from mlflow_istio.adapters.local.envoy.types import Config
from mlflow_istio.adapters.local.free_ports import PortBook
from mlflow_istio.adapters.local.replicas import Replica, endpoints, planned
from mlflow_istio.adapters.local.workloads import workload
from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.mesh.delegation import delegates_of, is_delegate, merged


@dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """What one pass makes true.

    Attributes:
        replicas: All replicas with their phases.
        ports: The ports that stay.
        hashes: What routes hash.
        clusters: Envoy's clusters.
        routes: Envoy's routes by VirtualService that has hosts, those of its delegates included.
        listeners: Envoy's listeners.
        open_ports: Port of each VirtualService that has hosts.
    """

    replicas: Sequence[Replica]
    ports: PortBook
    hashes: Hashes
    clusters: Sequence[Config]
    routes: Mapping[str, Config]
    listeners: Sequence[Config]
    open_ports: Mapping[str, int]


def blueprint(
    *,
    objects: Mapping[str, Mapping[str, Object]],
    replicas: Sequence[Replica],
    ready: Collection[str],
    ports: PortBook,
    new_port: Callable[[], int],
    folder: PurePosixPath,
) -> Blueprint:
    """Work out what follows from the objects.

    Args:
        objects: All objects, by kind and name.
        replicas: The replicas that there are.
        ready: Names of those that answer their readiness check; only those waiting matter.
        ports: The ports that stay.
        new_port: Gives a free port.
        folder: Absolute path of Envoy's folder.

    Raises:
        Unsupported: A field that the local mesh can't carry out; names its path.
        InvalidInput: A value that can't be right.
        StateConflict: Two objects claim one host.
    """
    next_replicas = _replicas(objects["Deployment"], replicas, ready, new_port)
    virtual_services = objects["VirtualService"]
    documents.check_hosts(list(virtual_services.values()))
    known_ports = {name: service_ports(service) for name, service in objects["Service"].items()}
    destination_rules = list(objects["DestinationRule"].values())
    made_clusters = clusters(list(objects["Service"].values()), destination_rules, endpoints(next_replicas))
    hashed = hashes(destination_rules)
    routes = {}
    for name, obj in virtual_services.items():
        alone = route_configuration(obj, known_ports, hashed)  # a delegate by itself, too: errors name its own fields
        if not is_delegate(obj):
            whole = merged(obj, virtual_services.get)
            routes[name] = route_configuration(whole, known_ports, hashed) if delegates_of(obj) else alone
    added = {name: new_port() for name in routes if name not in ports.endpoints}
    next_ports = replace(ports, endpoints={**ports.endpoints, **added})
    open_ports = {name: next_ports.endpoints[name] for name in routes}
    return Blueprint(
        replicas=next_replicas,
        ports=next_ports,
        hashes=hashed,
        clusters=made_clusters,
        routes=routes,
        listeners=documents.listeners(open_ports, folder, statistics=ports.statistics),
        open_ports=open_ports,
    )


def _replicas(
    deployments: Mapping[str, Object],
    replicas: Sequence[Replica],
    ready: Collection[str],
    new_port: Callable[[], int],
) -> list[Replica]:
    workloads = {name: workload(deployment) for name, deployment in deployments.items()}
    result = []
    for name in sorted({*workloads, *(replica.deployment for replica in replicas)}):
        mine = [replica for replica in replicas if replica.deployment == name]
        result += planned(workloads.get(name), mine, ready, new_port)
    return result
