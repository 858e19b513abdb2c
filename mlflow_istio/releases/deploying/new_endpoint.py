"""An endpoint that comes into being with its first deployment, which gets all the traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlflow_istio.core.basics.objects import Object, prefix
from mlflow_istio.core.endpoint.endpoint import Endpoint, has_endpoint
from mlflow_istio.core.endpoint.traffic import Destination, Traffic, WeightedDestination, attached_host
from mlflow_istio.core.mesh.virtual_service import first_endpoint, read_endpoint, with_guard
from mlflow_istio.core.policy.settings import NO_POLICY
from mlflow_istio.errors import RegistryError, StateConflict
from mlflow_istio.releases.context import (
    CLAIM,
    ROOT,
    Context,
    Outcome,
    emit_warnings,
    guard_for,
    new_change,
    one_carrier,
)
from mlflow_istio.releases.deploying.sharing import HostShare, as_delegate, claim
from mlflow_istio.releases.ledger import flush_outbox, run_for
from mlflow_istio.releases.moving.proof import prove_change


def create_endpoint(
    context: Context,
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
    pins: str | None,
    reason: str,
    timeout: float,
    named: str | None = None,
    attached: bool = False,
) -> Outcome:
    """Make an endpoint's VirtualService and, under a shared host, let the root delegate to it.

    Args:
        context: The ports.
        name: The endpoint.
        deployment: Its first deployment.
        label: ``MODEL/VERSION`` that the deployment serves.
        virtual_service: The fresh VirtualService, without routes.
        share: Its part of a shared host, or None.
        root: Name of the VirtualService that has the shared host, or None.
        hosts: Hosts of a root that has to be made.
        gateways: Gateways of such a root.
        settings: Small settings of the endpoint.
        pins: ``guarded``, ``open``, or None: guarded where there is a gateway.
        reason: Why, for the ledger.
        timeout: Seconds for the proxies to confirm.
        named: As in ``transitions.pin``.
        attached: Likewise.

    Raises:
        StateConflict: It came into being meanwhile.
        NotRouted: A proxy did not take it over in time.
    """
    one_carrier(context, name, refuse=False)
    run, warnings = run_for(context, name, None)
    own = Destination(host=attached_host(deployment) if attached else name, subset=deployment)
    fresh = Endpoint(
        name=name,
        traffic=Traffic(
            split=(WeightedDestination(destination=own, weight=100),),
            pins=(deployment,),
            policy=replace(NO_POLICY, versions={deployment: named} if named else {}),
        ),
        stable=own,
        route=f"{prefix(name)}split",
        settings={**settings, **({ROOT: root} if root else {}), **({CLAIM: share.claim.as_text()} if share else {})},
        sequence=last_sequence(context, name),
        attached=(deployment,) if attached else (),
        guard=guard_for(context, pins),
    )
    change_metadata = new_change(context, "deploy", reason=reason, run=run, versions={deployment: label})
    before_it = context.cluster.get("VirtualService", root) if root else None
    fresh = with_guard(fresh, change_metadata, virtual_service, before_it or {})
    bare = as_delegate(virtual_service) if share else virtual_service

    def create(present: Object | None) -> Object:
        if present is None:
            return first_endpoint(bare, fresh, change_metadata)
        if has_endpoint(present, name) and read_endpoint(present, name).has_change(change_metadata.id):
            return present  # a lost reply
        raise StateConflict(f"endpoint '{name}' came into being meanwhile: run the same command again")

    _, after = context.cluster.edit("VirtualService", name, create)
    if share is not None:
        claim(context, name, share, hosts, gateways)
    endpoint = read_endpoint(after, name)
    proof = prove_change(context, endpoint, timeout, after)
    warnings += proof.warnings
    warnings += flush_outbox(context, name, objects={change_metadata.id: {"after": after}})
    return Outcome(endpoint=endpoint, changed=True, proxies=proof.proxies, warnings=emit_warnings(context, warnings))


def last_sequence(context: Context, name: str) -> int:
    """Where the count stands if an endpoint of this name was deleted before; its history goes on."""
    try:
        return max((change.sequence for change in context.registry.history(context.scope, name)), default=0)
    except RegistryError as exc:
        context.tell(
            f"the history of endpoint '{name}' could not be read, so its changes are counted from 1 ({exc.message})"
        )
        return 0
