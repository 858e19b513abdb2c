"""An endpoint comes into being: its routes, with all the traffic on its first deployment."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.endpoint.endpoint import Endpoint, Stamp, has_endpoint
from mlflow_istio.core.endpoint.traffic import Destination, Share, Traffic
from mlflow_istio.core.mesh.virtual_service import first_endpoint, read_endpoint
from mlflow_istio.errors import RegistryError, StateConflict
from mlflow_istio.releases.context import ROOT, Desk, Outcome, warned
from mlflow_istio.releases.deploying.sharing import HostShare, as_delegate, claim
from mlflow_istio.releases.ledger import catch_up, run_for
from mlflow_istio.releases.moving.proof import prove_change


def first(
    desk: Desk,
    name: str,
    deployment: str,
    label: str,
    virtual_service: Object,
    *,
    share: HostShare | None,
    root: str | None,
    hosts: tuple[str, ...],
    gateways: tuple[str, ...],
    settings: Mapping[str, str],
    reason: str,
    timeout: float,
) -> Outcome:
    """Make an endpoint's VirtualService and, under a shared host, let the root delegate to it.

    Args:
        desk: The ports.
        name: The endpoint.
        deployment: Its first deployment.
        label: ``MODEL/VERSION`` that the deployment serves.
        virtual_service: The fresh VirtualService, without routes.
        share: Its part of a shared host, or None.
        root: Name of the VirtualService that has the shared host, or None.
        hosts: Hosts of a root that has to be made.
        gateways: Gateways of such a root.
        settings: Small settings of the endpoint.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.

    Raises:
        StateConflict: It came into being meanwhile.
        NotRouted: A proxy did not take it over in time.
    """
    run, warnings = run_for(desk, name, None)
    own = Destination(host=name, subset=deployment)
    fresh = Endpoint(
        name=name,
        traffic=Traffic(split=(Share(destination=own, weight=100),), pins=(deployment,)),
        stable=own,
        route=f"mlflow-istio.{name}.split",
        settings={**settings, **({ROOT: root} if root else {})},
        sequence=last_sequence(desk, name),
    )
    stamp = Stamp(
        id=desk.new_id(),
        time=desk.clock.now(),
        who=desk.who,
        action="deploy",
        reason=reason,
        run=run,
        versions={deployment: label},
    )
    bare = as_delegate(virtual_service) if share else virtual_service

    def create(found: Object | None) -> Object:
        if found is None:
            return first_endpoint(bare, fresh, stamp)
        if has_endpoint(found, name) and read_endpoint(found, name).has_change(stamp.id):
            return found  # a lost reply
        raise StateConflict(f"endpoint '{name}' came into being meanwhile: run the same command again")

    _, after = desk.cluster.edit("VirtualService", name, create)
    if share is not None:
        claim(desk, name, share, hosts, gateways)
    endpoint = read_endpoint(after, name)
    proxies = prove_change(desk, endpoint, timeout, after)
    warnings += catch_up(desk, name, objects={stamp.id: {"after": after}})
    return Outcome(endpoint=endpoint, changed=True, proxies=proxies, warnings=warned(desk, warnings))


def last_sequence(desk: Desk, name: str) -> int:
    """Where the count stands if an endpoint of this name was deleted before; its history goes on."""
    try:
        return max((change.sequence for change in desk.registry.history(desk.scope, name)), default=0)
    except RegistryError as exc:
        desk.tell(
            f"the history of endpoint '{name}' could not be read, so its changes are counted from 1 ({exc.message})"
        )
        return 0
