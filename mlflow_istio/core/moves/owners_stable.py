"""A stable that is its owner's: where its requests go today, after the owner has renamed it, moved it or split it.

The owner of an adopted route may turn ``web`` into ``web2`` at any time. What the endpoint remembers is then a name and no place:
nothing of ours may send anybody there.
"""

from __future__ import annotations

from dataclasses import replace

from mlflow_istio.core.endpoint.endpoint import Endpoint
from mlflow_istio.core.endpoint.traffic import Destination, WeightedDestination
from mlflow_istio.errors import StateConflict


def with_present_stable(endpoint: Endpoint) -> Endpoint:
    """The endpoint whose stable is what its owner has in the route today; as it is where nothing of the owner's is left there.

    Raises:
        StateConflict: The owner has several destinations there, and it can't be told which of them is meant.
    """
    if endpoint.owns(endpoint.stable) or not _theirs(endpoint):
        return endpoint
    return replace(endpoint, stable=present(endpoint, endpoint.stable))


def present(endpoint: Endpoint, destination: Destination) -> Destination:
    """The destination as it stands in the route today: itself, or what its owner has put in its place.

    Raises:
        StateConflict: It is its owner's and not in the route any more, and what took its place can't be told; says what is there.
    """
    theirs = _theirs(endpoint)
    if endpoint.owns(destination) or any(share.destination == destination for share in theirs):
        return destination
    for choice in (
        theirs,
        [share for share in theirs if share.destination.host == destination.host],
        [share for share in theirs if share.weight],
    ):
        if len(choice) == 1:
            return choice[0].destination
    has = " and ".join(f"'{share.destination.name}'" for share in theirs) or "nothing of its owner's"
    raise StateConflict(
        f"'{destination.name}', which users of endpoint '{endpoint.name}' had, is not in route '{endpoint.route}' any more: it has "
        f"{has}; put '{destination.name}' or one other destination there, or give the route back with 'mlflow-istio "
        f"delete-endpoint {endpoint.name} --force'"
    )


def _theirs(endpoint: Endpoint) -> list[WeightedDestination]:
    return [share for share in endpoint.traffic.split if not endpoint.owns(share.destination)]
