"""Services of others that stand behind an adopted route: one that its owner has deleted gets nobody of ours.

A host may be outside of the cluster, and no Service of it anywhere (``ServiceEntry``). So what counts is that there was one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Destination
from mlflow_istio.core.matching.places import service_of
from mlflow_istio.core.moves.gaining import owners_gaining
from mlflow_istio.errors import StateConflict
from mlflow_istio.ports.cluster import Cluster
from mlflow_istio.releases.context import Context


class NobodyThere(StateConflict):
    """Whoever would get traffic is gone: a deployment of ours, or a Service of the owner's."""


def services_behind(cluster: Cluster, hosts: Iterable[str]) -> tuple[str, ...]:
    """Those hosts behind which a Service of the target's namespace stands now."""
    services = []
    for host in dict.fromkeys(hosts):
        name = service_of(host, cluster.scope)
        if name is not None and cluster.get("Service", name) is not None:
            services.append(host)
    return tuple(services)


def noted_services(cluster: Cluster, endpoint: Endpoint) -> tuple[str, ...]:
    """Hosts of the owner's that have come into an adopted route since, and behind which a Service stands now."""
    if endpoint.adopted is None:
        return ()
    known = endpoint.adopted.services
    return services_behind(
        cluster, (destination.host for destination in _theirs(endpoint) if destination.host not in known)
    )


def with_services(endpoint: Endpoint, hosts: Iterable[str]) -> Endpoint:
    """The endpoint that remembers that Services stood behind these hosts, too."""
    if endpoint.adopted is None:
        return endpoint
    services = tuple(sorted({*endpoint.adopted.services, *hosts}))
    return replace(endpoint, adopted=replace(endpoint.adopted, services=services))


def gone_services(cluster: Cluster, endpoint: Endpoint, destinations: Iterable[Destination]) -> Iterator[Destination]:
    """Destinations of the owner's whose Service was there and is gone."""
    known = endpoint.adopted.services if endpoint.adopted else ()
    for destination in destinations:
        asked = destination.host in known and not endpoint.owns(destination)
        if asked and not services_behind(cluster, (destination.host,)):
            yield destination


def check_owners_services(context: Context, before: Endpoint, after: Endpoint) -> None:
    """Refuse to send more users to a Service of the owner's that is gone.

    Raises:
        NobodyThere: Names the destination and what to do.
    """
    for destination in gone_services(context.cluster, before, owners_gaining(before, after)):
        raise NobodyThere(
            f"'{destination.name}', which users of endpoint '{before.name}' had, gets no traffic: Service "
            f"'{service_of(destination.host, context.cluster.scope)}' was deleted since route '{before.route}' was adopted; put it "
            "back, or another destination into the route, or force it"
        )


def _theirs(endpoint: Endpoint) -> Iterator[Destination]:
    yield from (share.destination for share in endpoint.traffic.split if not endpoint.owns(share.destination))
